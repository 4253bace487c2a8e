"""Metrics of the tasks over text, each a function of sums over examples."""

from __future__ import annotations

import numpy as np


def mean(counts: np.ndarray) -> np.ndarray:
    """Return sums over numbers of [..., (sum, number)]."""
    return np.asarray(counts[..., 0] / counts[..., 1])


def f1(counts: np.ndarray) -> np.ndarray:
    """Return 2 right / (2 right + wrong + missed) of [..., (right, wrong, missed)].

    0 where there is nothing.
    """
    right = counts[..., 0]
    errors = counts[..., 1] + counts[..., 2]
    return np.asarray(2 * right / np.maximum(2 * right + errors, 1e-12))


def macro_f1(counts: np.ndarray) -> np.ndarray:
    """Return the mean F1 of the labels that occur, of [..., labels * 3]."""
    table = counts.reshape(*counts.shape[:-1], -1, 3)
    occurs = table.sum(-1) > 0
    total = (f1(table) * occurs).sum(-1)
    return np.asarray(total / np.maximum(occurs.sum(-1), 1))


def pearson(counts: np.ndarray) -> np.ndarray:
    """Return r of [..., (n, Σx, Σy, Σx², Σy², Σxy)]; 0 where one of them is constant."""
    n, x, y, xx, yy, xy = np.moveaxis(counts, -1, 0)
    x_spread = np.maximum(n * xx - x * x, 0)
    y_spread = np.maximum(n * yy - y * y, 0)
    spread = np.sqrt(x_spread * y_spread)
    r = (n * xy - x * y) / np.maximum(spread, 1e-9)
    return np.where(spread > 1e-9, r, 0.0)
