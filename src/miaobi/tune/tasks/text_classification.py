"""Text classification: one label for a text. Head: a linear layer over the base's summary of it.

    L = -Σ_i log softmax(W h_i)_{y_i}
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from miaobi.core.errors import BadInput, nearest
from miaobi.core.language import say
from miaobi.data.shapes import Unusable
from miaobi.nn.objective import Batch, Loss
from miaobi.tune.base import Base
from miaobi.tune.learner import Example, Features, Figure, Judgement, Learner, padded

NAME = "text-classification"
SUMMARY = "one label for each text", "为每段文本给出一个标签"
MODALITY, READER, MAKES = "text", "texts", "labels"
EXAMPLE = '{"text": "...", "label": "positive"}'


@dataclass(frozen=True)
class Config:
    label_smoothing: float = 0.0
    """Share of certainty that is spread over all labels."""


def columns(record: Mapping[str, Any], config: Config) -> Mapping[str, Any]:
    for key in ("text", "label"):
        if record.get(key) in (None, ""):
            raise Unusable(say(f"no {key}.", f"缺少 {key}。"), EXAMPLE)
    return {"text": str(record["text"]), "label": str(record["label"])}


def question(columns: Mapping[str, Any]) -> Mapping[str, Any]:
    return {"text": columns["text"]}


def survey(examples: Sequence[Example], config: Config) -> Mapping[str, Any]:
    counts: dict[str, int] = {}
    for example in examples:
        counts[example.columns["label"]] = counts.get(example.columns["label"], 0) + 1
    if len(counts) < 2:
        raise BadInput(say(f"Every example has the label {next(iter(counts))!r}.", f"所有样本的标签都是 {next(iter(counts))!r}。"),
                       say("Give examples of two labels at least.", "请至少提供两种标签的样本。"))
    return {"labels": sorted(counts), "counts": counts}


def check(example: Example, spec: Mapping[str, Any], config: Config) -> None:
    if example.columns["label"] not in spec["labels"]:
        raise Unusable(say(f"label {example.columns['label']!r} does not occur in the training data.", f"标签 {example.columns['label']!r} 未在训练数据中出现。"),
                       nearest(example.columns["label"], spec["labels"]))


def learner(base: Base, spec: Mapping[str, Any], config: Config) -> Classifier:
    from transformers import AutoModelForSequenceClassification
    labels = spec["labels"]
    net = base.model(AutoModelForSequenceClassification, num_labels=len(labels), id2label=dict(enumerate(labels)),
                     label2id={label: at for at, label in enumerate(labels)}, pad_token_id=base.tokenizer.pad_token_id or base.tokenizer.eos_token_id)
    return Classifier(net, base.tokenizer, labels, config)


class Classifier(Learner):
    fresh = ("score", "classifier")
    adapter_kind = "SEQ_CLS"

    def __init__(self, net: nn.Module, tokenizer: Any, labels: Sequence[str], config: Config) -> None:
        super().__init__(net)
        self.tokenizer, self.labels, self.config = tokenizer, list(labels), config
        self.pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id

    def length(self, columns: Mapping[str, Any]) -> int:
        return len(self.tokenizer(columns["text"]).input_ids)

    def encode(self, columns: Mapping[str, Any], max_length: int) -> Features:
        ids = self.tokenizer(columns["text"], truncation=bool(max_length), max_length=max_length or None).input_ids
        label = self.labels.index(columns["label"]) if columns.get("label") in self.labels else -100
        return {"ids": np.array(ids), "label": np.array(label)}

    def collate(self, features: Sequence[Features]) -> Batch:
        rows = [item["ids"] for item in features]
        return {"ids": padded(rows, self.pad), "mask": padded([np.ones(len(row)) for row in rows], 0),
                "label": torch.tensor([int(item["label"]) for item in features])}

    def logits(self, batch: Batch) -> torch.Tensor:
        return self.net(input_ids=batch["ids"], attention_mask=batch["mask"]).logits

    def loss(self, batch: Batch) -> Loss:
        total = F.cross_entropy(self.logits(batch), batch["label"], reduction="sum", label_smoothing=self.config.label_smoothing)
        return Loss(total, len(batch["label"]))

    def figures(self) -> Sequence[Figure]:
        return [Figure("accuracy", lambda counts: counts[..., 0] / counts[..., 1], "higher", ("Accuracy", "准确率"))]

    def judge(self, batch: Batch) -> list[Judgement]:
        logits = self.logits(batch)
        losses = F.cross_entropy(logits, batch["label"], reduction="none")
        best = logits.argmax(1)
        return [Judgement(float(loss), {"accuracy": np.array([float(guess == label), 1.0])}, self.labels[int(guess)])
                for loss, guess, label in zip(losses, best, batch["label"])]

    def save(self, folder: Path) -> None:
        self.tokenizer.save_pretrained(folder)
        (folder / "labels.json").write_text(json.dumps(self.labels, ensure_ascii=False), encoding="utf-8")
