"""Image segmentation: a class for every pixel.

    L_i = 1/|P_i| Σ_{p in P_i} -w_{y_p} log softmax(z_p)_{y_p}
          + λ (1 - 2 Σ p y / (Σ p + Σ y)),    P_i the pixels of image i that have a class

The second term, soft Dice over the classes that an image has (Milletari et al. 2016,
arXiv:1606.04797), is for objects that are small in their image. Images are stretched to
the model's size; metrics are of the masks at that size, answers at the image's own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

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
from miaobi.tune.heads import SegmentationHead as Config
from miaobi.tune.image.input import check_augmentations, open_rgb, preparation
from miaobi.tune.image.learner import PictureLearner, balanced_weights, net_for, side_of
from miaobi.tune.image.metrics import mean_iou, shares
from miaobi.tune.image.nets import LiteForSemanticSegmentation
from miaobi.tune.learner import Evaluation, Example, Features, Metric

NAME = "image-segmentation"
SUMMARY = "a class for every pixel", "为每个像素给出类别"
MODALITY = "image"
READER = "labelled/masks"
MAKES = "labels"
ASK = "--image photo.png"
EXAMPLE = "images/a.jpg + masks/a.png (+ classes.txt)"
AUGMENTATIONS = ("flip", "shift", "rotate", "crop", "colour", "noise")
"""Those that a mask can follow."""


def columns(record: Mapping[str, Any], config: Config) -> Mapping[str, Any]:
    image = picture_of(record, EXAMPLE)
    if not record.get("mask"):
        raise Unusable(
            say("no mask of the same name.", "没有同名的掩码。"),
            say(f"Expected {EXAMPLE}", f"应为 {EXAMPLE}"),
        )
    mask = read_mask(Path(record["mask"]), record["binary"])
    _check_size(mask, image["width"], image["height"])
    return {
        **image,
        "mask": str(record["mask"]),
        "binary": bool(record["binary"]),
        "classes": list(record["classes"]),
        "present": _classes_in(mask, len(record["classes"])),
    }


def _check_size(mask: np.ndarray, width: int, height: int) -> None:
    if mask.shape == (height, width):
        return
    mask_height, mask_width = mask.shape
    raise Unusable(
        say(
            f"its mask has {mask_width} × {mask_height} pixels, the "
            f"picture {width} × {height}.",
            f"掩码为 {mask_width} × {mask_height} 像素，图片为 {width} × {height}。",
        ),
        say("Give masks of the picture's size.", "请提供与图片同样大小的掩码。"),
    )


def _classes_in(mask: np.ndarray, count: int) -> list[int]:
    """Return the numbers of the classes in a mask; there are `count` classes."""
    present = [int(value) for value in np.unique(mask) if value != IGNORED]
    if not present or present[-1] >= count:
        raise Unusable(
            say(
                f"its mask has the values {present}; there are {count} classes.",
                f"掩码的取值为 {present}；类别共 {count} 个。",
            ),
            say(
                "Name every class in classes.txt, one a line, from number 0.",
                "请在 classes.txt 中从编号 0 起逐行写出所有类别。",
            ),
        )
    return present


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
    check_augmentations(config.augment, AUGMENTATIONS)
    pixels = np.zeros(256, np.int64)
    if config.class_weights == "balanced":
        for example in examples:
            path = Path(example.columns["mask"])
            mask = read_mask(path, example.columns["binary"])
            pixels += np.bincount(mask.ravel(), minlength=256)
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

    net = net_for(
        base,
        AutoModelForSemanticSegmentation,
        LiteForSemanticSegmentation,
        spec["labels"],
        config.dropout,
    )
    return Segmenter(net, base, spec, config)


class Segmenter(PictureLearner):
    """A net that gives every pixel a class.

    Batches have mask uint8 [B, H, W] at the input's size, and size [B, 2], width and
    height of each image.
    """

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
        self.weights: Tensor | None = None
        if config.class_weights == "balanced":
            self.weights = balanced_weights(spec["pixels"])

    def encode(self, columns: Mapping[str, Any], max_length: int) -> Features:
        if "width" in columns:
            width, height = columns["width"], columns["height"]
        else:
            width, height = open_rgb(columns["image"]).size
        return {
            **super().encode(columns, max_length),
            "mask": self._mask(columns),
            "size": np.array([width, height]),
        }

    def _mask(self, columns: Mapping[str, Any]) -> np.ndarray:
        """Return the mask at the input's size, uint8 [H, W]."""
        size = (self.preparation.width, self.preparation.height)
        if "mask" not in columns:
            return np.full(size[::-1], IGNORED, np.uint8)
        return _resize(read_mask(Path(columns["mask"]), columns["binary"]), size)

    def collate(self, features: Sequence[Features]) -> Batch:
        return {
            **super().collate(features),
            "mask": torch.from_numpy(np.stack([item["mask"] for item in features])),
            "size": torch.from_numpy(np.stack([item["size"] for item in features])),
        }

    def logits(self, batch: Batch) -> Tensor:
        """Return logits [B, C, H, W] of a prepared batch, at the input's size."""
        return F.interpolate(
            self.net(pixel_values=batch["input"]).logits.float(),
            batch["input"].shape[2:],
            mode="bilinear",
            align_corners=False,
        )

    def _losses(self, logits: Tensor, mask: Tensor, weights: Tensor | None) -> Tensor:
        """Return the loss of each image, [B]."""
        mask = mask.long()
        has_class = mask != IGNORED
        of_pixels = F.cross_entropy(
            logits, mask, weights, ignore_index=IGNORED, reduction="none"
        )
        losses = of_pixels.sum((1, 2)) / has_class.sum((1, 2)).clamp(min=1)
        if self.config.dice:
            losses = losses + self.config.dice * _dice(logits, mask, has_class)
        return losses

    def loss(self, batch: Batch) -> Loss:
        weights = None if self.weights is None else self.weights.to(self.device)
        losses = self._losses(self.logits(batch), batch["mask"], weights)
        return Loss(losses.sum(), len(losses))

    def metrics(self) -> Sequence[Metric]:
        label = ("Pixel accuracy", "像素准确率")
        return [mean_iou(), Metric("pixel_accuracy", shares, "higher", label)]

    def evaluate(self, batch: Batch) -> list[Evaluation]:
        logits = self.logits(batch)
        rows = zip(
            self._losses(logits, batch["mask"], None).tolist(),
            logits.argmax(1).cpu().numpy(),
            batch["mask"].cpu().numpy(),
            batch["size"].tolist(),
            strict=True,
        )
        return [self._evaluate_image(*row) for row in rows]

    def _evaluate_image(
        self, loss: float, predicted: np.ndarray, mask: np.ndarray, size: list[int]
    ) -> Evaluation:
        """Return how one image goes.

        Args:
            loss: Its loss.
            predicted: Classes [H, W].
            mask: The true classes [H, W].
            size: The image's width and height.
        """
        count = len(self.labels)
        has_class = mask != IGNORED
        pairs = mask[has_class].astype(np.int64) * count + predicted[has_class]
        confusion = np.bincount(pairs, minlength=count**2).reshape(count, count)
        right = confusion.diagonal()
        union = confusion.sum(0) + confusion.sum(1) - right
        overlaps = np.stack([right, union], 1).astype(np.float64)
        return Evaluation(
            loss,
            {
                "mean_iou": overlaps.ravel(),
                "pixel_accuracy": np.array([right.sum(), has_class.sum()], np.float64),
            },
            self._answer(predicted, size),
        )

    def _answer(self, predicted: np.ndarray, size: list[int]) -> Mapping[str, Any]:
        width, height = size
        classes = _resize(predicted.astype(np.uint8), (width, height))
        masks = {
            self.labels[number]: run_lengths(classes == number)
            for number in np.unique(classes)
        }
        return {"size": [height, width], "masks": masks}


def _resize(mask: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Return a mask uint8 [H, W] at another size, (width, height)."""
    from PIL import Image

    return np.asarray(Image.fromarray(mask).resize(size, Image.Resampling.NEAREST))


def _dice(logits: Tensor, mask: Tensor, has_class: Tensor) -> Tensor:
    """Return 1 - Dice, averaged over the classes that each image has, [B]."""
    probabilities = logits.softmax(1) * has_class[:, None]
    one_hot = F.one_hot(mask.where(has_class, 0), logits.shape[1])
    target = one_hot.permute(0, 3, 1, 2) * has_class[:, None]
    both = (probabilities * target).sum((2, 3))
    sizes = probabilities.sum((2, 3)) + target.sum((2, 3))
    present = target.sum((2, 3)) > 0
    losses = (1 - 2 * both / sizes.clamp(min=1e-6)) * present
    return losses.sum(1) / present.sum(1).clamp(min=1)


def run_lengths(mask: np.ndarray) -> list[int]:
    """Return COCO's uncompressed code of a mask [H, W].

    These are the lengths of runs down the columns, of 0 and 1 by turns, beginning with
    0.
    """
    flat = mask.ravel(order="F").astype(np.int8)
    changes = np.flatnonzero(np.diff(flat)) + 1
    lengths = np.diff(np.concatenate([[0], changes, [len(flat)]])).tolist()
    return [0, *lengths] if flat[0] else lengths
