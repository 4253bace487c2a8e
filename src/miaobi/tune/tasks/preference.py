"""Preferences: answers that people chose become likelier than those they rejected.

With Δ = [log π(y_w|x) - log π_ref(y_w|x)] - [log π(y_l|x) - log π_ref(y_l|x)], where w
was chosen, l rejected and π_ref is the base:

DPO   L = -(1 - ε) log σ(β Δ) - ε log σ(-β Δ)                              (Rafailov et al. 2023, arXiv:2305.18290; ε: cDPO)
ORPO  L = -log π(y_w|x) / |y_w| - β log σ(log odds(y_w) - log odds(y_l))   (Hong et al. 2024, arXiv:2403.07691; β is its λ)
      log odds(y) = p - log(1 - e^p),  p = log π(y|x) / |y|
KTO   L = λ_D [1 - σ(β (r - z))] for a good answer, λ_U [1 - σ(β (z - r))] for a bad one      (Ethayarajh et al. 2024, arXiv:2402.01306)
      r = log π(y|x) - log π_ref(y|x),  z = max(0, mean of r over questions with the answers of others)

DPO and ORPO learn from pairs. KTO learns from single answers with a thumb up or down;
of a pair it makes one of each.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from miaobi.core.errors import BadInput
from miaobi.core.language import say
from miaobi.data.text.shapes import Unusable
from miaobi.models.base import Base
from miaobi.nn.objective import Batch, Loss
from miaobi.tune.learner import Evaluation, Example, Features, Metric, Piece
from miaobi.tune.tasks.causal import writing_model
from miaobi.tune.text.packing import PackedLearner, Reader, by_sequence, layers_of, pack
from miaobi.tune.text.prompts import Question, fit, generate, prompt_format_of, row

NAME = "preference"
SUMMARY = "answers like those that people preferred", "按人们的偏好回答"
MODALITY, READER, MAKES = "text", "texts", "text"
EXAMPLE = '{"prompt": "...", "chosen": "...", "rejected": "..."}'
THUMBS = '{"prompt": "...", "completion": "...", "label": true}'
STILL = 1e-5
"""Margins below it are rounding: a row is not always read in the same batch."""
LIKED = {
    True: True,
    False: False,
    "true": True,
    "false": False,
    "1": True,
    "0": False,
    "up": True,
    "down": False,
    "👍": True,
    "👎": False,
}


@dataclass(frozen=True)
class Config:
    loss: Literal["dpo", "orpo", "kto"] = "dpo"
    """dpo and orpo for pairs; kto for single answers with a thumb up or down (and for pairs)."""
    beta: float = 0.1
    """How dear departing from the base is (dpo, kto); how much the preference weighs
    beside the chosen answer's likelihood (orpo).
    """
    label_smoothing: float = 0.0
    """For dpo: the share of pairs that may be labelled the wrong way round, in [0, 0.5)."""
    desirable_weight: float = 1.0
    """For kto: λ_D. Keep λ_D × thumbs up within 1 to 4/3 of λ_U × thumbs down."""
    undesirable_weight: float = 1.0
    """For kto: λ_U."""
    max_new_tokens: int = 64
    """Tokens of an answer that is shown beside the base's, at most."""

    def __post_init__(self) -> None:
        if self.beta <= 0 or not 0 <= self.label_smoothing < 0.5:
            name, value = (
                ("beta", self.beta)
                if self.beta <= 0
                else ("label_smoothing", self.label_smoothing)
            )
            raise BadInput(
                say(f"head.{name} is {value}.", f"head.{name} 为 {value}。"),
                say(
                    "beta is above 0, label_smoothing within [0, 0.5).",
                    "beta 应大于 0，label_smoothing 应在 [0, 0.5) 之间。",
                ),
            )
        if self.label_smoothing and self.loss != "dpo":
            raise BadInput(
                say(
                    f"head.label_smoothing belongs to dpo, not to {self.loss}.",
                    f"head.label_smoothing 只用于 dpo，不用于 {self.loss}。",
                ),
                say("Leave it out.", "请去掉它。"),
            )
        if (self.desirable_weight, self.undesirable_weight) != (
            1.0,
            1.0,
        ) and self.loss != "kto":
            raise BadInput(
                say(
                    f"head.desirable_weight and undesirable_weight belong to kto, not to {self.loss}.",
                    f"head.desirable_weight 与 undesirable_weight 只用于 kto，不用于 {self.loss}。",
                ),
                say("Leave them out.", "请去掉它们。"),
            )


def columns(record: Mapping[str, Any], config: Config) -> Mapping[str, Any]:
    """{"prompt", "chosen", "rejected"}, or {"prompt", "completion", "label"}; a prompt
    is a text or messages, an answer a text.
    """
    prompt = _prompt(record)
    if "chosen" in record and "rejected" in record:
        chosen, rejected = _answer(record, "chosen"), _answer(record, "rejected")
        if chosen == rejected:
            raise Unusable(
                say("chosen and rejected are the same.", "chosen 与 rejected 相同。"),
                say("Leave the record out.", "请去掉这条记录。"),
            )
        return {"prompt": prompt, "chosen": chosen, "rejected": rejected}
    if "completion" not in record or record.get("label") is None:
        raise Unusable(
            say(
                f"neither a pair nor a thumb; the columns are: {', '.join(map(str, record))}.",
                f"既不是成对回答，也没有好评差评；现有的列：{'、'.join(map(str, record))}。",
            ),
            f"{EXAMPLE} / {THUMBS}",
        )
    label = LIKED.get(
        record["label"].lower() if isinstance(record["label"], str) else record["label"]
    )
    if label is None:
        raise Unusable(
            say(f"label is {record['label']!r}.", f"label 为 {record['label']!r}。"),
            say("Write true or false.", "请写 true 或 false。"),
        )
    if config.loss != "kto":
        raise Unusable(
            say(
                f"{config.loss} learns from pairs; this is one answer with a thumb.",
                f"{config.loss} 需要成对的回答；这里只有一个带评价的回答。",
            ),
            "--head.loss kto",
        )
    return {
        "prompt": prompt,
        "completion": _answer(record, "completion"),
        "label": label,
    }


def _prompt(record: Mapping[str, Any]) -> Question:
    prompt = record.get("prompt")
    if (
        isinstance(prompt, list)
        and prompt
        and all(
            isinstance(turn, Mapping) and isinstance(turn.get("content"), str)
            for turn in prompt
        )
    ):
        return [
            {"role": str(turn.get("role")), "content": turn["content"]}
            for turn in prompt
        ]
    if not isinstance(prompt, str) or not prompt.strip():
        raise Unusable(say("no prompt.", "缺少 prompt。"), EXAMPLE)
    return prompt.strip()


def _answer(record: Mapping[str, Any], name: str) -> str:
    """A text, or the last of the messages that TRL writes there."""
    value = record[name]
    if isinstance(value, list) and value and isinstance(value[-1], Mapping):
        value = value[-1].get("content")
    if not isinstance(value, str) or not value.strip():
        raise Unusable(
            say(
                f"{name} is {value!r:.40}, not a text.",
                f"{name} 为 {value!r:.40}，不是文本。",
            ),
            EXAMPLE,
        )
    return value.strip()


def question(columns: Mapping[str, Any]) -> Mapping[str, Any]:
    return {"prompt": columns["prompt"]}


group = question


def survey(examples: Sequence[Example], config: Config) -> Mapping[str, Any]:
    pairs = sum("chosen" in example.columns for example in examples)
    up = sum(example.columns.get("label") is True for example in examples)
    down = len(examples) - pairs - up
    if not pairs and not (up and down):
        only = say("up", "好评") if up else say("down", "差评")
        raise BadInput(
            say(
                f"All {len(examples)} thumbs are {only}.",
                f"全部 {len(examples)} 条都是{only}。",
            ),
            say("Give thumbs of both kinds.", "请同时提供好评与差评。"),
        )
    return {"pairs": pairs, "up": up, "down": down}


def check(example: Example, spec: Mapping[str, Any], config: Config) -> None:
    """Every preference can be learned."""


def learner(base: Base, spec: Mapping[str, Any], config: Config) -> Preferring:
    return Preferring(
        writing_model(base), base, config, thumbs=bool(spec["up"] or spec["down"])
    )


class Preferring(PackedLearner):
    """A causal language model beside what it was.

    Rows of a batch: first the chosen answer of every example (or its only one), then
        the rejected answers; for KTO then each question with the answer of the example
        after it. Keys: `rejects` [B], whether there is a rejected answer; `liked` [B];
        `reference` [rows], log π_ref, which `prepare` adds.
    """

    def __init__(
        self, net: nn.Module, base: Base, config: Config, thumbs: bool
    ) -> None:
        super().__init__(net)
        self.base, self.prompt_format, self.config, self.thumbs = (
            base,
            prompt_format_of(base),
            config,
            thumbs,
        )
        self.blocks = layers_of(net)
        self._known = dict[int, float]()
        # In a tuple, so that it is no part of what is trained and saved.
        self._beside: tuple[Reader, ...] = ()

    @contextmanager
    def reference(self) -> Iterator[Reader]:
        """The base: the net with its adapters switched off, or where there are none,
        the base's weights loaded once more. At rest.
        """
        from peft import PeftModel

        training = self.net.training
        self.net.eval()
        try:
            if isinstance(self.net, PeftModel) and not self.reader.prompted:
                with self.net.disable_adapter():
                    yield self.reader
            else:
                if not self._beside:
                    # A learned prompt stands before a net that is the base as it was.
                    net = (
                        self.net.get_base_model()
                        if isinstance(self.net, PeftModel)
                        else writing_model(self.base).requires_grad_(False)
                    )
                    self._beside = (Reader(net.to(self.device).eval()),)
                yield self._beside[0]
        finally:
            self.net.train(training)

    def length(self, columns: Mapping[str, Any]) -> int:
        question = self.prompt_format.question(columns["prompt"])
        return len(question) + max(
            len(self.prompt_format.answer(columns["prompt"], columns[name]))
            for name in ("chosen", "rejected", "completion")
            if name in columns
        )

    def encode(self, columns: Mapping[str, Any], max_length: int) -> Features:
        question = self.prompt_format.question(columns["prompt"])
        answers = [
            self.prompt_format.answer(columns["prompt"], columns[name])
            for name in ("chosen", "rejected", "completion")
            if name in columns
        ]
        longest = max(answers, key=len)
        # Both answers of a pair stand behind the same question, as much of it as leaves
        # room for the longer one.
        asked, _ = fit(question, longest, max_length)
        room = max_length - len(asked) if max_length else len(longest)
        first, *second = (np.array(answer[:room], dtype=np.int64) for answer in answers)
        return {
            "asked": asked,
            "chosen": first,
            "liked": np.array(columns.get("label", True)),
            **({"rejected": second[0]} if second else {}),
        }

    def collate(self, features: Sequence[Features]) -> Batch:
        pairs = [item for item in features if "rejected" in item]
        rows = [row(item["asked"], item["chosen"]) for item in features] + [
            row(item["asked"], item["rejected"]) for item in pairs
        ]
        if self.config.loss == "kto" and len(features) > 1:
            rows += [
                row(item["asked"], features[(place + 1) % len(features)]["chosen"])
                for place, item in enumerate(features)
            ]
        return {
            **pack(rows, share=self.shares_prefix),
            "rejects": torch.tensor(["rejected" in item for item in features]),
            "liked": torch.tensor([bool(item["liked"]) for item in features]),
            "row": torch.tensor([_digest(ids, learned) for ids, learned in rows]),
        }

    def prepare(self, batch: Batch) -> Batch:
        """Adds what the base says of each row; it is asked for a row once."""
        if self.config.loss == "orpo":
            return batch
        keys = batch["row"].tolist()
        if any(key not in self._known for key in keys):
            with torch.no_grad(), self.reference() as reader:
                sums, _ = _likelihoods(reader, batch)
            self._known.update(zip(keys, sums.tolist()))
        return {
            **batch,
            "reference": torch.tensor(
                [self._known[key] for key in keys], device=self.device
            ),
        }

    def losses(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """(loss, margin, per-token log-likelihood of the chosen less that of the
        rejected answer), each [B]; the margin is β Δ for pairs and β r for thumbs with
        `reference`, 0 without; the last is 0 for thumbs.
        """
        sums, counts = _likelihoods(self.reader, batch)
        examples, rejects = len(batch["liked"]), batch["rejects"]
        pairs, beta = int(rejects.sum()), self.config.beta
        chosen, rejected = sums[:examples], sums[examples : examples + pairs]
        means = sums / counts
        preferred = torch.zeros(examples, device=sums.device)
        preferred[rejects] = (
            means[:examples][rejects] - means[examples : examples + pairs]
        ).detach()
        if self.config.loss == "orpo":
            odds = _log_odds(means[:examples]) - _log_odds(
                means[examples : examples + pairs]
            )
            return (
                -means[:examples] - beta * F.logsigmoid(odds),
                torch.zeros_like(chosen),
                preferred,
            )
        gained = chosen - batch["reference"][:examples]
        lost = rejected - batch["reference"][examples : examples + pairs]
        margin = gained.clone()
        margin[rejects] = gained[rejects] - lost
        if self.config.loss == "dpo":
            smooth = self.config.label_smoothing
            losses = -(1 - smooth) * F.logsigmoid(
                beta * margin
            ) - smooth * F.logsigmoid(-beta * margin)
            return losses, beta * margin, preferred
        others = (sums - batch["reference"])[examples + pairs :].detach()
        drift = others.mean().clamp(min=0) if len(others) else sums.new_zeros(())
        return self._thumbs(gained, lost, drift, batch), beta * margin, preferred

    def _thumbs(
        self, gained: Tensor, lost: Tensor, drift: Tensor, batch: Batch
    ) -> Tensor:
        """KTO's loss of each example; of a pair, the sum over both answers."""
        beta, liked = self.config.beta, batch["liked"]
        up = self.config.desirable_weight * (1 - torch.sigmoid(beta * (gained - drift)))
        down = self.config.undesirable_weight * (
            1 - torch.sigmoid(beta * (drift - gained))
        )
        losses = torch.where(liked, up, down)
        losses[batch["rejects"]] = losses[
            batch["rejects"]
        ] + self.config.undesirable_weight * (1 - torch.sigmoid(beta * (drift - lost)))
        return losses

    def loss(self, batch: Batch) -> Loss:
        """Raises BadInput for KTO with single examples: z needs the answers of others."""
        if self.config.loss == "kto" and self.training and len(batch["liked"]) < 2:
            raise BadInput(
                say(
                    "kto compares each answer with those to other questions, and a batch holds one.",
                    "kto 需要与其他问题的回答比较，而每批只有一条。",
                ),
                "--train.batch_size 8",
            )
        losses, margin, _ = self.losses(batch)
        metrics = (
            {}
            if self.config.loss == "orpo"
            else {"margin": (margin * torch.where(batch["liked"], 1.0, -1.0)).sum()}
        )
        return Loss(losses.sum(), len(losses), metrics)

    def metrics(self) -> Sequence[Metric]:
        def mean(sums: np.ndarray) -> np.ndarray:
            return np.asarray(sums[..., 0] / sums[..., 1])

        found = []
        if not self.thumbs:
            found.append(
                Metric(
                    "preference_accuracy",
                    mean,
                    "higher",
                    (
                        "Likelier answer is the chosen one (per token)",
                        "每词元概率更高的是被选回答的比例",
                    ),
                )
            )
        if self.config.loss != "orpo":
            found += [
                Metric(
                    "reward_accuracy",
                    mean,
                    "higher",
                    (
                        "Moved the right way from the base (the base itself: 0.5)",
                        "相对基础模型变化方向正确的比例（基础模型为 0.5）",
                    ),
                ),
                Metric(
                    "margin",
                    mean,
                    "higher",
                    ("Margin β Δ", "间隔 β Δ"),
                    say("nats", "奈特"),
                ),
            ]
        return [*found, Metric("loss", mean, "lower", ("Loss", "损失"))]

    def evaluate(self, batch: Batch) -> list[Evaluation]:
        losses, margin, preferred = self.losses(self.prepare(batch))
        signed = margin * torch.where(batch["liked"], 1.0, -1.0)
        judged = list[Evaluation]()
        for loss, moved, likelier in zip(
            losses.tolist(), signed.tolist(), preferred.tolist()
        ):
            # What did not move, but for rounding, is half right.
            moved = moved if abs(moved) > STILL else 0.0
            counts = {
                "loss": np.array([loss, 1.0]),
                "margin": np.array([moved, 1.0]),
                "reward_accuracy": np.array([0.5 + 0.5 * np.sign(moved), 1.0]),
                "preference_accuracy": np.array([0.5 + 0.5 * np.sign(likelier), 1.0]),
            }
            judged.append(
                Evaluation(
                    loss,
                    {figure.name: counts[figure.name] for figure in self.metrics()},
                )
            )
        return judged

    def answer(self, columns: Mapping[str, Any]) -> str:
        return generate(
            self.net,
            [np.array(self.prompt_format.question(columns["prompt"]))],
            self.prompt_format,
            self.config.max_new_tokens,
        )[0]

    def preview(self, features: Features) -> list[Piece]:
        shown = [
            Piece(self.prompt_format.tokenizer.decode(features["asked"]), False),
            Piece(self.prompt_format.tokenizer.decode(features["chosen"]), True),
        ]
        if "rejected" in features:
            shown += [
                Piece(say("\n  rather than: ", "\n  而不是："), False),
                Piece(self.prompt_format.tokenizer.decode(features["rejected"]), True),
            ]
        return shown

    def save(self, folder: Path) -> None:
        self.prompt_format.tokenizer.save_pretrained(folder)


def _likelihoods(reader: Reader, batch: Batch) -> tuple[Tensor, Tensor]:
    """(log π(answer | question), tokens of the answer) of every row, [rows] each."""
    nats = by_sequence(batch, reader.nats(batch))
    return -torch.stack([row.sum() for row in nats]), torch.tensor(
        [len(row) for row in nats], device=nats[0].device
    )


def _log_odds(means: Tensor) -> Tensor:
    """log p - log(1 - p) for log p [B]."""
    return means - torch.log1p(-means.exp().clamp(max=1 - 1e-6))


def _digest(ids: np.ndarray, learned: np.ndarray) -> int:
    """A number for a row, which tells it from others (63 bits)."""
    import hashlib

    return (
        int.from_bytes(
            hashlib.blake2b(ids.tobytes() + learned.tobytes(), digest_size=8).digest(),
            "big",
        )
        >> 1
    )
