"""Figures of pictures' tasks, each a function of sums over examples."""

from __future__ import annotations

import numpy as np

from miaobi.tune.learner import Metric


def shares(counts: np.ndarray) -> np.ndarray:
    """[..., 2] -> counts[0] / counts[1]; NaN where there was nothing to count."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return counts[..., 0] / counts[..., 1]


def accuracy() -> Metric:
    return Metric("accuracy", shares, "higher", ("Accuracy", "准确率"))


def f1(counts: np.ndarray) -> np.ndarray:
    """[..., 3] true positives, false positives, false negatives -> 2 TP / (2 TP + FP +
    FN); NaN where there are none of all three.
    """
    right, wrong, missed = counts[..., 0], counts[..., 1], counts[..., 2]
    with np.errstate(invalid="ignore"):
        return 2 * right / (2 * right + wrong + missed)


def macro_f1() -> Metric:
    """Mean of the classes' F1; of each [TP, FP, FN], over classes that occur as label
    or as answer (as scikit-learn's default).
    """
    return Metric(
        "macro_f1",
        lambda counts: _mean_of_known(f1(counts.reshape(*counts.shape[:-1], -1, 3))),
        "higher",
        ("Macro F1", "宏平均 F1"),
    )


def mean_iou() -> Metric:
    """Mean over classes of intersection / union, each summed over all pictures; of
    classes that occur (Everingham et al. 2015).
    """
    return Metric(
        "mean_iou",
        lambda counts: _mean_of_known(
            shares(counts.reshape(*counts.shape[:-1], -1, 2))
        ),
        "higher",
        ("Mean IoU", "平均交并比"),
    )


def _mean_of_known(values: np.ndarray) -> np.ndarray:
    known = ~np.isnan(values)
    with np.errstate(invalid="ignore"):
        return np.where(known, values, 0).sum(-1) / known.sum(-1)
