"""Text to text: translation, summaries, rewriting. Head: the base's own output layer.

    L = -Σ_t log p(y_t | y_<t, x)      over the target alone

An encoder-decoder (T5, BART) reads the source in its encoder; a causal model is asked
with `head.prompt` and answers with the target. Smoothed labels: (1 - ε) of the
certainty on the right token, ε over all (Szegedy et al. 2015, arXiv:1512.00567).
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from miaobi.core.language import say
from miaobi.data.text.shapes import Record, Unusable
from miaobi.models.base import Base
from miaobi.nn.language import MASKED
from miaobi.nn.objective import Batch, Loss
from miaobi.tune.heads import Seq2SeqHead as Config
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
MODALITY = "text"
READER = "labelled/texts"
MAKES = "text"
ASK = "--prompt ..."
EXAMPLE = '{"source": "...", "target": "..."}'


def columns(record: Mapping[str, Any], config: Config) -> Mapping[str, Any]:
    record = Record.of(record)
    if isinstance(record.peek("translation"), Mapping):
        return _translation(record.inside("translation"), config)
    return {
        "source": _text(record, config.source, "source"),
        "target": _text(record, config.target, "target"),
    }


def _translation(texts: Record, config: Config) -> Mapping[str, Any]:
    """Return the texts of {"translation": {"en": "...", "zh": "..."}}.

    The languages are head.source and head.target, or else the first and the second.
    """
    source, target = config.source, config.target
    if len(texts) == 2 and not {source, target} & set(texts):
        source, target = texts
    return {
        "source": _text(texts, source, "source"),
        "target": _text(texts, target, "target"),
    }


def _text(record: Mapping[str, Any], column: str, default: str) -> str:
    """Return the text of a column, or of the column of the usual name."""
    value = record.get(column, record.get(default))
    if isinstance(value, str) and value.strip():
        return value.strip()
    listed = ", ".join(map(str, record))
    raise Unusable(
        say(
            f"no text in the column {column!r}; there are: {listed}.",
            f"{column!r} 列没有文本；现有的列：{listed}。",
        ),
        say(
            f"Name the columns with head.source and head.target. Expected {EXAMPLE}",
            f"请用 head.source 与 head.target 指定列名。应为 {EXAMPLE}",
        ),
    )


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
        net = base.model(AutoModelForSeq2SeqLM)
        return EncoderDecoder(net, PromptFormat(base.tokenizer, None), config)
    return Causal(writing_model(base), prompt_format_of(base), config)


class Writer(Learner):
    """What the two kinds of base share: prompts, metrics, answers.

    Batches have source [B, S] and target [B, T], their tokens followed by MASKED,
    besides what the model reads.
    """

    unit = "tokens"
    writes = True

    def __init__(
        self, net: nn.Module, prompt_format: PromptFormat, config: Config
    ) -> None:
        super().__init__(net)
        self.prompt_format = prompt_format
        self.config = config
        self.blocks = layers_of(net)

    @property
    def tokenizer(self) -> Any:
        return self.prompt_format.tokenizer

    def prompt(self, source: str) -> str:
        """Return what the model is asked with."""
        return self.config.prompt.replace("{source}", source)

    @abstractmethod
    def source_ids(self, source: str) -> list[int]:
        """Return the tokens that the model is asked with."""

    @abstractmethod
    def target_ids(self, source: str, target: str) -> list[int]:
        """Return the tokens that the model is to write, with the one that ends it."""

    @abstractmethod
    def logits(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return (logits [N, V], tokens [N]) of the targets."""

    @abstractmethod
    def nats(self, batch: Batch) -> list[Tensor]:
        """Return -log p of the tokens of each target."""

    def cut_source_ids(self, source: str, max_tokens: int) -> list[int]:
        """Return the tokens that the model is asked with, at most `max_tokens`.

        The source is cut at its end, so that the prompt stays whole.
        """
        ids = self.source_ids(source)
        while len(ids) > max_tokens and source:
            tokens = self.tokenizer(source, add_special_tokens=False).input_ids
            excess = len(ids) - max_tokens
            source = self.tokenizer.decode(
                tokens[: max(0, len(tokens) - excess)], skip_special_tokens=True
            )
            ids = self.source_ids(source)
        return ids

    def loss(self, batch: Batch) -> Loss:
        smoothing = self.config.label_smoothing
        if not smoothing:
            nats = torch.cat(self.nats(batch))
            return Loss(nats.sum(), len(nats))
        logits, tokens = self.logits(batch)
        total = F.cross_entropy(
            logits, tokens, reduction="sum", label_smoothing=smoothing
        )
        return Loss(total, len(tokens))

    def metrics(self) -> Sequence[Metric]:
        loss = Metric(
            "loss",
            lambda sums: sums[..., 0] / sums[..., 1],
            "lower",
            ("Loss", "损失"),
            say("nats/token", "奈特/词元"),
        )
        metrics = {**overlap.METRICS, "loss": loss}
        first = metrics.pop(self.config.metric)
        return [first, *metrics.values()]

    def evaluate(self, batch: Batch) -> list[Evaluation]:
        sources = [row[row != MASKED].cpu().numpy() for row in batch["source"]]
        answers = self.write(sources)
        evaluations = list[Evaluation]()
        for answer, target, nats in zip(answers, batch["target"], self.nats(batch)):
            reference = self.tokenizer.decode(
                target[target != MASKED], skip_special_tokens=True
            )
            counts = {
                **overlap.counts(answer, reference.strip()),
                "loss": np.array([float(nats.sum()), float(len(nats))]),
            }
            evaluations.append(Evaluation(float(nats.mean()), counts, answer))
        return evaluations

    def write(self, sources: Sequence[np.ndarray]) -> list[str]:
        """Return the answers to sources, given as tokens."""
        return generate(
            self.net,
            sources,
            self.prompt_format,
            self.config.max_new_tokens,
            self.config.num_beams,
        )

    def answer(self, columns: Mapping[str, Any]) -> str:
        return self.write([np.array(self.source_ids(columns["source"]))])[0]

    def preview(self, features: Features) -> list[Piece]:
        return [
            Piece(self.tokenizer.decode(features["source"]), False),
            Piece(self.tokenizer.decode(features["target"]), True),
        ]

    def save(self, folder: Path) -> None:
        self.tokenizer.save_pretrained(folder)


def _padded_texts(features: Sequence[Features]) -> dict[str, Tensor]:
    return {
        name: padded([item[name] for item in features], MASKED)
        for name in ("source", "target")
    }


class Causal(PackedLearner, Writer):
    """A causal language model that answers a prompt."""

    def loses_answer(self, columns: Mapping[str, Any], max_length: int) -> bool:
        target = self.target_ids(columns["source"], columns["target"])
        return len(target) >= max_length

    def source_ids(self, source: str) -> list[int]:
        return self.prompt_format.question(self.prompt(source))

    def target_ids(self, source: str, target: str) -> list[int]:
        return self.prompt_format.answer(self.prompt(source), target)

    def length(self, columns: Mapping[str, Any]) -> int:
        source = self.source_ids(columns["source"])
        target = self.target_ids(columns["source"], columns["target"])
        return len(source) + len(target)

    def encode(self, columns: Mapping[str, Any], max_length: int) -> Features:
        target_ids = self.target_ids(columns["source"], columns["target"])
        if max_length:
            max_tokens = max(max_length - len(target_ids), 1)
            source_ids = self.cut_source_ids(columns["source"], max_tokens)
        else:
            source_ids = self.source_ids(columns["source"])
        source, target = fit(source_ids, target_ids, max_length)
        return {"source": source, "target": target}

    def collate(self, features: Sequence[Features]) -> Batch:
        rows = [row(item["source"], item["target"]) for item in features]
        return {**pack(rows, share=self.shares_prefix), **_padded_texts(features)}

    def logits(self, batch: Batch) -> tuple[Tensor, Tensor]:
        targets = batch["targets"]
        return self.reader.logits(batch), targets[targets != MASKED]

    def nats(self, batch: Batch) -> list[Tensor]:
        return by_sequence(batch, self.reader.nats(batch))


class EncoderDecoder(Writer):
    """T5, BART and their kind."""

    adapter_kind = "SEQ_2_SEQ_LM"

    def source_ids(self, source: str) -> list[int]:
        return list(self.tokenizer(self.prompt(source)).input_ids)

    def target_ids(self, source: str, target: str) -> list[int]:
        ids = list(self.tokenizer(text_target=target).input_ids)
        eos_id = self.tokenizer.eos_token_id
        if eos_id is not None and ids[-1] != eos_id:
            ids.append(eos_id)
        return ids

    def loses_answer(self, columns: Mapping[str, Any], max_length: int) -> bool:
        target = self.target_ids(columns["source"], columns["target"])
        return len(target) > max_length

    def length(self, columns: Mapping[str, Any]) -> int:
        source = self.source_ids(columns["source"])
        target = self.target_ids(columns["source"], columns["target"])
        return max(len(source), len(target))

    def encode(self, columns: Mapping[str, Any], max_length: int) -> Features:
        target = self.target_ids(columns["source"], columns["target"])
        if max_length:
            source = self.cut_source_ids(columns["source"], max_length)
            target = target[:max_length]
        else:
            source = self.source_ids(columns["source"])
        return {"source": np.array(source), "target": np.array(target)}

    def collate(self, features: Sequence[Features]) -> Batch:
        sources = [item["source"] for item in features]
        return {
            "ids": padded(sources, self.prompt_format.pad),
            "mask": padded([np.ones(len(source)) for source in sources], 0),
            **_padded_texts(features),
        }

    def logits(self, batch: Batch) -> tuple[Tensor, Tensor]:
        net: Any = self.net
        target = batch["target"]
        logits = net(
            input_ids=batch["ids"],
            attention_mask=batch["mask"],
            decoder_input_ids=net.prepare_decoder_input_ids_from_labels(labels=target),
            use_cache=False,
        ).logits
        is_token = target != MASKED
        return logits[is_token], target[is_token]

    def nats(self, batch: Batch) -> list[Tensor]:
        logits, tokens = self.logits(batch)
        losses = F.cross_entropy(logits, tokens, reduction="none")
        lengths = (batch["target"] != MASKED).sum(1).tolist()
        return list(torch.split(losses, lengths))
