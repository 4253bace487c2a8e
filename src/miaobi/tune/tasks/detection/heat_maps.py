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
        targets = Targets(
            heat=torch.zeros(shape, device=device),
            middle=torch.zeros(count, height, width, dtype=torch.bool, device=device),
            corners=torch.zeros(count, 4, height, width, device=device),
        )
        scale = torch.tensor([width, height] * 2, device=device)
        corners = batch["boxes"] * scale
        owners = batch["owner"].tolist()
        labels = batch["label"].tolist()
        order = sorted(range(len(corners)), key=lambda index: -_area(corners[index]))
        for index in order:
            _draw_box(targets, owners[index], labels[index], corners[index])
        return targets

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


def _draw_box(targets: Targets, image: int, label: int, box: Tensor) -> None:
    """Write one box into the targets of its image.

    Args:
        targets: Of the batch; changed in place.
        image: Its index.
        label: The label's index.
        box: Corners, in cells.
    """
    height, width = targets.middle.shape[1:]
    ys = torch.arange(height, device=box.device) + 0.5
    xs = torch.arange(width, device=box.device) + 0.5
    x, y = (box[:2] + box[2:]) / 2
    box_width, box_height = box[2:] - box[:2]
    row = int(y.clamp(0, height - 1))
    column = int(x.clamp(0, width - 1))
    # The bump is centred on the cell that holds the middle, so that its top is
    # exactly 1.
    bump_y = _bell(ys - row - 0.5, box_height)
    bump_x = _bell(xs - column - 0.5, box_width)
    heat = targets.heat[image, label]
    heat.copy_(torch.maximum(heat, bump_y[:, None] * bump_x[None]))
    near_y = (ys - y).abs() <= MIDDLE * box_height / 2
    near_x = (xs - x).abs() <= MIDDLE * box_width / 2
    inside = near_y[:, None] & near_x[None]
    inside[row, column] = True
    targets.middle[image] |= inside
    corners = (box * STRIDE)[:, None, None]
    targets.corners[image] = torch.where(inside[None], corners, targets.corners[image])


def _bell(distance: Tensor, size: Tensor) -> Tensor:
    """Return the bump of a box of this size along one side."""
    spread = (size * SPREAD / 6).clamp(min=1e-3)
    return torch.exp(-((distance / spread) ** 2) / 2)


def _area(box: Tensor) -> float:
    return float((box[2:] - box[:2]).prod())


def _cell_rows(maps: Tensor) -> Tensor:
    """Return [B · h · w, 4] of maps [B, 4, h, w]."""
    return maps.permute(0, 2, 3, 1).reshape(-1, 4)
