"""Object detection: boxes with labels in a picture.

Two kinds of heads. On efficientnet-lite0 ours (Liu et al. 2019, arXiv:1909.00700): each
box writes a Gaussian bump into its label's heat map, and the places in its middle tell
the distances to its sides:

    L_i = 1/n_i Σ focal(heat, bump) + λ/m_i Σ (1 - GIoU),   for picture i with n_i boxes and m_i places in their middles

focal: Law and Deng 2018 (arXiv:1808.01244), eq. 1. Transformers' own detectors (DETR,
    YOLOS, RT-DETR, D-FINE ...) keep their set criterion, which averages within a batch;
    with accumulation, theirs is a mean of means.

Pictures are stretched to the model's size, so that a box is a share of the sides;
answers are in pixels of the picture.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

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
from miaobi.tune.image import boxes
from miaobi.tune.image.input import check_augmentations, open_rgb, preparation
from miaobi.tune.image.learner import PictureLearner, label_counts, net_for, side_of
from miaobi.tune.image.metrics import f1, shares
from miaobi.tune.image.nets import LiteForObjectDetection
from miaobi.tune.learner import Evaluation, Example, Features, Metric

NAME = "object-detection"
SUMMARY = "boxes with labels in each picture", "在每张图片中框出带标签的物体"
MODALITY, READER, MAKES = "image", "boxes", "labels"
EXAMPLE = '{"image": "photos/a.jpg", "objects": [{"label": "cat", "box": [left, top, width, height]}]}'
STRIDE = 4
MOST = 100
"""Answers for a picture, as COCO counts them."""
SPREAD, MIDDLE, SIDES = 0.54, 0.54, 5.0
"""Of TTFNet: a bump's width as a share of a sixth of the box, the share of the box
whose places tell its sides, and the weight of their loss.
"""
AUGMENTATIONS = ("flip", "colour", "noise", "cutout")


@dataclass(frozen=True)
class Config:
    image_size: int = 0
    """Pixels of a side; 0 for the base's own, at most 512 (for efficientnet-lite0: 112
    for pictures of at most 64 pixels, else 224).
    """
    augment: list[str] = field(default_factory=list)
    """Changes drawn anew for every training picture: flip, colour, noise, cutout."""
    threshold: float = 0.3
    """Answers below this score are not given, and not counted by F1."""


def columns(record: Mapping[str, Any], config: Config) -> Mapping[str, Any]:
    picture, found = picture_of(record, EXAMPLE), record.get("objects")
    if isinstance(found, Mapping):  # columns of lists, as `datasets` keeps them
        labels, corners = (
            found.get(one, found.get(other))
            for one, other in (("category", "label"), ("bbox", "box"))
        )
        found = [
            {"label": label, "box": box}
            for label, box in zip(labels or (), corners or ())
        ]
    if not isinstance(found, list):
        raise Unusable(say("no objects.", "缺少 objects。"), EXAMPLE)
    return {
        **picture,
        "objects": [
            _object(item, picture["width"], picture["height"]) for item in found
        ],
    }


def _object(item: Mapping[str, Any], width: int, height: int) -> Mapping[str, Any]:
    """Label and box in pixels, cut to the picture."""
    try:
        label, box = (
            str(item["label"]),
            [float(value) for value in item.get("shares") or item["box"]],
        )
        if "shares" in item:
            across, down, wide, high = box
            box = [
                (across - wide / 2) * width,
                (down - high / 2) * height,
                wide * width,
                high * height,
            ]
        left, top, wide, high = box
    except (KeyError, TypeError, ValueError):
        raise Unusable(
            say(f"an object is {item!r:.80}.", f"某个 objects 项为 {item!r:.80}。"),
            EXAMPLE,
        ) from None
    right, bottom = min(left + wide, width), min(top + high, height)
    left, top = max(left, 0.0), max(top, 0.0)
    if not (right > left and bottom > top):
        raise Unusable(
            say(
                f"the box {box} of {label!r} lies outside the picture of {width} × {height} pixels, or has no area.",
                f"{label!r} 的框 {box} 在 {width} × {height} 的图片之外，或面积为零。",
            ),
            say(
                "Boxes are [left, top, width, height] in pixels.",
                "框的格式为 [左, 上, 宽, 高]，单位像素。",
            ),
        )
    return {
        "label": label,
        "box": [
            round(left, 2),
            round(top, 2),
            round(right - left, 2),
            round(bottom - top, 2),
        ],
    }


def question(columns: Mapping[str, Any]) -> Mapping[str, Any]:
    return picture_columns(columns)


group = question


def survey(examples: Sequence[Example], config: Config) -> Mapping[str, Any]:
    counts = label_counts(
        [item["label"] for example in examples for item in example.columns["objects"]]
    )
    if not counts:
        raise BadInput(
            say("No picture has a box.", "没有任何图片带有标注框。"),
            say(f"Expected {EXAMPLE}", f"应为 {EXAMPLE}"),
        )
    check_augmentations(config.augment, AUGMENTATIONS)
    return {"labels": list(counts), "counts": counts, "side": side_of(examples)}


def check(example: Example, spec: Mapping[str, Any], config: Config) -> None:
    for item in example.columns["objects"]:
        if item["label"] not in spec["labels"]:
            raise unseen(item["label"], spec["labels"])


def learner(base: Base, spec: Mapping[str, Any], config: Config) -> Detector:
    from transformers import AutoModelForObjectDetection

    net = net_for(
        base, AutoModelForObjectDetection, LiteForObjectDetection, spec["labels"], 0.0
    )
    return (OwnDetector if isinstance(net, LiteForObjectDetection) else TheirDetector)(
        net, base, spec, config
    )


class Detector(PictureLearner):
    """Batches: boxes [N, 4], corners as shares of the sides, and label [N], of all
    pictures one after another; owner [N] tells whose.
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

    def encode(self, columns: Mapping[str, Any], max_length: int) -> Features:
        width, height = (
            (columns["width"], columns["height"])
            if "width" in columns
            else open_rgb(columns["image"]).size
        )
        objects = columns.get("objects", [])
        corners = np.array([item["box"] for item in objects], np.float32).reshape(-1, 4)
        corners[:, 2:] += corners[:, :2]
        return {
            **super().encode(columns, max_length),
            "boxes": corners / np.array([width, height] * 2, np.float32),
            "size": np.array([width, height]),
            "label": np.array(
                [self.labels.index(item["label"]) for item in objects], np.int64
            ),
        }

    def collate(self, features: Sequence[Features]) -> Batch:
        counts = torch.tensor([len(item["label"]) for item in features])
        return {
            **super().collate(features),
            "boxes": torch.from_numpy(
                np.concatenate([item["boxes"] for item in features])
            ),
            "label": torch.from_numpy(
                np.concatenate([item["label"] for item in features])
            ),
            "owner": torch.arange(len(features)).repeat_interleave(counts),
            "size": torch.from_numpy(np.stack([item["size"] for item in features])),
        }

    def prepare(self, batch: Batch) -> Batch:
        if "input" in batch or not self.training or "flip" not in self.augment:
            return super().prepare(batch)
        # A mirrored picture has mirrored boxes, so this one is drawn here.
        turned = torch.rand(len(batch["pixels"]), device=batch["pixels"].device) < 0.5
        pixels = torch.where(
            turned[:, None, None, None], batch["pixels"].flip(3), batch["pixels"]
        )
        left, top, right, bottom = batch["boxes"].unbind(1)
        mirrored = torch.stack([1 - right, top, 1 - left, bottom], 1)
        names, self.augment = (
            self.augment,
            [name for name in self.augment if name != "flip"],
        )
        try:
            return super().prepare(
                {
                    **batch,
                    "pixels": pixels,
                    "boxes": torch.where(
                        turned[batch["owner"]][:, None], mirrored, batch["boxes"]
                    ),
                }
            )
        finally:
            self.augment = names

    def metrics(self) -> Sequence[Metric]:
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
                    f"F1 at IoU 0.5 and score {self.config.threshold:g}",
                    f"F1（IoU 0.5，分数 {self.config.threshold:g}）",
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
        """[B]."""

    @abstractmethod
    def found(self, batch: Batch) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """(corners as shares [N, 4], label [N], score [N]) of each picture, best first."""

    def loss(self, batch: Batch) -> Loss:
        batch = self.prepare(batch)
        return Loss(self.losses(batch).sum(), len(batch["input"]))

    def evaluate(self, batch: Batch) -> list[Evaluation]:
        batch = self.prepare(batch)
        owner, wanted, labels, sizes = (
            batch[name].cpu().numpy() for name in ("owner", "boxes", "label", "size")
        )
        return [
            self._judged(
                loss,
                found,
                wanted[owner == place],
                labels[owner == place],
                sizes[place],
            )
            for place, (loss, found) in enumerate(
                zip(self.losses(batch).tolist(), self.found(batch), strict=True)
            )
        ]

    def _judged(
        self,
        loss: float,
        found: tuple[np.ndarray, np.ndarray, np.ndarray],
        wanted: np.ndarray,
        wanted_labels: np.ndarray,
        size: np.ndarray,
    ) -> Evaluation:
        corners, labels, scores = found
        precision = (
            [boxes.average_precision(corners, labels, wanted, wanted_labels), 1.0]
            if len(wanted)
            else [0.0, 0.0]
        )
        given = scores >= self.config.threshold
        right = boxes.matched(
            corners[given], labels[given], wanted, wanted_labels, 0.5
        ).sum()
        alike = np.where(
            labels[given][:, None] == wanted_labels[None],
            boxes.iou(corners[given], wanted),
            0.0,
        )
        answer = [
            {
                "label": self.labels[label],
                "score": round(float(score), 4),
                "box": _pixels(box, size),
            }
            for box, label, score in zip(corners[given], labels[given], scores[given])
        ]
        return Evaluation(
            loss,
            {
                "map": np.array(precision),
                "f1": np.array(
                    [right, given.sum() - right, len(wanted) - right], np.float64
                ),
                "iou": np.array(
                    [alike.max(0, initial=0.0).sum(), len(wanted)], np.float64
                ),
            },
            answer,
        )


def _pixels(corners: np.ndarray, size: np.ndarray) -> list[float]:
    left, top, right, bottom = (corners * np.tile(size, 2)).tolist()
    return [round(value, 1) for value in (left, top, right - left, bottom - top)]


class OwnDetector(Detector):
    def losses(self, batch: Batch) -> Tensor:
        made = self.net(pixel_values=batch["input"])
        heat, sides = made.heat.float(), made.sides.float()
        target, middle, corners = self.targets(batch, heat.shape)
        owner, count = batch["owner"], len(heat)
        log_yes, log_no, probability = (
            F.logsigmoid(heat),
            F.logsigmoid(-heat),
            heat.sigmoid(),
        )
        focal = -torch.where(
            target == 1,
            (1 - probability) ** 2 * log_yes,
            (1 - target) ** 4 * probability**2 * log_no,
        )
        number = torch.bincount(owner, minlength=count).clamp(min=1)
        rows = middle.flatten().nonzero()[:, 0]
        picture = rows // (heat.shape[2] * heat.shape[3])
        around = self.corners(sides).permute(0, 2, 3, 1).reshape(-1, 4)[rows]
        apart = 1 - boxes.generalised_iou(
            around, corners.permute(0, 2, 3, 1).reshape(-1, 4)[rows]
        )
        places = torch.bincount(picture, minlength=count).clamp(min=1)
        return (
            focal.sum((1, 2, 3)) / number
            + SIDES
            * torch.zeros_like(number, dtype=apart.dtype).index_add(0, picture, apart)
            / places
        )

    def targets(self, batch: Batch, shape: torch.Size) -> tuple[Tensor, Tensor, Tensor]:
        """(heat [B, K, h, w] with 1 at each box's middle, whether a place tells sides
        [B, h, w], the corners it tells [B, 4, h, w] in pixels).

        Small boxes come last: where boxes cover each other, a place belongs to the smaller.
        """
        device = batch["input"].device
        count, _, height, width = shape
        heat, middle, corners = (
            torch.zeros(shape, device=device),
            torch.zeros(count, height, width, dtype=torch.bool, device=device),
            torch.zeros(count, 4, height, width, device=device),
        )
        scale = torch.tensor([width, height] * 2, device=device)
        rows, across = (
            torch.arange(size, device=device) + 0.5 for size in (height, width)
        )
        for owner, label, corner in sorted(
            zip(
                batch["owner"].tolist(), batch["label"].tolist(), batch["boxes"] * scale
            ),
            key=lambda item: -float((item[2][2:] - item[2][:2]).prod()),
        ):
            middle_of, size = (corner[:2] + corner[2:]) / 2, corner[2:] - corner[:2]
            spread = (size * SPREAD / 6).clamp(min=1e-3)
            row, column = (
                int(middle_of[1].clamp(0, height - 1)),
                int(middle_of[0].clamp(0, width - 1)),
            )
            # The bump is centred on the place that holds the middle, so that its top is
            # exactly 1.
            bump = (
                torch.exp(-(((rows - row - 0.5) / spread[1]) ** 2) / 2)[:, None]
                * torch.exp(-(((across - column - 0.5) / spread[0]) ** 2) / 2)[None]
            )
            heat[owner, label] = torch.maximum(heat[owner, label], bump)
            inside = ((rows - middle_of[1]).abs() <= MIDDLE * size[1] / 2)[:, None] & (
                (across - middle_of[0]).abs() <= MIDDLE * size[0] / 2
            )[None]
            inside[row, column] = True
            middle[owner] |= inside
            corners[owner] = torch.where(
                inside[None], (corner * STRIDE)[:, None, None], corners[owner]
            )
        return heat, middle, corners

    def corners(self, sides: Tensor) -> Tensor:
        """Distances [B, 4, h, w] -> corners in pixels of the input, [B, 4, h, w]."""
        height, width = sides.shape[2:]
        down, across = (
            (torch.arange(size, device=sides.device) + 0.5) * STRIDE
            for size in (height, width)
        )
        place = torch.stack(
            [across.expand(height, width), down[:, None].expand(height, width)]
        )
        return torch.cat([place - sides[:, :2], place + sides[:, 2:]], 1)

    def found(self, batch: Batch) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        made = self.net(pixel_values=batch["input"])
        heat = made.heat.float().sigmoid()
        heat = torch.where(
            F.max_pool2d(heat, 3, 1, 1) == heat, heat, 0.0
        )  # the tops of bumps
        height, width = heat.shape[2:]
        scores, places = heat.flatten(1).topk(min(MOST, heat[0].numel()))
        corners = (
            self.corners(made.sides.float()).flatten(2)
            / STRIDE
            / torch.tensor([width, height] * 2, device=heat.device)[:, None]
        )
        picked = (
            corners.gather(2, (places % (height * width))[:, None].expand(-1, 4, -1))
            .transpose(1, 2)
            .clamp(0, 1)
        )
        return list(
            zip(
                picked.cpu().numpy(),
                (places // (height * width)).cpu().numpy(),
                scores.cpu().numpy(),
                strict=True,
            )
        )


class TheirDetector(Detector):
    def losses(self, batch: Batch) -> Tensor:
        """In training the batch goes through at once, and each picture is given the
        mean; at rest each is judged by itself.
        """
        corners, owner = batch["boxes"], batch["owner"]
        middles = torch.cat(
            [(corners[:, :2] + corners[:, 2:]) / 2, corners[:, 2:] - corners[:, :2]], 1
        )
        count = len(batch["input"])
        wanted = [
            {
                "class_labels": batch["label"][owner == place],
                "boxes": middles[owner == place],
            }
            for place in range(count)
        ]
        if self.training:
            return self.net(pixel_values=batch["input"], labels=wanted).loss.expand(
                count
            )
        return torch.stack(
            [
                self.net(
                    pixel_values=batch["input"][place : place + 1],
                    labels=wanted[place : place + 1],
                ).loss
                for place in range(count)
            ]
        )

    def found(self, batch: Batch) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """Models with a label for "nothing" choose one label for each query (DETR); the
        others score every label by itself (RT-DETR).
        """
        made = self.net(pixel_values=batch["input"])
        nothing = made.logits.shape[2] > len(self.labels)
        probabilities = (
            made.logits.float().softmax(2)[..., :-1]
            if nothing
            else made.logits.float().sigmoid()
        )
        kinds = probabilities.shape[2]
        if nothing:
            probabilities = torch.where(
                probabilities == probabilities.max(2, keepdim=True).values,
                probabilities,
                0.0,
            )
        scores, places = probabilities.flatten(1).topk(
            min(MOST, probabilities[0].numel())
        )
        middles = made.pred_boxes.float()
        corners = torch.cat(
            [
                middles[..., :2] - middles[..., 2:] / 2,
                middles[..., :2] + middles[..., 2:] / 2,
            ],
            2,
        )
        picked = corners.gather(
            1, (places // kinds)[..., None].expand(-1, -1, 4)
        ).clamp(0, 1)
        return list(
            zip(
                picked.cpu().numpy(),
                (places % kinds).cpu().numpy(),
                scores.cpu().numpy(),
                strict=True,
            )
        )
