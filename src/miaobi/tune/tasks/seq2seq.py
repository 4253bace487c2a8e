"""Text to text: translation, summaries, rewriting. Head: the base's own output layer.

    L = -Σ_t log p(y_t | y_<t, x)      over the target alone

An encoder-decoder (T5, BART) reads the source in its encoder; a causal model is asked
with `head.prompt` and answers with the target.
Smoothed labels: (1 - ε) of the certainty on the right token, ε over all (Szegedy et al.
    2015, arXiv:1512.00567).
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
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
from miaobi.nn.language import MASKED
from miaobi.nn.objective import Batch, Loss
from miaobi.tune.learner import (
    Evaluation,
    Example,
    Features,
    Learner,
    Metric,
    Piece,
    padded,
)
from miaobi.tune.tasks.causal import writing_model
from miaobi.tune.text import overlap
from miaobi.tune.text.packing import PackedLearner, by_sequence, layers_of, pack
from miaobi.tune.text.prompts import (
    PromptFormat,
    fit,
    generate,
    prompt_format_of,
    row,
)

NAME = "seq2seq"
SUMMARY = (
    "a text from a text: translation, summaries",
    "由一段文本生成另一段文本：翻译、摘要",
)
MODALITY, MAKES, READER = "text", "text", "texts"
EXAMPLE = '{"source": "...", "target": "..."}'


@dataclass(frozen=True)
class Config:
    source: str = "source"
    """The column to read from: source, zh, text, ..."""
    target: str = "target"
    """The column to write: target, en, summary, ..."""
    prompt: str = "{source}"
    """How the base is asked; {source} stands for the source."""
    label_smoothing: float = 0.0
    """Share of certainty that is spread over all tokens, in [0, 1)."""
    metric: Literal["chrf", "bleu", "rouge_l", "loss"] = "chrf"
    """What models are compared by: chrf or bleu for translation, rouge_l for summaries."""
    max_new_tokens: int = 64
    """Longest answer when it is judged."""
    num_beams: int = 1
    """1 writes greedily; more search for the likeliest answer."""

    def __post_init__(self) -> None:
        if "{source}" not in self.prompt:
            raise BadInput(
                say(
                    f"head.prompt is {self.prompt!r}: the source would not be in it.",
                    f"head.prompt 为 {self.prompt!r}，其中没有原文。",
                ),
                say(
                    'Put {source} where it belongs: "Translate into English: {source}".',
                    '请在其中写上 {source}，例如 "翻译成英文：{source}"。',
                ),
            )
        if not 0 <= self.label_smoothing < 1:
            raise BadInput(
                say(
                    f"head.label_smoothing is {self.label_smoothing}.",
                    f"head.label_smoothing 为 {self.label_smoothing}。",
                ),
                say("Give a share in [0, 1).", "请给出 [0, 1) 之间的比例。"),
            )


def columns(record: Mapping[str, Any], config: Config) -> Mapping[str, Any]:
    found = dict[str, Any]()
    for ours, theirs in (("source", config.source), ("target", config.target)):
        value = record.get(theirs, record.get(ours))
        if not isinstance(value, str) or not value.strip():
            listed = ", ".join(map(str, record))
            raise Unusable(
                say(
                    f"no text in the column {theirs!r}; there are: {listed}.",
                    f"{theirs!r} 列没有文本；现有的列：{listed}。",
                ),
                say(
                    f"Name the columns with head.source and head.target. Expected {EXAMPLE}",
                    f"请用 head.source 与 head.target 指定列名。应为 {EXAMPLE}",
                ),
            )
        found[ours] = value.strip()
    return found


def question(columns: Mapping[str, Any]) -> Mapping[str, Any]:
    return {"source": columns["source"]}


group = question


def survey(examples: Sequence[Example], config: Config) -> Mapping[str, Any]:
    return {"count": len(examples)}


def check(example: Example, spec: Mapping[str, Any], config: Config) -> None:
    """Any source and any target can be learned."""


def learner(base: Base, spec: Mapping[str, Any], config: Config) -> Writer:
    from transformers import AutoModelForSeq2SeqLM

    if base.config.get("is_encoder_decoder"):
        return EncoderDecoder(
            base.model(AutoModelForSeq2SeqLM),
            PromptFormat(base.tokenizer, None),
            config,
        )
    return Causal(writing_model(base), prompt_format_of(base), config)


class Writer(Learner):
    """What the two kinds of base share: prompts, metrics, answers.

    Batches hold asked [B, S] and wanted [B, T]: the tokens of source and target, MASKED
    behind them; beside what the model reads.
    """

    unit = "tokens"

    def __init__(
        self, net: nn.Module, prompt_format: PromptFormat, config: Config
    ) -> None:
        super().__init__(net)
        self.prompt_format, self.config = prompt_format, config
        self.blocks = layers_of(net)

    def prompt(self, source: str) -> str:
        return self.config.prompt.replace("{source}", source)

    @abstractmethod
    def source_ids(self, source: str) -> list[int]:
        """A source as the model is asked."""

    @abstractmethod
    def target_ids(self, source: str, target: str) -> list[int]:
        """A target as the model is to write it, with its end."""

    @abstractmethod
    def logits(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """(logits [N, V], tokens [N]) of the targets."""

    @abstractmethod
    def nats(self, batch: Batch) -> list[Tensor]:
        """-log p of the tokens of each target."""

    def shortened(self, source: str, room: int) -> list[int]:
        """A source as the model is asked, cut at its end so that all of the prompt's
        own words stay.
        """
        ids = self.source_ids(source)
        while len(ids) > room and source:
            kept = self.prompt_format.tokenizer(
                source, add_special_tokens=False
            ).input_ids
            source = self.prompt_format.tokenizer.decode(
                kept[: max(0, len(kept) - (len(ids) - room))], skip_special_tokens=True
            )
            ids = self.source_ids(source)
        return ids

    def loss(self, batch: Batch) -> Loss:
        if not self.config.label_smoothing:
            nats = torch.cat(self.nats(batch))
            return Loss(nats.sum(), len(nats))
        logits, tokens = self.logits(batch)
        return Loss(
            F.cross_entropy(
                logits,
                tokens,
                reduction="sum",
                label_smoothing=self.config.label_smoothing,
            ),
            len(tokens),
        )

    def metrics(self) -> Sequence[Metric]:
        every = {
            **overlap.METRICS,
            "loss": Metric(
                "loss",
                lambda sums: sums[..., 0] / sums[..., 1],
                "lower",
                ("Loss", "损失"),
                say("nats/token", "奈特/词元"),
            ),
        }
        return [every.pop(self.config.metric), *every.values()]

    def evaluate(self, batch: Batch) -> list[Evaluation]:
        answers = self.write(
            [row[row != MASKED].cpu().numpy() for row in batch["asked"]]
        )
        judged = list[Evaluation]()
        for answer, wanted, nats in zip(answers, batch["wanted"], self.nats(batch)):
            reference = self.prompt_format.tokenizer.decode(
                wanted[wanted != MASKED], skip_special_tokens=True
            ).strip()
            counts = {
                **overlap.counts(answer, reference),
                "loss": np.array([float(nats.sum()), float(len(nats))]),
            }
            judged.append(Evaluation(float(nats.mean()), counts, answer))
        return judged

    def write(self, questions: Sequence[np.ndarray]) -> list[str]:
        return generate(
            self.net,
            questions,
            self.prompt_format,
            self.config.max_new_tokens,
            self.config.num_beams,
        )

    def answer(self, columns: Mapping[str, Any]) -> str:
        return self.write([np.array(self.source_ids(columns["source"]))])[0]

    def preview(self, features: Features) -> list[Piece]:
        asked, wanted = (
            self.prompt_format.tokenizer.decode(features[name])
            for name in ("asked", "wanted")
        )
        return [Piece(asked, False), Piece(wanted, True)]

    def save(self, folder: Path) -> None:
        self.prompt_format.tokenizer.save_pretrained(folder)


def _shown(features: Sequence[Features]) -> dict[str, Tensor]:
    return {
        name: padded([item[name] for item in features], MASKED)
        for name in ("asked", "wanted")
    }


class Causal(PackedLearner, Writer):
    def source_ids(self, source: str) -> list[int]:
        return self.prompt_format.question(self.prompt(source))

    def target_ids(self, source: str, target: str) -> list[int]:
        return self.prompt_format.answer(self.prompt(source), target)

    def length(self, columns: Mapping[str, Any]) -> int:
        return len(self.source_ids(columns["source"])) + len(
            self.target_ids(columns["source"], columns["target"])
        )

    def encode(self, columns: Mapping[str, Any], max_length: int) -> Features:
        target = self.target_ids(columns["source"], columns["target"])
        room = max(max_length - len(target), max_length // 2)
        source = (
            self.shortened(columns["source"], room)
            if max_length
            else self.source_ids(columns["source"])
        )
        asked, wanted = fit(source, target, max_length)
        return {"asked": asked, "wanted": wanted}

    def collate(self, features: Sequence[Features]) -> Batch:
        return {
            **pack(
                [row(item["asked"], item["wanted"]) for item in features],
                share=self.shares_prefix,
            ),
            **_shown(features),
        }

    def logits(self, batch: Batch) -> tuple[Tensor, Tensor]:
        return self.reader.logits(batch), batch["targets"][batch["targets"] != MASKED]

    def nats(self, batch: Batch) -> list[Tensor]:
        return by_sequence(batch, self.reader.nats(batch))


class EncoderDecoder(Writer):
    adapter_kind = "SEQ_2_SEQ_LM"

    def source_ids(self, source: str) -> list[int]:
        return list(self.prompt_format.tokenizer(self.prompt(source)).input_ids)

    def target_ids(self, source: str, target: str) -> list[int]:
        ids = list(self.prompt_format.tokenizer(text_target=target).input_ids)
        end = self.prompt_format.tokenizer.eos_token_id
        return ids if end is None or ids[-1] == end else [*ids, end]

    def length(self, columns: Mapping[str, Any]) -> int:
        return max(
            len(self.source_ids(columns["source"])),
            len(self.target_ids(columns["source"], columns["target"])),
        )

    def encode(self, columns: Mapping[str, Any], max_length: int) -> Features:
        source = (
            self.shortened(columns["source"], max_length)
            if max_length
            else self.source_ids(columns["source"])
        )
        return {
            "asked": np.array(source),
            "wanted": np.array(
                self.target_ids(columns["source"], columns["target"])[
                    : max_length or None
                ]
            ),
        }

    def collate(self, features: Sequence[Features]) -> Batch:
        sources = [item["asked"] for item in features]
        return {
            "ids": padded(sources, self.prompt_format.pad),
            "mask": padded([np.ones(len(source)) for source in sources], 0),
            **_shown(features),
        }

    def logits(self, batch: Batch) -> tuple[Tensor, Tensor]:
        net: Any = self.net
        shifted = net.prepare_decoder_input_ids_from_labels(labels=batch["wanted"])
        logits = net(
            input_ids=batch["ids"],
            attention_mask=batch["mask"],
            decoder_input_ids=shifted,
            use_cache=False,
        ).logits
        there = batch["wanted"] != MASKED
        return logits[there], batch["wanted"][there]

    def nats(self, batch: Batch) -> list[Tensor]:
        logits, tokens = self.logits(batch)
        losses = F.cross_entropy(logits, tokens, reduction="none")
        return list(losses.split((batch["wanted"] != MASKED).sum(1).tolist()))
