"""Image segmentation: a class for every pixel.

    L_i = 1/|P_i| Σ_{p in P_i} -w_{y_p} log softmax(z_p)_{y_p} + λ (1 - 2 Σ p y / (Σ p + Σ y)),    P_i the pixels of picture i that have a class

The second term, soft Dice over the classes that a picture has (Milletari et al. 2016,
arXiv:1606.04797), is for objects that are small beside their ground. Pictures are
stretched to the model's size; figures are of the masks at that size, answers at the
picture's own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from miaobi.core.errors import BadInput, nearest
from miaobi.core.language import say
from miaobi.data.labelled.images import picture_columns, picture_of
from miaobi.data.labelled.masks import IGNORED, read_mask
from miaobi.data.text.shapes import Unusable
from miaobi.models.base import Base
from miaobi.nn.objective import Batch, Loss
from miaobi.tune.image.input import check_augmentations, open_rgb, preparation
from miaobi.tune.image.learner import PictureLearner, balanced_weights, net_for, side_of
from miaobi.tune.image.metrics import mean_iou, shares
from miaobi.tune.image.nets import LiteForSemanticSegmentation
from miaobi.tune.learner import Evaluation, Example, Features, Metric

NAME = "image-segmentation"
SUMMARY = "a class for every pixel", "为每个像素给出类别"
MODALITY, READER, MAKES = "image", "masks", "labels"
EXAMPLE = "images/a.jpg + masks/a.png (+ classes.txt)"


@dataclass(frozen=True)
class Config:
    image_size: int = 0
    """Pixels of a side; 0 for the base's own, at most 512 (for efficientnet-lite0: 112
    for pictures of at most 64 pixels, else 224).
    """
    augment: list[str] = field(default_factory=list)
    """Changes drawn anew for every training picture, its mask moving along: flip,
    shift, rotate, crop, colour, noise.
    """
    dice: float = 0.0
    """Weight λ of the Dice loss."""
    class_weights: Literal["none", "balanced"] = "none"
    """balanced: classes with few pixels weigh more."""
    dropout: float = 0.0
    """Of whole feature maps, before the head of efficientnet-lite0; other bases keep their own."""


def columns(record: Mapping[str, Any], config: Config) -> Mapping[str, Any]:
    picture = picture_of(record, EXAMPLE)
    if not record.get("mask"):
        raise Unusable(
            say("no mask of the same name.", "没有同名的掩码。"),
            say(f"Expected {EXAMPLE}", f"应为 {EXAMPLE}"),
        )
    mask = read_mask(Path(record["mask"]), record["binary"])
    if mask.shape != (picture["height"], picture["width"]):
        raise Unusable(
            say(
                f"its mask has {mask.shape[1]} × {mask.shape[0]} pixels, the "
                f"picture {picture['width']} × {picture['height']}.",
                f"掩码为 {mask.shape[1]} × {mask.shape[0]} 像素，图片为 {picture['width']} × {picture['height']}。",
            ),
            say("Give masks of the picture's size.", "请提供与图片同样大小的掩码。"),
        )
    present = [int(value) for value in np.unique(mask) if value != IGNORED]
    if not present or present[-1] >= len(record["classes"]):
        raise Unusable(
            say(
                f"its mask has the values {present}; there are {len(record['classes'])} classes.",
                f"掩码的取值为 {present}；类别共 {len(record['classes'])} 个。",
            ),
            say(
                "Name every class in classes.txt, one a line, from number 0.",
                "请在 classes.txt 中从编号 0 起逐行写出所有类别。",
            ),
        )
    return {
        **picture,
        "mask": str(record["mask"]),
        "binary": bool(record["binary"]),
        "classes": list(record["classes"]),
        "present": present,
    }


def question(columns: Mapping[str, Any]) -> Mapping[str, Any]:
    return picture_columns(columns)


group = question


def survey(examples: Sequence[Example], config: Config) -> Mapping[str, Any]:
    labels = examples[0].columns["classes"]
    seen = {number for example in examples for number in example.columns["present"]}
    if len(seen) < 2:
        raise BadInput(
            say(
                f"Every pixel is {labels[min(seen)]!r}.",
                f"所有像素都是 {labels[min(seen)]!r}。",
            ),
            say("Give masks of two classes at least.", "请提供至少含两个类别的掩码。"),
        )
    check_augmentations(
        config.augment, ("flip", "shift", "rotate", "crop", "colour", "noise")
    )
    pixels = np.zeros(256, np.int64)
    for example in examples if config.class_weights == "balanced" else ():
        pixels += np.bincount(
            read_mask(Path(example.columns["mask"]), example.columns["binary"]).ravel(),
            minlength=256,
        )
    return {
        "labels": labels,
        "seen": sorted(seen),
        "pixels": pixels[: len(labels)].tolist(),
        "side": side_of(examples),
    }


def check(example: Example, spec: Mapping[str, Any], config: Config) -> None:
    for number in example.columns["present"]:
        name = example.columns["classes"][number]
        if number not in spec["seen"] or name != spec["labels"][number]:
            raise Unusable(
                say(
                    f"class {name!r}, number {number}, does not occur in the training data.",
                    f"类别 {name!r}（编号 {number}）未在训练数据中出现。",
                ),
                nearest(name, [spec["labels"][seen] for seen in spec["seen"]]),
            )


def learner(base: Base, spec: Mapping[str, Any], config: Config) -> Segmenter:
    from transformers import AutoModelForSemanticSegmentation

    return Segmenter(
        net_for(
            base,
            AutoModelForSemanticSegmentation,
            LiteForSemanticSegmentation,
            spec["labels"],
            config.dropout,
        ),
        base,
        spec,
        config,
    )


class Segmenter(PictureLearner):
    def __init__(
        self, net: Any, base: Base, spec: Mapping[str, Any], config: Config
    ) -> None:
        super().__init__(
            net,
            preparation(base, config.image_size, spec["side"], stretch=True),
            spec["labels"],
            config.augment,
            base,
        )
        self.config = config
        self.weights = (
            balanced_weights(spec["pixels"])
            if config.class_weights == "balanced"
            else None
        )

    def encode(self, columns: Mapping[str, Any], max_length: int) -> Features:
        width, height = (
            (columns["width"], columns["height"])
            if "width" in columns
            else open_rgb(columns["image"]).size
        )
        mask = np.full(
            (self.preparation.height, self.preparation.width), IGNORED, np.uint8
        )
        if "mask" in columns:
            from PIL import Image

            whole = Image.fromarray(read_mask(Path(columns["mask"]), columns["binary"]))
            mask = np.asarray(
                whole.resize(
                    (self.preparation.width, self.preparation.height),
                    Image.Resampling.NEAREST,
                )
            )
        return {
            **super().encode(columns, max_length),
            "mask": mask,
            "size": np.array([width, height]),
        }

    def collate(self, features: Sequence[Features]) -> Batch:
        return {
            **super().collate(features),
            **{
                name: torch.from_numpy(np.stack([item[name] for item in features]))
                for name in ("mask", "size")
            },
        }

    def logits(self, batch: Batch) -> Tensor:
        """[B, C, H, W] at the input's size."""
        return F.interpolate(
            self.net(pixel_values=batch["input"]).logits.float(),
            batch["input"].shape[2:],
            mode="bilinear",
            align_corners=False,
        )

    def _losses(self, logits: Tensor, mask: Tensor, weights: Tensor | None) -> Tensor:
        """[B]."""
        mask = mask.long()
        known = mask != IGNORED
        whole = F.cross_entropy(
            logits, mask, weights, ignore_index=IGNORED, reduction="none"
        ).sum((1, 2)) / known.sum((1, 2)).clamp(min=1)
        return (
            whole + self.config.dice * _dice(logits, mask, known)
            if self.config.dice
            else whole
        )

    def loss(self, batch: Batch) -> Loss:
        batch = self.prepare(batch)
        weights = None if self.weights is None else self.weights.to(self.device)
        return Loss(
            self._losses(self.logits(batch), batch["mask"], weights).sum(),
            len(batch["mask"]),
        )

    def metrics(self) -> Sequence[Metric]:
        return [
            mean_iou(),
            Metric(
                "pixel_accuracy", shares, "higher", ("Pixel accuracy", "像素准确率")
            ),
        ]

    def evaluate(self, batch: Batch) -> list[Evaluation]:
        batch = self.prepare(batch)
        logits = self.logits(batch)
        losses = self._losses(logits, batch["mask"], None)
        best, masks = logits.argmax(1).cpu().numpy(), batch["mask"].cpu().numpy()
        return [
            self._judged(float(loss), guess, mask, size)
            for loss, guess, mask, size in zip(
                losses, best, masks, batch["size"].tolist(), strict=True
            )
        ]

    def _judged(
        self, loss: float, guess: np.ndarray, mask: np.ndarray, size: list[int]
    ) -> Evaluation:
        known, count = mask != IGNORED, len(self.labels)
        table = np.bincount(
            mask[known].astype(np.int64) * count + guess[known], minlength=count**2
        ).reshape(count, count)
        right = table.diagonal()
        overlaps = np.stack([right, table.sum(0) + table.sum(1) - right], 1).astype(
            np.float64
        )
        return Evaluation(
            loss,
            {
                "mean_iou": overlaps.ravel(),
                "pixel_accuracy": np.array([right.sum(), known.sum()], np.float64),
            },
            self._answer(guess, size),
        )

    def _answer(self, guess: np.ndarray, size: list[int]) -> Mapping[str, Any]:
        from PIL import Image

        whole = np.asarray(
            Image.fromarray(guess.astype(np.uint8)).resize(
                (size[0], size[1]), Image.Resampling.NEAREST
            )
        )
        return {
            "size": [size[1], size[0]],
            "masks": {
                self.labels[number]: run_lengths(whole == number)
                for number in np.unique(whole)
            },
        }


def _dice(logits: Tensor, mask: Tensor, known: Tensor) -> Tensor:
    """1 - Dice, averaged over the classes that each picture has: [B]."""
    probabilities = logits.softmax(1) * known[:, None]
    wanted = (
        F.one_hot(mask.where(known, 0), logits.shape[1]).permute(0, 3, 1, 2)
        * known[:, None]
    )
    both, sizes, present = (
        (probabilities * wanted).sum((2, 3)),
        probabilities.sum((2, 3)) + wanted.sum((2, 3)),
        wanted.sum((2, 3)) > 0,
    )
    return ((1 - 2 * both / sizes.clamp(min=1e-6)) * present).sum(1) / present.sum(
        1
    ).clamp(min=1)


def run_lengths(mask: np.ndarray) -> list[int]:
    """COCO's uncompressed code of a mask [H, W]: lengths of runs down the columns, of 0
    and 1 by turns, beginning with 0.
    """
    flat = mask.ravel(order="F").astype(np.int8)
    changes = np.flatnonzero(np.diff(flat)) + 1
    lengths = np.diff(np.concatenate([[0], changes, [len(flat)]])).tolist()
    return [0, *lengths] if flat[0] else lengths
