"""How unlike each other the samples are: the mean distance between two of them, in features.

A model that paints one picture over and over has 0. Held-out pictures, as many, show
how varied the data itself is.
"""

from __future__ import annotations

import numpy as np

from miaobi.core.language import say
from miaobi.evaluate.image.coverage import distances
from miaobi.evaluate.image.subject import PictureSubject
from miaobi.evaluate.score import Score
from miaobi.evaluate.text.subject import SAMPLES

MODALITY = "image"
NEEDS = frozenset({SAMPLES})
MOST = 2000


def measure(subject: PictureSubject) -> list[Score]:
    features = subject.sample_features[:MOST]
    value, low, high = pairwise(features)
    beside = ""
    held_out = subject.yardstick_features
    if held_out is not None:
        held, _, _ = pairwise(held_out[: len(features)])
        beside = say(f"held-out pictures: {held:.2f}; ", f"留出图片：{held:.2f}；")
    return [
        Score(
            "picture_diversity",
            value,
            low,
            high,
            len(features),
            "",
            "higher",
            beside
            + say(
                f"mean distance of two samples in {subject.extractor.name} features; leave-one-out interval",
                f"两个样本在 {subject.extractor.name} 特征中的平均距离；留一法区间",
            ),
            say("Distance between samples", "样本间距离"),
        )
    ]


def pairwise(features: np.ndarray) -> tuple[float, float, float]:
    """(mean distance over pairs, low, high) of features [N, D], by leaving out one
    picture at a time (see score.jackknife).
    """
    count = len(features)
    sums = distances(features, features).sum(1).numpy()
    value = float(sums.sum() / (count * (count - 1)))
    left_out = (sums.sum() - 2 * sums) / ((count - 1) * (count - 2))
    error = 1.96 * float(
        np.sqrt((count - 1) / count * np.square(left_out - left_out.mean()).sum())
    )
    return value, value - error, value + error
