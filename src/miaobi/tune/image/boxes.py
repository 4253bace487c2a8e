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


def iou(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Intersection over union of every pair: [N, 4], [M, 4] -> [N, M]."""
    low, high = (
        np.maximum(first[:, None, :2], second[None, :, :2]),
        np.minimum(first[:, None, 2:], second[None, :, 2:]),
    )
    both = (high - low).clip(0).prod(-1)
    areas = [
        (boxes[:, 2:] - boxes[:, :2]).clip(0).prod(-1) for boxes in (first, second)
    ]
    return both / np.maximum(areas[0][:, None] + areas[1][None] - both, 1e-9)


def generalised_iou(first: Tensor, second: Tensor) -> Tensor:
    """IoU less the share of the smallest box around both that neither fills, in [-1, 1]
    (Rezatofighi et al. 2019, arXiv:1902.09630): [N, 4] each -> [N].
    """
    low, high = (
        torch.maximum(first[:, :2], second[:, :2]),
        torch.minimum(first[:, 2:], second[:, 2:]),
    )
    both = (high - low).clamp(min=0).prod(-1)
    union = (
        sum(
            (boxes[:, 2:] - boxes[:, :2]).clamp(min=0).prod(-1)
            for boxes in (first, second)
        )
        - both
    )
    around = (
        (
            torch.maximum(first[:, 2:], second[:, 2:])
            - torch.minimum(first[:, :2], second[:, :2])
        )
        .clamp(min=0)
        .prod(-1)
    )
    return both / union.clamp(min=1e-9) - (around - union) / around.clamp(min=1e-9)


def matched(
    found: np.ndarray,
    labels: np.ndarray,
    wanted: np.ndarray,
    wanted_labels: np.ndarray,
    overlap: float,
) -> np.ndarray:
    """For each answer, best score first, whether it finds a box that no better one
    found: bool [N].
    """
    alike = np.where(labels[:, None] == wanted_labels[None], iou(found, wanted), 0.0)
    right, free = np.zeros(len(found), bool), np.ones(len(wanted), bool)
    for place in range(len(found) if len(wanted) else 0):
        best = int(np.where(free, alike[place], -1).argmax())
        if free[best] and alike[place, best] >= overlap - 1e-9:
            right[place], free[best] = True, False
    return right


def average_precision(
    found: np.ndarray, labels: np.ndarray, wanted: np.ndarray, wanted_labels: np.ndarray
) -> float:
    """Of one picture with at least one box, over its labels together; answers are
    sorted by score, best first.
    """
    return float(
        np.mean(
            [
                _area(
                    matched(found, labels, wanted, wanted_labels, overlap), len(wanted)
                )
                for overlap in OVERLAPS
            ]
        )
    )


def _area(right: np.ndarray, wanted: int) -> float:
    """Mean of the greatest precision at or beyond each of the 101 recalls."""
    hits = right.cumsum()
    precision = (
        np.maximum.accumulate((hits / np.arange(1, len(right) + 1))[::-1])[::-1]
        if len(right)
        else np.zeros(0)
    )
    at = np.searchsorted(hits / wanted, RECALLS - 1e-9)
    return float(
        np.where(
            at < len(right), np.append(precision, 0.0)[np.minimum(at, len(right))], 0.0
        ).mean()
    )
