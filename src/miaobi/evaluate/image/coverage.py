"""Are the samples like the images (precision, density), and do they reach all of them
(recall, coverage)?

B(x) is the ball around x that ends at its k-th nearest neighbour among its own kind,
real X, fake Y:

    precision = share of Y inside some B(x)
    recall    = share of X inside some B(y)           (Kynkäänniemi et al. 2019, arXiv:1904.06991)
    density   = mean over Y of |{x: y ∈ B(x)}| / k
    coverage  = share of X whose B(x) holds a y       (Naeem et al. 2020, arXiv:2002.09797)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from miaobi.core.language import in_each, say
from miaobi.evaluate.image.subject import ImageSubject
from miaobi.evaluate.score import (
    Score,
    half_interval,
    halves,
    random_generator,
    share_interval,
)
from miaobi.evaluate.subject import REFERENCE, SAMPLES

MODALITY = "image"
NEEDS = frozenset({SAMPLES, REFERENCE})
NEIGHBOURS = 5
NAMES = ("precision", "recall", "density", "coverage")


@dataclass(frozen=True)
class Distances:
    """Distances between N real and M fake images."""

    real: Tensor
    """[N, N]."""
    fake: Tensor
    """[M, M]."""
    between: Tensor
    """[N, M]."""

    @classmethod
    def of(cls, real: np.ndarray, fake: np.ndarray) -> Distances:
        """From features real [N, D] and fake [M, D]."""
        return cls(distances(real, real), distances(fake, fake), distances(real, fake))

    def __getitem__(self, rows: np.ndarray) -> Distances:
        """The distances between these of the real and these of the fake images."""
        return Distances(
            self.real[rows][:, rows],
            self.fake[rows][:, rows],
            self.between[rows][:, rows],
        )


def measure(subject: ImageSubject) -> list[Score]:
    """Compare as many real images as samples: all four depend on how many there are."""
    count = min(len(subject.sample_features), len(subject.reference_features))
    real = subject.reference_features[:count]
    fake = subject.sample_features[:count]
    of_all = Distances.of(real, fake)
    values = shares(of_all, NEIGHBOURS)
    of_halves = halves(
        lambda rows: list(shares(of_all[rows], NEIGHBOURS).values()),
        count,
        subject.seed,
    )
    held_out = _held_out_details(subject, real, fake)
    detail = in_each(
        lambda: say(
            f"{NEIGHBOURS} nearest neighbours in {subject.extractor.name} "
            f"features, {count:,} samples and as many of {subject.reference}; "
            "the spread of random halves",
            f"{subject.extractor.name} 特征中的 {NEIGHBOURS} 个近邻，{count:,} "
            f"个样本与等量的{subject.reference}；区间取自随机半样本",
        )
    )
    labels = {
        "precision": say("Precision", "精确率"),
        "recall": say("Recall", "召回率"),
        "density": say("Density", "密度"),
        "coverage": say("Coverage", "覆盖率"),
    }
    scores = []
    for column, name in enumerate(NAMES):
        value = values[name]
        low, high = half_interval(value, of_halves[:, column], count)
        if name == "density":
            low = max(low, 0.0)
        else:
            low, high = clip_share_interval(low, high, value, count)
        scores.append(
            Score(
                name,
                value,
                low,
                high,
                n=count,
                better="higher",
                detail=held_out.get(name, "") + detail,
                label=labels[name],
            )
        )
    return scores


def _held_out_details(
    subject: ImageSubject, real: np.ndarray, fake: np.ndarray
) -> Mapping[str, str]:
    """Return what held-out images reach, in words by the name of the score; where they
    are fewer than the samples, with what as few samples reach. Empty where there are
    none.
    """
    baseline = subject.baseline_features
    if baseline is None:
        return {}
    size = min(len(real), len(baseline))
    values = prdc(real[:size], baseline[:size])
    texts = {
        name: say(
            f"{size:,} held-out pictures: {value:.3f}",
            f"{size:,} 张留出图片：{value:.3f}",
        )
        for name, value in values.items()
    }
    if size < len(real):
        order = random_generator([subject.seed, 4]).permutation(len(fake))
        as_few = prdc(real[:size], fake[order[:size]])
        for name, value in as_few.items():
            texts[name] += say(
                f", as many samples: {value:.3f}", f"，等量样本：{value:.3f}"
            )
    return {name: text + say("; ", "；") for name, text in texts.items()}


def clip_share_interval(
    low: float, high: float, share: float, count: int
) -> tuple[float, float]:
    """Return (low, high) inside 0 and 1, and at least as wide as Wilson's interval.

    Wilson's has a width at 0 and 1 too.
    """
    wilson = share_interval(share, count)
    return max(0.0, min(low, wilson.low)), min(1.0, max(high, wilson.high))


def prdc(real: np.ndarray, fake: np.ndarray, k: int = NEIGHBOURS) -> dict[str, float]:
    """Return precision, recall, density and coverage.

    Args:
        real: Features [N, D].
        fake: Features [M, D].
        k: Neighbours that a ball reaches to; less than N and M.
    """
    return shares(Distances.of(real, fake), k)


def distances(a: np.ndarray, b: np.ndarray) -> Tensor:
    """Return Euclidean distances [N, M] of features a [N, D] and b [M, D].

    ‖a‖² + ‖b‖² - 2 a·b cancels, so it is computed in double precision.
    """
    x = torch.tensor(np.asarray(a), dtype=torch.float64)
    y = torch.tensor(np.asarray(b), dtype=torch.float64)
    squares = x.square().sum(1)[:, None] + y.square().sum(1) - 2 * x @ y.T
    return squares.clamp_(min=0).sqrt_()


def shares(distances: Distances, k: int) -> dict[str, float]:
    """Return the four values by name, in the order of NAMES."""
    inside_real = distances.between <= _radii(distances.real, k)[:, None]
    inside_fake = distances.between <= _radii(distances.fake, k)[None]
    return {
        "precision": float(inside_real.any(0).float().mean()),
        "recall": float(inside_fake.any(1).float().mean()),
        "density": float(inside_real.sum(0).float().mean() / k),
        "coverage": float(inside_real.any(1).float().mean()),
    }


def _radii(within: Tensor, k: int) -> Tensor:
    """Return the distance to the k-th nearest neighbour, [N] of [N, N]."""
    # The smallest distance within one's own kind is to oneself.
    return within.kthvalue(k + 1, dim=1).values
