"""What learners of pictures share: pixels as the model takes them, changes in training
only, the settings kept beside the weights.
"""

from __future__ import annotations

import json
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
"""Names under which models keep what a task puts on them."""
LABELS = "labels.json"


class PictureLearner(Learner):
    """Pictures in, whatever comes out. Batches: pixels uint8 [B, 3, H, W]; after
    `prepare`, input float32 [B, 3, H, W].
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
        self.preparation, self.labels, self.augment, self.base = (
            preparation,
            list(labels),
            list(augment),
            base,
        )
        self.fresh, self.blocks = heads_of(net, HEADS), blocks_of(net)

    def length(self, columns: Mapping[str, Any]) -> int:
        return 0

    def encode(self, columns: Mapping[str, Any], max_length: int) -> Features:
        return {"pixels": self.preparation.pixels(columns["image"])}

    def collate(self, features: Sequence[Features]) -> Batch:
        return {
            "pixels": torch.from_numpy(np.stack([item["pixels"] for item in features]))
        }

    def prepare(self, batch: Batch) -> Batch:
        """Augmented (in training) and normalised, on the model's device. A batch that
        is prepared already stays as it is.
        """
        if "input" in batch:
            return batch
        ready = {name: value.to(self.device) for name, value in batch.items()}
        pixels, mask = augment_pixels(
            self.augment if self.training else [],
            ready.pop("pixels"),
            ready.get("mask"),
        )
        return {
            **ready,
            "input": self.preparation.scaled(pixels),
            **({} if mask is None else {"mask": mask}),
        }

    def save(self, folder: Path) -> None:
        self.preparation.save(folder, self.base.folder)
        (folder / LABELS).write_text(
            json.dumps(self.labels, ensure_ascii=False), encoding="utf-8"
        )


def net_for(
    base: Base, auto: Any, kind: type[Lite], labels: Sequence[str], dropout: float
) -> Any:
    """The base with a head for these labels: the packaged part with a head of ours, any
    other in Transformers' Auto class.

    Raises Unsupported for a base of another kind, naming kinds that would do.
    """
    register()
    named = {
        "num_labels": len(labels),
        "id2label": dict(enumerate(labels)),
        "label2id": {label: at for at, label in enumerate(labels)},
    }
    if base.weights.format == "part":
        return packaged(kind, dropout=dropout, **named)
    known = (
        {config.model_type for config in auto._model_mapping} if base.config else set()
    )
    if base.config.get("model_type") not in known:
        found = base.config.get("model_type", base.weights.format)
        raise Unsupported(
            say(
                f"{base.name} is of the kind {found}, which does not fit this task.",
                f"{base.name} 的类型为 {found}，不适合此任务。",
            ),
            say(
                "Take efficientnet-lite0, or a Transformers model of one of "
                f"these kinds. {nearest('', known - {LiteConfig.model_type})}",
                "请用 efficientnet-lite0，或以下类型的 Transformers 模型。"
                f"{nearest('', known - {LiteConfig.model_type})}",
            ),
        )
    return base.model(auto, ignore_mismatched_sizes=True, **named)


def side_of(examples: Sequence[Example]) -> int:
    """The longer side of the median picture, in pixels."""
    return int(
        np.median(
            [
                max(example.columns["width"], example.columns["height"])
                for example in examples
            ]
        )
    )


def label_counts(labels: Sequence[str]) -> dict[str, int]:
    """How many there are of each, in the order of their names."""
    found, counts = np.unique(
        np.array(labels, dtype=object).astype(str), return_counts=True
    )
    return {str(label): int(count) for label, count in zip(found, counts)}


def balanced_weights(counts: Sequence[float]) -> torch.Tensor:
    """Weights of classes: N / (K · n_c), so that every class weighs the same and the
    examples 1 on average (King and Zeng 2001).
    """
    numbers = torch.tensor(counts, dtype=torch.float32).clamp(min=1)
    return numbers.sum() / (len(numbers) * numbers)
