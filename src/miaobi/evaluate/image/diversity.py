"""How unlike each other the samples are: the mean distance of two, in features.

A model that paints one image over and over has 0. Held-out images, as many, show how
varied the data itself is.
"""

from __future__ import annotations

import numpy as np

from miaobi.core.language import say
from miaobi.evaluate.image.coverage import distances
from miaobi.evaluate.image.subject import ImageSubject
from miaobi.evaluate.score import Estimate, Score, Z
from miaobi.evaluate.subject import SAMPLES

MODALITY = "image"
NEEDS = frozenset({SAMPLES})
MAX_SAMPLES = 2000


def measure(subject: ImageSubject) -> list[Score]:
    features = subject.sample_features[:MAX_SAMPLES]
    baseline = subject.baseline_features
    natural = ""
    if baseline is not None:
        mean, low, high = pairwise(baseline[: len(features)])
        natural = say(
            f"held-out pictures: {mean:.2f} ({low:.2f} to {high:.2f}); ",
            f"留出图片：{mean:.2f}（{low:.2f} 至 {high:.2f}）；",
        )
    return [
        Score(
            "picture_diversity",
            *pairwise(features),
            n=len(features),
            better="higher",
            detail=natural
            + say(
                f"mean distance of two samples in {subject.extractor.name} features; leave-one-out interval",
                f"两个样本在 {subject.extractor.name} 特征中的平均距离；留一法区间",
            ),
            label=say("Distance between samples", "样本间距离"),
        )
    ]


def pairwise(features: np.ndarray) -> Estimate:
    """Return the mean distance over pairs of features [N, D].

    The interval leaves out one image at a time (see score.jackknife).
    """
    count = len(features)
    sums = distances(features, features).sum(1).numpy()
    value = float(sums.sum() / (count * (count - 1)))
    left_out = (sums.sum() - 2 * sums) / ((count - 1) * (count - 2))
    squares = np.square(left_out - left_out.mean())
    error = Z * float(np.sqrt((count - 1) / count * squares.sum()))
    return Estimate(value, value - error, value + error)
