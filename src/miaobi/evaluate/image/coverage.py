"""Are the samples like the pictures (precision, density), and do they reach all of them
(recall, coverage)?

B(x) is the ball around x that ends at its k-th nearest neighbour among its own kind,
real X, fake Y:

    precision = share of Y inside some B(x)        recall   = share of X inside some B(y)      (Kynkäänniemi et al. 2019, arXiv:1904.06991)
    density   = mean over Y of |{x: y ∈ B(x)}| / k coverage = share of X whose B(x) holds a y  (Naeem et al. 2020, arXiv:2002.09797)
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from miaobi.core.language import say
from miaobi.evaluate.image.subject import PictureSubject
from miaobi.evaluate.score import Score, half_interval, halves, share_interval
from miaobi.evaluate.text.subject import REFERENCE, SAMPLES

MODALITY = "image"
NEEDS = frozenset({SAMPLES, REFERENCE})
NEIGHBOURS = 5
NAMES = ("precision", "recall", "density", "coverage")


def measure(subject: PictureSubject) -> list[Score]:
    """As many real pictures as samples are compared: all four depend on how many there
    are of each.
    """
    count = min(len(subject.sample_features), len(subject.reference_features))
    real, fake = subject.reference_features[:count], subject.sample_features[:count]
    gaps = distances(real, real), distances(fake, fake), distances(real, fake)
    found = shares(*gaps, NEIGHBOURS)
    of_halves = halves(
        lambda rows: list(
            shares(*(gap[rows][:, rows] for gap in gaps), NEIGHBOURS).values()
        ),
        count,
        subject.seed,
    )
    beside = {}
    if subject.yardstick_features is not None:
        size = min(count, len(subject.yardstick_features))
        beside = prdc(real[:size], subject.yardstick_features[:size])
    detail = say(
        f"{NEIGHBOURS} nearest neighbours in {subject.extractor.name} "
        f"features, {count:,} samples and as many of {subject.reference}; "
        "the spread of random halves",
        f"{subject.extractor.name} 特征中的 {NEIGHBOURS} 个近邻，{count:,} "
        f"个样本与等量的{subject.reference}；区间取自随机半样本",
    )
    labels = {
        "precision": say("Precision", "精确率"),
        "recall": say("Recall", "召回率"),
        "density": say("Density", "密度"),
        "coverage": say("Coverage", "覆盖率"),
    }
    scores = []
    for place, name in enumerate(NAMES):
        low, high = half_interval(found[name], of_halves[:, place], count)
        low, high = (
            (max(low, 0.0), high)
            if name == "density"
            else within(low, high, found[name], count)
        )
        held = (
            say(
                f"held-out pictures: {beside[name]:.3f}; ",
                f"留出图片：{beside[name]:.3f}；",
            )
            if beside
            else ""
        )
        scores.append(
            Score(
                name,
                found[name],
                low,
                high,
                count,
                "",
                "higher",
                held + detail,
                labels[name],
            )
        )
    return scores


def within(low: float, high: float, share: float, count: int) -> tuple[float, float]:
    """Inside 0 and 1, and as wide at least as Wilson's interval, which has a width at 0
    and 1 too.
    """
    _, least, most = share_interval(share, count)
    return max(0.0, min(low, least)), min(1.0, max(high, most))


def prdc(real: np.ndarray, fake: np.ndarray, k: int = NEIGHBOURS) -> dict[str, float]:
    """precision, recall, density and coverage of features real [N, D] and fake [M, D];
    k below N and M.
    """
    return shares(
        distances(real, real), distances(fake, fake), distances(real, fake), k
    )


def distances(a: np.ndarray, b: np.ndarray) -> Tensor:
    """Euclidean, [N, M] of [N, D] and [M, D]. ‖a‖² + ‖b‖² - 2 a·b cancels, so it is
    worked out in double precision.
    """
    x, y = (torch.tensor(np.asarray(item), dtype=torch.float64) for item in (a, b))
    squares = x.square().sum(1)[:, None] + y.square().sum(1) - 2 * x @ y.T
    return squares.clamp_(min=0).sqrt_()


def shares(
    within_real: Tensor, within_fake: Tensor, between: Tensor, k: int
) -> dict[str, float]:
    """From distances real-real [N, N], fake-fake [M, M] and real-fake [N, M]."""
    # The smallest distance within one's own kind is to oneself.
    reach_real, reach_fake = (
        item.kthvalue(k + 1, dim=1).values for item in (within_real, within_fake)
    )
    inside = between <= reach_real[:, None]
    return {
        "precision": float(inside.any(0).float().mean()),
        "recall": float((between <= reach_fake[None]).any(1).float().mean()),
        "density": float(inside.sum(0).float().mean() / k),
        "coverage": float(inside.any(1).float().mean()),
    }
