"""What learners of pictures share: pixels as the model takes them, changes in training
only, the settings saved beside the weights.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from miaobi.core.errors import Unsupported, nearest
from miaobi.core.language import say
from miaobi.models.base import Base
from miaobi.nn.objective import Batch
from miaobi.tune.image.input import Preparation, augment_pixels
from miaobi.tune.image.nets import (
    Lite,
    LiteConfig,
    blocks_of,
    heads_of,
    packaged,
    register,
)
from miaobi.tune.learner import Example, Features, Learner

HEADS = (
    "classifier",
    "decode_head",
    "class_labels_classifier",
    "bbox_predictor",
    "class_embed",
    "bbox_embed",
    "pyramid",
    "heat_tower",
    "side_tower",
    "heat",
    "sides",
    "classification_head",
)
"""Names of the modules that a task puts on a model."""
LABELS = "labels.json"


class PictureLearner(Learner):
    """A learner whose inputs are pictures.

    Batches: pixels uint8 [B, 3, H, W]; after `prepare`, input float32 [B, 3, H, W].

    Args:
        net: the model with its head.
        preparation: from a picture to pixels.
        labels: of the head's outputs.
        augment: names of augmentations (data/image/augment.py).
        base: what the net was made of.
    """

    def __init__(
        self,
        net: nn.Module,
        preparation: Preparation,
        labels: Sequence[str],
        augment: Sequence[str],
        base: Base,
    ) -> None:
        super().__init__(net)
        self.preparation = preparation
        self.labels = list(labels)
        self.augment = list(augment)
        self.base = base
        self.fresh = heads_of(net, HEADS)
        self.blocks = blocks_of(net)

    def length(self, columns: Mapping[str, Any]) -> int:
        return 0

    def encode(self, columns: Mapping[str, Any], max_length: int) -> Features:
        return {"pixels": self.preparation.pixels(columns["image"])}

    def collate(self, features: Sequence[Features]) -> Batch:
        pixels = np.stack([item["pixels"] for item in features])
        return {"pixels": torch.from_numpy(pixels)}

    def prepare(self, batch: Batch) -> Batch:
        """Return the batch augmented (in training) and normalised."""
        ready = dict(batch)
        pixels = ready.pop("pixels")
        mask = ready.get("mask")
        if self.training:
            pixels, mask = augment_pixels(self.augment, pixels, mask)
        ready["input"] = self.preparation.normalise(pixels)
        if mask is not None:
            ready["mask"] = mask
        return ready

    def save(self, folder: Path) -> None:
        self.preparation.save(folder, self.base.folder)
        text = json.dumps(self.labels, ensure_ascii=False)
        (folder / LABELS).write_text(text, encoding="utf-8")


def net_for(
    base: Base, auto: Any, kind: type[Lite], labels: Sequence[str], dropout: float
) -> Any:
    """Return the base with a head for these labels.

    Raises Unsupported for a base of another kind, naming kinds that would do.

    Args:
        base: the packaged part, or a model of Transformers.
        auto: Transformers' Auto class for the latter.
        kind: the net of ours for the former.
        labels: of the head's outputs.
        dropout: of what the head of ours sees.
    """
    register()
    head = {
        "num_labels": len(labels),
        "id2label": dict(enumerate(labels)),
        "label2id": {label: number for number, label in enumerate(labels)},
    }
    if base.weights.format == "part":
        return packaged(kind, dropout=dropout, **head)
    model_types = set[str]()
    if base.config:
        model_types = {config.model_type for config in auto._model_mapping}
    if base.config.get("model_type") not in model_types:
        own_type = base.config.get("model_type", base.weights.format)
        examples = nearest("", model_types - {LiteConfig.model_type})
        raise Unsupported(
            say(
                f"{base.name} is of the kind {own_type}, which does not fit this task.",
                f"{base.name} 的类型为 {own_type}，不适合此任务。",
            ),
            say(
                "Take efficientnet-lite0, or a Transformers model of one of "
                "these kinds. ",
                "请用 efficientnet-lite0，或以下类型的 Transformers 模型。",
            )
            + examples,
        )
    return base.model(auto, ignore_mismatched_sizes=True, **head)


def side_of(examples: Sequence[Example]) -> int:
    """Return the longer side of the median picture, in pixels."""
    sides = [
        max(example.columns["width"], example.columns["height"]) for example in examples
    ]
    return int(np.median(sides))


def label_counts(labels: Sequence[str]) -> dict[str, int]:
    """Return how many there are of each, in the order of their names."""
    counts = Counter(map(str, labels))
    return {label: counts[label] for label in sorted(counts)}


def balanced_weights(counts: Sequence[float]) -> torch.Tensor:
    """Return weights of classes: N / (K · n_c).

    Every class weighs the same, and the examples 1 on average (King and Zeng 2001).
    """
    numbers = torch.tensor(counts, dtype=torch.float32).clamp(min=1)
    return numbers.sum() / (len(numbers) * numbers)
