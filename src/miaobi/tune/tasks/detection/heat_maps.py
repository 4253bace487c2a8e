"""The detector of efficientnet-lite0 (TTFNet, Liu et al. 2019, arXiv:1909.00700).

Each box writes a Gaussian bump into its label's heat map, and the cells in its middle
predict the distances to its sides:

    L_i = 1/n_i Σ focal(heat, bump) + λ/m_i Σ (1 - GIoU),   for image i with n_i boxes and m_i cells in their middles

focal: Law and Deng 2018 (arXiv:1808.01244), eq. 1.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from miaobi.nn.objective import Batch
from miaobi.tune.image import boxes
from miaobi.tune.tasks.detection.detector import (
    MAX_DETECTIONS,
    Detections,
    Detector,
    detections_of,
)

STRIDE = 4
"""Pixels of the input to a cell of the maps."""
SPREAD = 0.54
"""A bump's standard deviation, as a share of a sixth of the box (of TTFNet)."""
MIDDLE = 0.54
"""The share of the box whose cells predict its sides (of TTFNet)."""
SIDES_WEIGHT = 5.0
"""λ (of TTFNet)."""


class Targets(NamedTuple):
    """What the maps should be, for a batch of B images and maps of h × w cells."""

    heat: Tensor
    """[B, K, h, w], with 1 at each box's middle."""
    middle: Tensor
    """bool [B, h, w]: whether a cell predicts sides."""
    corners: Tensor
    """[B, 4, h, w]: the corners it predicts, in pixels of the input."""


class HeatMapDetector(Detector):
    """efficientnet-lite0 with a heat map for each label, and maps of distances."""

    def losses(self, batch: Batch) -> Tensor:
        output = self.net(pixel_values=batch["input"])
        heat = output.heat.float()
        targets = self.targets(batch, heat.shape)
        count = len(heat)
        box_counts = torch.bincount(batch["owner"], minlength=count).clamp(min=1)
        heat_losses = _focal(heat, targets.heat).sum((1, 2, 3)) / box_counts
        return heat_losses + self._side_losses(output.sides.float(), targets)

    def _side_losses(self, sides: Tensor, targets: Targets) -> Tensor:
        """Return λ times the mean of 1 - GIoU over the middle cells of each image, [B]."""
        count, _, height, width = sides.shape
        cells = targets.middle.flatten().nonzero()[:, 0]
        image = cells // (height * width)
        predicted = _cell_rows(self.corners(sides))[cells]
        true = _cell_rows(targets.corners)[cells]
        losses = 1 - boxes.generalised_iou(predicted, true)
        cell_counts = torch.bincount(image, minlength=count).clamp(min=1)
        zeros = torch.zeros(count, dtype=losses.dtype, device=losses.device)
        return SIDES_WEIGHT * zeros.index_add(0, image, losses) / cell_counts

    def targets(self, batch: Batch, shape: torch.Size) -> Targets:
        """Return the targets of a prepared batch for heat maps of this shape.

        Small boxes come last: where boxes cover each other, a cell belongs to the
        smaller.
        """
        device = batch["input"].device
        count, _, height, width = shape
        heat = torch.zeros(shape, device=device)
        middle = torch.zeros(count, height, width, dtype=torch.bool, device=device)
        corners = torch.zeros(count, 4, height, width, device=device)
        scale = torch.tensor([width, height] * 2, device=device)
        ys = torch.arange(height, device=device) + 0.5
        xs = torch.arange(width, device=device) + 0.5
        scaled = list(
            zip(
                batch["owner"].tolist(), batch["label"].tolist(), batch["boxes"] * scale
            )
        )
        scaled.sort(key=lambda item: -_area(item[2]))
        for owner, label, box in scaled:
            centre = (box[:2] + box[2:]) / 2
            size = box[2:] - box[:2]
            row = int(centre[1].clamp(0, height - 1))
            column = int(centre[0].clamp(0, width - 1))
            spread = (size * SPREAD / 6).clamp(min=1e-3)
            # The bump is centred on the cell that holds the middle, so that its top
            # is exactly 1.
            bump = _bell(ys - row - 0.5, spread[1])[:, None]
            bump = bump * _bell(xs - column - 0.5, spread[0])[None]
            heat[owner, label] = torch.maximum(heat[owner, label], bump)
            near_y = (ys - centre[1]).abs() <= MIDDLE * size[1] / 2
            near_x = (xs - centre[0]).abs() <= MIDDLE * size[0] / 2
            inside = near_y[:, None] & near_x[None]
            inside[row, column] = True
            middle[owner] |= inside
            corners[owner] = torch.where(
                inside[None], (box * STRIDE)[:, None, None], corners[owner]
            )
        return Targets(heat, middle, corners)

    def corners(self, sides: Tensor) -> Tensor:
        """Return corners of distances [B, 4, h, w]; both in pixels of the input."""
        height, width = sides.shape[2:]
        ys = (torch.arange(height, device=sides.device) + 0.5) * STRIDE
        xs = (torch.arange(width, device=sides.device) + 0.5) * STRIDE
        cells = torch.stack(
            [xs.expand(height, width), ys[:, None].expand(height, width)]
        )
        return torch.cat([cells - sides[:, :2], cells + sides[:, 2:]], 1)

    def detect(self, batch: Batch) -> list[Detections]:
        output = self.net(pixel_values=batch["input"])
        heat = output.heat.float().sigmoid()
        is_peak = F.max_pool2d(heat, 3, 1, 1) == heat
        peaks = torch.where(is_peak, heat, 0.0)
        height, width = heat.shape[2:]
        count = min(MAX_DETECTIONS, heat[0].numel())
        scores, indices = peaks.flatten(1).topk(count)
        labels = indices // (height * width)
        cells = indices % (height * width)
        size = torch.tensor([width, height] * 2, device=heat.device)[:, None]
        corners = self.corners(output.sides.float()).flatten(2) / STRIDE / size
        corners = corners.gather(2, cells[:, None].expand(-1, 4, -1))
        return detections_of(corners.transpose(1, 2).clamp(0, 1), labels, scores)


def _focal(logits: Tensor, target: Tensor) -> Tensor:
    """Return the penalty-reduced focal loss of each cell, [B, K, h, w]."""
    log_yes = F.logsigmoid(logits)
    log_no = F.logsigmoid(-logits)
    probability = logits.sigmoid()
    at_middles = (1 - probability) ** 2 * log_yes
    elsewhere = (1 - target) ** 4 * probability**2 * log_no
    return -torch.where(target == 1, at_middles, elsewhere)


def _bell(distance: Tensor, spread: Tensor) -> Tensor:
    return torch.exp(-((distance / spread) ** 2) / 2)


def _area(box: Tensor) -> float:
    return float((box[2:] - box[:2]).prod())


def _cell_rows(maps: Tensor) -> Tensor:
    """Return [B · h · w, 4] of maps [B, 4, h, w]."""
    return maps.permute(0, 2, 3, 1).reshape(-1, 4)
