"""Image classification: one label for an image. Head: a linear layer over the base's
summary of it.

    L = -Σ_i w_{y_i} Σ_c q_{ic} log softmax(W h_i)_c,   q = (1 - ε) onehot(y_i) + ε / C

Where the packaged base is frozen and images are not changed in training, its summaries
are computed once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from miaobi.core.errors import BadInput
from miaobi.core.language import say
from miaobi.data.labelled.images import picture_columns, picture_of
from miaobi.data.text.shapes import Unusable, label_text, unseen
from miaobi.models.base import Base
from miaobi.nn.graphs import EXAMPLES, Graph
from miaobi.nn.objective import Batch, Loss
from miaobi.tune.heads import ImageClassificationHead as Config
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
MODALITY = "image"
READER = "labelled/images"
MAKES = "labels"
ASK = "--image photo.png"
EXAMPLE = '{"image": "photos/a.jpg", "label": "cat"}'
NO_LABEL = -100
"""Of an image whose label is not known."""


def columns(record: Mapping[str, Any], config: Config) -> Mapping[str, Any]:
    image = picture_of(record, EXAMPLE)
    if record.get("label") in (None, ""):
        raise Unusable(
            say("no label.", "缺少 label。"),
            say(
                f"Put each class in a folder of its own, or write {EXAMPLE}",
                f"请把每一类放进各自的文件夹，或写成 {EXAMPLE}",
            ),
        )
    return {**image, "label": label_text(record["label"])}


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
    """A net that gives images one label each. Batches have label [B]."""

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
        self.weights: Tensor | None = None
        if config.class_weights == "balanced":
            counts = [spec["counts"][label] for label in self.labels]
            self.weights = balanced_weights(counts)

    @property
    def has_fixed_features(self) -> bool:
        """Whether what the trunk makes of an image never changes."""
        if not isinstance(self.net, LiteForImageClassification) or self.augment:
            return False
        trunk = self.net.trunk.parameters()
        return not any(parameter.requires_grad for parameter in trunk)

    def encode(self, columns: Mapping[str, Any], max_length: int) -> Features:
        label = NO_LABEL
        if columns.get("label") in self.labels:
            label = self.labels.index(columns["label"])
        features = {**super().encode(columns, max_length), "label": np.array(label)}
        if self.has_fixed_features:
            features["features"] = self._trunk_features(features["pixels"])
        return features

    @torch.no_grad()
    def _trunk_features(self, pixels: np.ndarray) -> np.ndarray:
        """Return float32 [D] of an image uint8 [3, H, W]."""
        net: Any = self.net
        batch = torch.from_numpy(pixels.copy())[None].to(self.device)
        features: np.ndarray = (
            net.trunk(self.preparation.normalise(batch))[0].cpu().numpy()
        )
        return features

    def collate(self, features: Sequence[Features]) -> Batch:
        batch = {
            **super().collate(features),
            "label": torch.tensor([int(item["label"]) for item in features]),
        }
        if all("features" in item for item in features):
            rows = np.stack([item["features"] for item in features])
            batch["features"] = torch.from_numpy(rows)
        return batch

    def logits(self, batch: Batch) -> Tensor:
        """Return logits [B, labels] of a prepared batch."""
        if "features" in batch and self.has_fixed_features:
            logits: Tensor = self.net(features=batch["features"]).logits
        else:
            logits = self.net(pixel_values=batch["input"]).logits
        return logits

    def graphs(self) -> Sequence[Graph]:
        """Return the classifier: pixels in [0, 255] to logits [B, labels]."""
        generator = torch.Generator().manual_seed(0)
        side = self.preparation.height, self.preparation.width
        pixels = 255 * torch.rand((EXAMPLES, 3, *side), generator=generator)
        return [Graph("classifier", self._logits, {"pixels": pixels}, "logits")]

    def _logits(self, pixels: Tensor) -> Tensor:
        return self.logits({"input": self.preparation.normalise(pixels)})

    def loss(self, batch: Batch) -> Loss:
        labels = batch["label"]
        losses = F.cross_entropy(
            self.logits(batch),
            labels,
            reduction="none",
            label_smoothing=self.config.label_smoothing,
        )
        if self.weights is not None:
            # PyTorch would weigh smoothed labels one by one; here the example's own
            # weight is meant.
            losses = losses * self.weights.to(self.device)[labels]
        return Loss(losses.sum(), len(losses))

    def metrics(self) -> Sequence[Metric]:
        return [accuracy(), macro_f1()]

    def evaluate(self, batch: Batch) -> list[Evaluation]:
        logits = self.logits(batch)
        losses = F.cross_entropy(logits, batch["label"], reduction="none")
        probabilities, best = logits.softmax(1).max(1)
        rows = zip(
            losses.tolist(),
            probabilities.tolist(),
            best.tolist(),
            batch["label"].tolist(),
        )
        return [self._evaluate_image(*row) for row in rows]

    def _evaluate_image(
        self, loss: float, probability: float, best: int, label: int
    ) -> Evaluation:
        right = best == label
        table = np.zeros((len(self.labels), 3))  # [TP, FP, FN] of each label
        table[best, 0 if right else 1] += 1
        if label >= 0:
            table[label, 2] += not right
        return Evaluation(
            loss,
            {"accuracy": np.array([float(right), 1.0]), "macro_f1": table.ravel()},
            {"label": self.labels[best], "score": round(probability, 4)},
        )
