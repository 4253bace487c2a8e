"""Metrics of the tasks on pictures, each a function of sums over examples."""

from __future__ import annotations

import numpy as np

from miaobi.tune.learner import Metric


def shares(counts: np.ndarray) -> np.ndarray:
    """Return counts[0] / counts[1] of [..., 2]; NaN where there was nothing to count."""
    with np.errstate(invalid="ignore", divide="ignore"):
        share: np.ndarray = counts[..., 0] / counts[..., 1]
    return share


def accuracy() -> Metric:
    return Metric("accuracy", shares, "higher", ("Accuracy", "准确率"))


def f1(counts: np.ndarray) -> np.ndarray:
    """Return 2 TP / (2 TP + FP + FN) of [..., 3]; NaN where there are none of all three.

    counts: true positives, false positives, false negatives.
    """
    right, wrong, missed = counts[..., 0], counts[..., 1], counts[..., 2]
    with np.errstate(invalid="ignore"):
        score: np.ndarray = 2 * right / (2 * right + wrong + missed)
    return score


def macro_f1() -> Metric:
    """Return the mean of the classes' F1, of each [TP, FP, FN].

    Of classes that occur as label or as answer (as scikit-learn's default).
    """

    def combine(counts: np.ndarray) -> np.ndarray:
        return _mean_of_numbers(f1(counts.reshape(*counts.shape[:-1], -1, 3)))

    return Metric("macro_f1", combine, "higher", ("Macro F1", "宏平均 F1"))


def mean_iou() -> Metric:
    """Return the mean over classes of intersection / union, each summed over pictures.

    Of classes that occur (Everingham et al. 2015).
    """

    def combine(counts: np.ndarray) -> np.ndarray:
        return _mean_of_numbers(shares(counts.reshape(*counts.shape[:-1], -1, 2)))

    return Metric("mean_iou", combine, "higher", ("Mean IoU", "平均交并比"))


def _mean_of_numbers(values: np.ndarray) -> np.ndarray:
    """Return the mean over the last axis of what is not NaN."""
    is_number = ~np.isnan(values)
    total = np.where(is_number, values, 0).sum(-1)
    with np.errstate(invalid="ignore"):
        mean: np.ndarray = total / is_number.sum(-1)
    return mean
