"""Boxes: overlap, matching, and how well a picture's boxes were found. Corners are
[left, top, right, bottom].

Average precision as COCO computes it (Lin et al. 2014, arXiv:1405.0312): answers in the
order of their scores, each matched to the free box of its label with the greatest
overlap; precision made monotone and read at 101 recalls; averaged over overlaps of 0.5,
0.55, ... 0.95.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

OVERLAPS = np.arange(0.5, 1.0, 0.05)
RECALLS = np.linspace(0, 1, 101)
SMALLEST_AREA = 1e-9
TOLERANCE = 1e-9
"""Of overlaps and recalls, which are quotients."""


def iou(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Return intersection over union of every pair: [N, 4], [M, 4] -> [N, M]."""
    rows = first[:, None]
    columns = second[None]
    low = np.maximum(rows[..., :2], columns[..., :2])
    high = np.minimum(rows[..., 2:], columns[..., 2:])
    both = (high - low).clip(0).prod(-1)
    areas = _areas(rows) + _areas(columns)
    union = areas - both
    overlap: np.ndarray = both / np.maximum(union, SMALLEST_AREA)
    return overlap


def _areas(boxes: np.ndarray) -> np.ndarray:
    """Return the areas of boxes, [..., 4] -> [...]."""
    sides = boxes[..., 2:] - boxes[..., :2]
    areas: np.ndarray = sides.clip(0).prod(-1)
    return areas


def generalised_iou(first: Tensor, second: Tensor) -> Tensor:
    """Return IoU less the share of the smallest box around both that neither fills.

    In [-1, 1]: [N, 4] each -> [N] (Rezatofighi et al. 2019, arXiv:1902.09630).
    """
    first_low, first_high = torch.split(first, 2, 1)
    second_low, second_high = torch.split(second, 2, 1)
    inner_low = torch.maximum(first_low, second_low)
    inner_high = torch.minimum(first_high, second_high)
    outer_low = torch.minimum(first_low, second_low)
    outer_high = torch.maximum(first_high, second_high)
    both = _area(inner_low, inner_high)
    around = _area(outer_low, outer_high)
    areas = _area(first_low, first_high) + _area(second_low, second_high)
    union = areas - both
    overlap = both / union.clamp(min=SMALLEST_AREA)
    return overlap - (around - union) / around.clamp(min=SMALLEST_AREA)


def _area(low: Tensor, high: Tensor) -> Tensor:
    """Return width times height, 0 for boxes without extent: [N, 2] each -> [N]."""
    sides = high - low
    return sides.clamp(min=0).prod(-1)


def matched(
    answers: np.ndarray,
    labels: np.ndarray,
    boxes: np.ndarray,
    box_labels: np.ndarray,
    overlap: float,
) -> np.ndarray:
    """Return whether each answer finds a box that no better one found, bool [N].

    Args:
        answers: best score first, [N, 4].
        labels: of the answers, [N].
        boxes: that are to be found, [M, 4].
        box_labels: of these, [M].
        overlap: IoU that counts as found.
    """
    is_right = np.zeros(len(answers), bool)
    if not len(boxes):
        return is_right
    same_label = labels[:, None] == box_labels[None]
    overlaps = np.where(same_label, iou(answers, boxes), 0.0)
    is_free = np.ones(len(boxes), bool)
    for number, row in enumerate(overlaps):
        best = int(np.where(is_free, row, -1).argmax())
        if is_free[best] and row[best] >= overlap - TOLERANCE:
            is_right[number] = True
            is_free[best] = False
    return is_right


def average_precision(
    answers: np.ndarray,
    labels: np.ndarray,
    boxes: np.ndarray,
    box_labels: np.ndarray,
) -> float:
    """Return that of one picture with at least one box, over its labels together.

    Args:
        answers: best score first, [N, 4].
        labels: of the answers, [N].
        boxes: that are to be found, [M, 4].
        box_labels: of these, [M].
    """
    areas = list[float]()
    for overlap in OVERLAPS:
        is_right = matched(answers, labels, boxes, box_labels, overlap)
        areas.append(_area_under_precision(is_right, len(boxes)))
    return float(np.mean(areas))


def _area_under_precision(is_right: np.ndarray, box_count: int) -> float:
    """Return the mean of the greatest precision at or beyond each of the 101 recalls."""
    if not len(is_right):
        return 0.0
    hits = is_right.cumsum()
    precision = hits / np.arange(1, len(is_right) + 1)
    best_beyond = np.maximum.accumulate(precision[::-1])[::-1]
    answers = np.searchsorted(hits / box_count, RECALLS - TOLERANCE)
    # Recalls beyond the last answer's have precision 0.
    return float(np.append(best_beyond, 0.0)[answers].mean())
