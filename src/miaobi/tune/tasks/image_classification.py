"""Image classification: one label for a picture. Head: a linear layer over the base's
summary of it.

    L = -Σ_i w_{y_i} Σ_c q_{ic} log softmax(W h_i)_c,   q = (1 - ε) onehot(y_i) + ε / C

Where the packaged base is frozen and pictures are not changed in training, its
summaries are computed once and kept.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from miaobi.core.errors import BadInput
from miaobi.core.language import say
from miaobi.data.labelled.images import picture_columns, picture_of
from miaobi.data.text.shapes import Unusable, unseen
from miaobi.models.base import Base
from miaobi.nn.objective import Batch, Loss
from miaobi.tune.image.input import check_augmentations, preparation
from miaobi.tune.image.learner import (
    PictureLearner,
    balanced_weights,
    label_counts,
    net_for,
    side_of,
)
from miaobi.tune.image.metrics import accuracy, macro_f1
from miaobi.tune.image.nets import LiteForImageClassification
from miaobi.tune.learner import Evaluation, Example, Features, Metric

NAME = "image-classification"
SUMMARY = "one label for each picture", "为每张图片给出一个标签"
MODALITY, READER, MAKES = "image", "pictures", "labels"
EXAMPLE = '{"image": "photos/a.jpg", "label": "cat"}'


@dataclass(frozen=True)
class Config:
    image_size: int = 0
    """Pixels of a side; 0 for the base's own (for efficientnet-lite0: 112 for pictures
    of at most 64 pixels, else 224).
    """
    augment: list[str] = field(default_factory=list)
    """Changes drawn anew for every training picture: flip, shift, rotate, crop, colour,
    cutout, noise.
    """
    label_smoothing: float = 0.0
    """Share of certainty that is spread over all labels."""
    class_weights: Literal["none", "balanced"] = "none"
    """balanced: rare labels weigh more, so that all weigh the same together."""
    dropout: float = 0.0
    """Before the head of efficientnet-lite0; other bases keep their own."""


def columns(record: Mapping[str, Any], config: Config) -> Mapping[str, Any]:
    picture = picture_of(record, EXAMPLE)
    if record.get("label") in (None, ""):
        raise Unusable(
            say("no label.", "缺少 label。"),
            say(
                f"Put each class in a folder of its own, or write {EXAMPLE}",
                f"请把每一类放进各自的文件夹，或写成 {EXAMPLE}",
            ),
        )
    return {**picture, "label": str(record["label"])}


def question(columns: Mapping[str, Any]) -> Mapping[str, Any]:
    return picture_columns(columns)


group = question


def survey(examples: Sequence[Example], config: Config) -> Mapping[str, Any]:
    counts = label_counts([example.columns["label"] for example in examples])
    if len(counts) < 2:
        raise BadInput(
            say(
                f"Every picture has the label {next(iter(counts))!r}.",
                f"所有图片的标签都是 {next(iter(counts))!r}。",
            ),
            say("Give pictures of two labels at least.", "请至少提供两种标签的图片。"),
        )
    check_augmentations(config.augment)
    return {"labels": list(counts), "counts": counts, "side": side_of(examples)}


def check(example: Example, spec: Mapping[str, Any], config: Config) -> None:
    if example.columns["label"] not in spec["labels"]:
        raise unseen(example.columns["label"], spec["labels"])


def learner(base: Base, spec: Mapping[str, Any], config: Config) -> Classifier:
    from transformers import AutoModelForImageClassification

    net = net_for(
        base,
        AutoModelForImageClassification,
        LiteForImageClassification,
        spec["labels"],
        config.dropout,
    )
    return Classifier(net, base, spec, config)


class Classifier(PictureLearner):
    def __init__(
        self, net: Any, base: Base, spec: Mapping[str, Any], config: Config
    ) -> None:
        super().__init__(
            net,
            preparation(base, config.image_size, spec["side"], stretch=False),
            spec["labels"],
            config.augment,
            base,
        )
        self.config = config
        self.weights = (
            balanced_weights([spec["counts"][label] for label in self.labels])
            if config.class_weights == "balanced"
            else None
        )

    @property
    def resting(self) -> bool:
        """Whether what the trunk makes of a picture never changes."""
        return (
            isinstance(self.net, LiteForImageClassification)
            and not self.augment
            and not any(
                parameter.requires_grad for parameter in self.net.trunk.parameters()
            )
        )

    def encode(self, columns: Mapping[str, Any], max_length: int) -> Features:
        label = (
            self.labels.index(columns["label"])
            if columns.get("label") in self.labels
            else -100
        )
        found = {**super().encode(columns, max_length), "label": np.array(label)}
        if self.resting:
            with torch.no_grad():
                pixels = torch.from_numpy(found["pixels"].copy())[None].to(self.device)
                found["features"] = (
                    self.net.trunk(self.preparation.normalise(pixels))[0].cpu().numpy()
                )
        return found

    def collate(self, features: Sequence[Features]) -> Batch:
        batch = {
            **super().collate(features),
            "label": torch.tensor([int(item["label"]) for item in features]),
        }
        if all("features" in item for item in features):
            batch["features"] = torch.from_numpy(
                np.stack([item["features"] for item in features])
            )
        return batch

    def logits(self, batch: Batch) -> Tensor:
        if "features" in batch and self.resting:
            return self.net(features=batch["features"]).logits
        return self.net(pixel_values=batch["input"]).logits

    def loss(self, batch: Batch) -> Loss:
        batch = self.prepare(batch)
        weights = None if self.weights is None else self.weights.to(self.device)
        # Smoothed labels with class weights are weighted label by label in PyTorch;
        # here the example's own weight is meant.
        losses = F.cross_entropy(
            self.logits(batch),
            batch["label"],
            reduction="none",
            label_smoothing=self.config.label_smoothing,
        )
        return Loss(
            (losses if weights is None else losses * weights[batch["label"]]).sum(),
            len(losses),
        )

    def metrics(self) -> Sequence[Metric]:
        return [accuracy(), macro_f1()]

    def evaluate(self, batch: Batch) -> list[Evaluation]:
        batch = self.prepare(batch)
        logits = self.logits(batch)
        losses = F.cross_entropy(logits, batch["label"], reduction="none")
        sure, best = logits.softmax(1).max(1)
        return [
            self._judged(*values)
            for values in zip(
                losses.tolist(), sure.tolist(), best.tolist(), batch["label"].tolist()
            )
        ]

    def _judged(
        self, loss: float, probability: float, best: int, label: int
    ) -> Evaluation:
        of_classes = np.zeros((len(self.labels), 3))
        of_classes[best, 0 if best == label else 1] += 1
        if label >= 0:
            of_classes[label, 2] += best != label
        return Evaluation(
            loss,
            {
                "accuracy": np.array([float(best == label), 1.0]),
                "macro_f1": of_classes.ravel(),
            },
            {"label": self.labels[best], "score": round(probability, 4)},
        )
