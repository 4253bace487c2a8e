"""Preferences: answers that people chose become likelier than those they rejected.

With Δ = [log π(y_w|x) - log π_ref(y_w|x)] - [log π(y_l|x) - log π_ref(y_l|x)], where w
was chosen, l rejected and π_ref is the base:

DPO   L = -(1 - ε) log σ(β Δ) - ε log σ(-β Δ)
      Rafailov et al. 2023, arXiv:2305.18290; ε: cDPO
ORPO  L = -log π(y_w|x) / |y_w| - β log σ(log odds(y_w) - log odds(y_l))
      log odds(y) = p - log(1 - e^p),  p = log π(y|x) / |y|
      Hong et al. 2024, arXiv:2403.07691; β is its λ
KTO   L = λ_D [1 - σ(β (r - z))] for a good answer, λ_U [1 - σ(β (z - r))] for a bad one
      r = log π(y|x) - log π_ref(y|x)
      z = max(0, mean of r over questions with the answers of others)
      Ethayarajh et al. 2024, arXiv:2402.01306

DPO and ORPO learn from pairs. KTO learns from single answers with a thumb up or down;
of a pair it makes one of each.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from miaobi.core.errors import BadInput
from miaobi.core.language import in_each, say
from miaobi.data.text.shapes import Record, Unusable, pair, thumb
from miaobi.models.base import Base
from miaobi.nn.objective import Batch, Loss
from miaobi.tune.heads import PreferenceHead as Config
from miaobi.tune.learner import Evaluation, Example, Features, Metric, Piece
from miaobi.tune.tasks.causal import writing_model
from miaobi.tune.text.metrics import mean
from miaobi.tune.text.packing import PackedLearner, Reader, by_sequence, layers_of, pack
from miaobi.tune.text.prompts import fit, generate, prompt_format_of, row

NAME = "preference"
SUMMARY = "answers like those that people preferred", "按人们的偏好回答"
MODALITY = "text"
READER = "labelled/texts"
MAKES = "text"
ASK = "--prompt ..."
EXAMPLE = '{"prompt": "...", "chosen": "...", "rejected": "..."}'
THUMBS = '{"prompt": "...", "completion": "...", "label": true}'
ROUNDING = 1e-5
"""Margins below it are rounding: a row is not always read in the same batch."""
ANSWERS = ("chosen", "rejected", "completion")
"""Columns that hold answers."""


def columns(record: Mapping[str, Any], config: Config) -> Mapping[str, Any]:
    """Return {"prompt", "chosen", "rejected"}, or {"prompt", "completion", "label"}.

    A prompt is a text or messages, an answer a text.
    """
    record = Record.of(record)
    compared = pair(record)
    if compared is not None:
        return {
            "prompt": compared.question,
            "chosen": compared.chosen,
            "rejected": compared.rejected,
        }
    judged = thumb(record)
    if judged is None:
        raise Unusable(
            say(
                f"neither a pair nor a thumb; the columns are: {', '.join(map(str, record))}.",
                f"既不是成对回答，也没有好评差评；现有的列：{'、'.join(map(str, record))}。",
            ),
            f"{EXAMPLE} / {THUMBS}",
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
        "prompt": judged.question,
        "completion": judged.answer,
        "label": judged.liked,
    }


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
            in_each(
                lambda: say(
                    f"All {len(examples)} thumbs are {only}.",
                    f"全部 {len(examples)} 条都是{only}。",
                )
            ),
            say("Give thumbs of both kinds.", "请同时提供好评与差评。"),
        )
    return {"pairs": pairs, "up": up, "down": down}


def check(example: Example, spec: Mapping[str, Any], config: Config) -> None:
    """Every preference can be learned."""


def learner(base: Base, spec: Mapping[str, Any], config: Config) -> PreferenceLearner:
    has_thumbs = bool(spec["up"] or spec["down"])
    return PreferenceLearner(writing_model(base), base, config, has_thumbs)


class Losses(NamedTuple):
    """Of each example of a batch, [B] each."""

    losses: Tensor
    margins: Tensor
    """β Δ for pairs and β r for thumbs; 0 for ORPO, which has no reference."""
    preferred: Tensor
    """Log-likelihood per token of the chosen answer less that of the rejected one; 0
    for thumbs.
    """


class PreferenceLearner(PackedLearner):
    """A causal language model, compared with what it was.

    Rows of a batch: first the chosen answer of every example (or its only one), then
    the rejected answers; for KTO then each question with the answer of the example
    after it. Keys: `has_rejected` [B]; `liked` [B]; `row` [rows], a digest; and
    `reference` [rows], log π_ref, which `prepare` adds.
    """

    writes = True

    def __init__(
        self, net: nn.Module, base: Base, config: Config, has_thumbs: bool
    ) -> None:
        super().__init__(net)
        self.base = base
        self.prompt_format = prompt_format_of(base)
        self.config = config
        self.has_thumbs = has_thumbs
        self.blocks = layers_of(net)
        self._reference_sums = dict[int, float]()
        """log π_ref by the digest of a row."""
        # In a tuple, so that it is no part of what is trained and saved.
        self._reference_readers: tuple[Reader, ...] = ()

    @contextmanager
    def reference(self) -> Iterator[Reader]:
        """Yield the base, in evaluation mode.

        It is the net with its adapters switched off, or, where there are none, the
        base's weights loaded once more.
        """
        from peft import PeftModel

        training = self.net.training
        self.net.eval()
        try:
            if isinstance(self.net, PeftModel) and not self.reader.prompted:
                with self.net.disable_adapter():
                    yield self.reader
            else:
                yield self._loaded_reference()
        finally:
            self.net.train(training)

    def _loaded_reference(self) -> Reader:
        from peft import PeftModel

        if not self._reference_readers:
            if isinstance(self.net, PeftModel):
                # A learned prompt stands before a net that is the base as it was.
                net = self.net.get_base_model()
            else:
                net = writing_model(self.base).requires_grad_(False)
            self._reference_readers = (Reader(net.to(self.device).eval()),)
        return self._reference_readers[0]

    def _answers(self, columns: Mapping[str, Any]) -> list[list[int]]:
        """Return the tokens of the answers: chosen and rejected, or the only one."""
        return [
            self.prompt_format.answer(columns["prompt"], columns[name])
            for name in ANSWERS
            if name in columns
        ]

    def unwritten(self, columns: Mapping[str, Any]) -> frozenset[str]:
        return self.prompt_format.unwritten(columns["prompt"])

    def length(self, columns: Mapping[str, Any]) -> int:
        question = self.prompt_format.question(columns["prompt"])
        return len(question) + max(map(len, self._answers(columns)))

    def loses_answer(self, columns: Mapping[str, Any], max_length: int) -> bool:
        return max(map(len, self._answers(columns))) >= max_length

    def encode(self, columns: Mapping[str, Any], max_length: int) -> Features:
        question = self.prompt_format.question(columns["prompt"])
        answers = self._answers(columns)
        longest = max(answers, key=len)
        # Both answers of a pair stand behind the same question, as much of it as the
        # longer one leaves space for.
        question_ids, _ = fit(question, longest, max_length)
        size = max_length - len(question_ids) if max_length else len(longest)
        names = ("chosen", "rejected")
        return {
            "question": question_ids,
            "liked": np.array(columns.get("label", True)),
            **{
                name: np.array(answer[:size], dtype=np.int64)
                for name, answer in zip(names, answers)
            },
        }

    def collate(self, features: Sequence[Features]) -> Batch:
        rows = [row(item["question"], item["chosen"]) for item in features]
        rows += [
            row(item["question"], item["rejected"])
            for item in features
            if "rejected" in item
        ]
        if self.config.loss == "kto" and len(features) > 1:
            others = [*features[1:], features[0]]
            rows += [
                row(item["question"], other["chosen"])
                for item, other in zip(features, others, strict=True)
            ]
        return {
            **pack(rows, share=self.shares_prefix),
            "has_rejected": torch.tensor(["rejected" in item for item in features]),
            "liked": torch.tensor([bool(item["liked"]) for item in features]),
            "row": torch.tensor([_digest(ids, learned) for ids, learned in rows]),
        }

    def prepare(self, batch: Batch) -> Batch:
        """Return the batch with the base's log-likelihood of each row.

        The base reads a row once.
        """
        if self.config.loss == "orpo":
            return batch
        keys = batch["row"].tolist()
        if any(key not in self._reference_sums for key in keys):
            with self.reference() as reader:
                sums, _ = _likelihoods(reader, batch)
            self._reference_sums.update(zip(keys, sums.tolist()))
        reference = [self._reference_sums[key] for key in keys]
        return {**batch, "reference": torch.tensor(reference, device=self.device)}

    def losses(self, batch: Batch) -> Losses:
        """Return the losses of a prepared batch."""
        sums, counts = _likelihoods(self.reader, batch)
        has_rejected = batch["has_rejected"]
        examples = len(has_rejected)
        answers = examples + int(has_rejected.sum())
        means = sums / counts
        preferred = torch.zeros(examples, device=sums.device)
        gaps = means[:examples][has_rejected] - means[examples:answers]
        preferred[has_rejected] = gaps.detach()
        if self.config.loss == "orpo":
            losses = self._orpo(means, examples, answers)
            return Losses(losses, torch.zeros_like(sums[:examples]), preferred)
        gained = sums[:examples] - batch["reference"][:examples]
        lost = sums[examples:answers] - batch["reference"][examples:answers]
        delta = gained.clone()
        delta[has_rejected] = gained[has_rejected] - lost
        if self.config.loss == "dpo":
            losses = self._dpo(delta)
        else:
            others = (sums - batch["reference"])[answers:].detach()
            drift = others.mean().clamp(min=0) if len(others) else sums.new_zeros(())
            losses = self._kto(gained, lost, drift, batch)
        return Losses(losses, self.config.beta * delta, preferred)

    def _orpo(self, means: Tensor, examples: int, answers: int) -> Tensor:
        """Return ORPO's losses of log-likelihoods per token, those of chosen answers
        first.
        """
        odds = _log_odds(means[:examples]) - _log_odds(means[examples:answers])
        return -means[:examples] - self.config.beta * F.logsigmoid(odds)

    def _dpo(self, delta: Tensor) -> Tensor:
        """Return DPO's losses of Δ."""
        beta = self.config.beta
        smoothing = self.config.label_smoothing
        right = -(1 - smoothing) * F.logsigmoid(beta * delta)
        return right - smoothing * F.logsigmoid(-beta * delta)

    def _kto(self, gained: Tensor, lost: Tensor, drift: Tensor, batch: Batch) -> Tensor:
        """Return KTO's loss of each example; of a pair, the sum over both answers.

        Args:
            gained: r of the chosen or only answers, [B].
            lost: r of the rejected answers.
            drift: z.
            batch: Which answers people liked, and which have a rejected one.
        """
        config = self.config
        has_rejected = batch["has_rejected"]
        good = 1 - torch.sigmoid(config.beta * (gained - drift))
        up = config.desirable_weight * good
        bad = 1 - torch.sigmoid(config.beta * (drift - gained))
        down = config.undesirable_weight * bad
        losses = torch.where(batch["liked"], up, down)
        rejected = 1 - torch.sigmoid(config.beta * (drift - lost))
        of_pairs = losses[has_rejected] + config.undesirable_weight * rejected
        losses[has_rejected] = of_pairs
        return losses

    def loss(self, batch: Batch) -> Loss:
        """Return the loss of a prepared batch.

        Raises BadInput for KTO with single examples: z needs the answers of others.
        """
        count = len(batch["liked"])
        if self.config.loss == "kto" and self.training and count < 2:
            raise BadInput(
                say(
                    "kto compares each answer with those to other questions, and a batch holds one.",
                    "kto 需要与其他问题的回答比较，而每批只有一条。",
                ),
                "--train.batch_size 8",
            )
        losses, margins, _ = self.losses(batch)
        if self.config.loss == "orpo":
            return Loss(losses.sum(), count)
        return Loss(losses.sum(), count, {"margin": _signed(margins, batch).sum()})

    def metrics(self) -> Sequence[Metric]:
        metrics = list[Metric]()
        if not self.has_thumbs:
            label = (
                "Likelier answer is the chosen one (per token)",
                "每词元概率更高的是被选回答的比例",
            )
            metrics.append(Metric("preference_accuracy", mean, "higher", label))
        if self.config.loss != "orpo":
            label = (
                "Moved the right way from the base (the base itself: 0.5)",
                "相对基础模型变化方向正确的比例（基础模型为 0.5）",
            )
            metrics.append(Metric("reward_accuracy", mean, "higher", label))
            label = ("Margin β Δ", "间隔 β Δ")
            unit = say("nats", "奈特")
            metrics.append(Metric("margin", mean, "higher", label, unit))
        metrics.append(Metric("loss", mean, "lower", ("Loss", "损失")))
        return metrics

    def evaluate(self, batch: Batch) -> list[Evaluation]:
        losses, margins, preferred = self.losses(batch)
        names = [metric.name for metric in self.metrics()]
        evaluations = list[Evaluation]()
        for loss, margin, gap in zip(
            losses.tolist(), _signed(margins, batch).tolist(), preferred.tolist()
        ):
            # What did not move, but for rounding, is half right.
            margin = margin if abs(margin) > ROUNDING else 0.0
            counts = {
                "loss": np.array([loss, 1.0]),
                "margin": np.array([margin, 1.0]),
                "reward_accuracy": np.array([0.5 + 0.5 * np.sign(margin), 1.0]),
                "preference_accuracy": np.array([0.5 + 0.5 * np.sign(gap), 1.0]),
            }
            evaluations.append(Evaluation(loss, {name: counts[name] for name in names}))
        return evaluations

    def answer(self, columns: Mapping[str, Any]) -> str:
        question = np.array(self.prompt_format.question(columns["prompt"]))
        answers = generate(
            self.net, [question], self.prompt_format, self.config.max_new_tokens
        )
        return answers[0]

    def preview(self, features: Features) -> list[Piece]:
        decode = self.prompt_format.tokenizer.decode
        pieces = [
            Piece(decode(features["question"]), False),
            Piece(decode(features["chosen"]), True),
        ]
        if "rejected" in features:
            pieces.append(Piece(say("\n  rather than: ", "\n  而不是："), False))
            pieces.append(Piece(decode(features["rejected"]), True))
        return pieces

    def save(self, folder: Path) -> None:
        self.prompt_format.tokenizer.save_pretrained(folder)


def _likelihoods(reader: Reader, batch: Batch) -> tuple[Tensor, Tensor]:
    """Return (log π(answer | question), tokens of the answer) of every row, [rows]."""
    nats = by_sequence(batch, reader.nats(batch))
    sums = -torch.stack([row.sum() for row in nats])
    return sums, torch.tensor([len(row) for row in nats], device=sums.device)


def _signed(margins: Tensor, batch: Batch) -> Tensor:
    """Return margins that are positive where the model moved the right way, [B]."""
    return margins * torch.where(batch["liked"], 1.0, -1.0)


def _log_odds(means: Tensor) -> Tensor:
    """Return log p - log(1 - p) for log p [B]."""
    return means - torch.log1p(-means.exp().clamp(max=1 - 1e-6))


def _digest(ids: np.ndarray, learned: np.ndarray) -> int:
    """Return 63 bits that distinguish a row from others."""
    digest = hashlib.blake2b(ids.tobytes() + learned.tobytes(), digest_size=8)
    return int.from_bytes(digest.digest(), "big") >> 1
