"""What both detectors share: batches of boxes, mirroring, and how answers are scored."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from miaobi.models.base import Base
from miaobi.nn.objective import Batch, Loss
from miaobi.tune.heads import DetectionHead as Config
from miaobi.tune.image import boxes
from miaobi.tune.image.input import open_rgb, preparation
from miaobi.tune.image.learner import PictureLearner
from miaobi.tune.image.metrics import f1, shares
from miaobi.tune.learner import Evaluation, Features, Metric

MAX_DETECTIONS = 100
"""Answers for an image, as COCO counts them."""


@dataclass(frozen=True)
class Detections:
    """The boxes of one image, best first."""

    corners: np.ndarray
    """[N, 4], as shares of the sides."""
    labels: np.ndarray
    """int64 [N]."""
    scores: np.ndarray
    """[N], in [0, 1]."""

    def above(self, threshold: float) -> Detections:
        """Return those that score at least `threshold`."""
        rows = self.scores >= threshold
        return Detections(self.corners[rows], self.labels[rows], self.scores[rows])


def detections_of(corners: Tensor, labels: Tensor, scores: Tensor) -> list[Detections]:
    """Return the detections of each image.

    Args:
        corners: [B, N, 4].
        labels: [B, N].
        scores: [B, N].
    """
    images = zip(
        corners.cpu().numpy(), labels.cpu().numpy(), scores.cpu().numpy(), strict=True
    )
    return [Detections(*image) for image in images]


class Detector(PictureLearner):
    """A net that finds boxes.

    Batches have the boxes of all images one after another: boxes [N, 4], corners as
    shares of the sides; label [N]; owner [N], the index of the image; and size [B, 2],
    width and height of each image.
    """

    def __init__(
        self, net: Any, base: Base, spec: Mapping[str, Any], config: Config
    ) -> None:
        super().__init__(
            net,
            preparation(base, config.image_size, spec["side"], stretch=True),
            spec["labels"],
            [name for name in config.augment if name != "flip"],
            base,
        )
        self.config = config
        self.mirrors = "flip" in config.augment
        """Mirroring moves boxes too, so `prepare` does it here."""

    def encode(self, columns: Mapping[str, Any], max_length: int) -> Features:
        if "width" in columns:
            width, height = columns["width"], columns["height"]
        else:
            width, height = open_rgb(columns["image"]).size
        objects = columns.get("objects", [])
        corners = np.array([item["box"] for item in objects], np.float32).reshape(-1, 4)
        corners[:, 2:] += corners[:, :2]
        labels = [self.labels.index(item["label"]) for item in objects]
        return {
            **super().encode(columns, max_length),
            "boxes": corners / np.array([width, height] * 2, np.float32),
            "size": np.array([width, height]),
            "label": np.array(labels, np.int64),
        }

    def collate(self, features: Sequence[Features]) -> Batch:
        corners = np.concatenate([item["boxes"] for item in features])
        labels = np.concatenate([item["label"] for item in features])
        sizes = np.stack([item["size"] for item in features])
        counts = torch.tensor([len(item["label"]) for item in features])
        return {
            **super().collate(features),
            "boxes": torch.from_numpy(corners),
            "label": torch.from_numpy(labels),
            "owner": torch.arange(len(features)).repeat_interleave(counts),
            "size": torch.from_numpy(sizes),
        }

    def prepare(self, batch: Batch) -> Batch:
        if self.training and self.mirrors:
            batch = _mirror_half(batch)
        return super().prepare(batch)

    def metrics(self) -> Sequence[Metric]:
        threshold = f"{self.config.threshold:g}"
        return [
            Metric(
                "map",
                shares,
                "higher",
                (
                    "Mean average precision (over pictures with boxes)",
                    "平均精度均值（按有框图片平均）",
                ),
            ),
            Metric(
                "f1",
                f1,
                "higher",
                (
                    f"F1 at IoU 0.5 and score {threshold}",
                    f"F1（IoU 0.5，分数 {threshold}）",
                ),
            ),
            Metric(
                "iou",
                shares,
                "higher",
                (
                    "Mean overlap of each box with the best answer",
                    "每个框与最佳回答的平均交并比",
                ),
            ),
        ]

    @abstractmethod
    def losses(self, batch: Batch) -> Tensor:
        """Return the loss of each image of a prepared batch, [B]."""

    @abstractmethod
    def detect(self, batch: Batch) -> list[Detections]:
        """Return at most MAX_DETECTIONS boxes of each image of a prepared batch."""

    def loss(self, batch: Batch) -> Loss:
        return Loss(self.losses(batch).sum(), len(batch["input"]))

    def evaluate(self, batch: Batch) -> list[Evaluation]:
        losses = self.losses(batch).tolist()
        detections = self.detect(batch)
        owner = batch["owner"].cpu().numpy()
        corners = batch["boxes"].cpu().numpy()
        labels = batch["label"].cpu().numpy()
        sizes = batch["size"].cpu().numpy()
        evaluations = list[Evaluation]()
        for index, size in enumerate(sizes):
            own = owner == index
            evaluations.append(
                self._evaluate_image(
                    losses[index], detections[index], corners[own], labels[own], size
                )
            )
        return evaluations

    def _evaluate_image(
        self,
        loss: float,
        detections: Detections,
        corners: np.ndarray,
        labels: np.ndarray,
        size: np.ndarray,
    ) -> Evaluation:
        """Return how one image goes.

        Args:
            loss: Its loss.
            detections: What the net found.
            corners: The true boxes [M, 4], as shares of the sides.
            labels: Their labels [M].
            size: Width and height in pixels.
        """
        answers = detections.above(self.config.threshold)
        return Evaluation(
            loss,
            {
                "map": _precision_counts(detections, corners, labels),
                "f1": _f1_counts(answers, corners, labels),
                "iou": _overlap_counts(answers, corners, labels),
            },
            self._answer(answers, size),
        )

    def _answer(self, detections: Detections, size: np.ndarray) -> list[dict[str, Any]]:
        rows = zip(detections.corners, detections.labels, detections.scores)
        return [
            {
                "label": self.labels[label],
                "score": round(float(score), 4),
                "box": _pixels(corners, size),
            }
            for corners, label, score in rows
        ]


def _mirror_half(batch: Batch) -> Batch:
    """Return the batch with about half of the images and their boxes mirrored."""
    pixels = batch["pixels"]
    mirrored = torch.rand(len(pixels), device=pixels.device) < 0.5
    left, top, right, bottom = batch["boxes"].unbind(1)
    mirrored_boxes = torch.stack([1 - right, top, 1 - left, bottom], 1)
    box_mirrored = mirrored[batch["owner"]][:, None]
    return {
        **batch,
        "pixels": torch.where(mirrored[:, None, None, None], pixels.flip(3), pixels),
        "boxes": torch.where(box_mirrored, mirrored_boxes, batch["boxes"]),
    }


def _precision_counts(
    detections: Detections, corners: np.ndarray, labels: np.ndarray
) -> np.ndarray:
    """Return [average precision, 1]; an image without boxes has none."""
    if not len(corners):
        return np.array([0.0, 0.0])
    precision = boxes.average_precision(
        detections.corners, detections.labels, corners, labels
    )
    return np.array([precision, 1.0])


def _f1_counts(
    detections: Detections, corners: np.ndarray, labels: np.ndarray
) -> np.ndarray:
    """Return [true positives, false positives, false negatives] at IoU 0.5."""
    matched = boxes.matched(detections.corners, detections.labels, corners, labels, 0.5)
    right = matched.sum()
    return np.array(
        [right, len(matched) - right, len(corners) - right],
        np.float64,
    )


def _overlap_counts(
    detections: Detections, corners: np.ndarray, labels: np.ndarray
) -> np.ndarray:
    """Return [Σ over boxes of the best overlap with their label, how many boxes]."""
    same_label = detections.labels[:, None] == labels[None]
    overlaps = np.where(same_label, boxes.iou(detections.corners, corners), 0.0)
    return np.array([overlaps.max(0, initial=0.0).sum(), len(corners)], np.float64)


def _pixels(corners: np.ndarray, size: np.ndarray) -> list[float]:
    """Return [left, top, width, height] in pixels."""
    left, top, right, bottom = (corners * np.tile(size, 2)).tolist()
    return [round(value, 1) for value in (left, top, right - left, bottom - top)]
