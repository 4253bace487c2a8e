"""How far apart two sets of images lie, each seen as one Gaussian in feature space.

    d² = ‖μ_a - μ_b‖² + tr Σ_a + tr Σ_b - 2 tr (Σ_b^½ Σ_a Σ_b^½)^½

(Fréchet 1957; Heusel et al. 2017, arXiv:1706.08500.) With any features but Inception's
this is not "FID", and it is never called so here. Few samples make d² too large, by
about c / N (Chong & Forsyth 2020, arXiv:1911.07023): from all samples and from halves
of them follows where it would end,

    d²_∞ ≈ 2 d²_N - mean d²_{N/2}

and held-out images, measured in the same way, show what a perfect model would get.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from miaobi.core.language import in_each, say
from miaobi.evaluate.image.subject import ImageSubject
from miaobi.evaluate.score import Score, half_interval, halves
from miaobi.evaluate.subject import REFERENCE, SAMPLES

MODALITY = "image"
NEEDS = frozenset({SAMPLES, REFERENCE})


class Extrapolation(NamedTuple):
    """d² of a set of images, and what it tends to."""

    value: float
    limit: float
    """d² of infinitely many samples."""
    of_halves: np.ndarray
    """d² of random halves, [R]."""


def measure(subject: ImageSubject) -> list[Score]:
    features = subject.sample_features
    reference = Gaussian.of(subject.reference_features)
    value, limit, of_halves = extrapolate(reference, features, subject.seed)
    low, high = half_interval(value, of_halves, len(features))
    natural, natural_limit = _held_out(subject, reference)
    return [
        Score(
            "frechet",
            value,
            low,
            high,
            n=len(features),
            better="lower",
            detail=natural
            + in_each(
                lambda: say(
                    f"{subject.extractor.name} features, comparable among themselves only, "
                    f"against {subject.reference}; the spread of random halves",
                    f"{subject.extractor.name} 特征（只能与同一特征的结果比较），"
                    f"对照{subject.reference}；区间取自随机半样本",
                )
            ),
            label=say("Fréchet distance", "弗雷歇距离"),
        ),
        Score(
            "frechet_extrapolated",
            limit,
            limit + low - value,
            limit + high - value,
            n=len(features),
            better="lower",
            detail=natural_limit
            + say(
                "as if there were endlessly many samples, from all and from halves",
                "由全部与半数样本外推到无限多样本",
            ),
            label=say("Fréchet distance, extrapolated", "弗雷歇距离（外推）"),
        ),
    ]


def _held_out(subject: ImageSubject, reference: Gaussian) -> tuple[str, str]:
    """What held-out images reach, measured from as many as there are samples, and
    extrapolated; where they are fewer, samples are measured from as few beside them.
    """
    baseline = subject.baseline_features
    if baseline is None:
        return "", ""
    features = subject.sample_features
    count = min(len(baseline), len(features))
    held_out = extrapolate(reference, baseline[:count], subject.seed)
    low, high = half_interval(held_out.value, held_out.of_halves, count)
    natural = say(
        f"{count:,} held-out pictures: {held_out.value:.2f}",
        f"{count:,} 张留出图片：{held_out.value:.2f}",
    )
    if count < len(features):
        as_few = features[subject.sample_rows(count)]
        natural += say(
            f", as many samples: {reference.distance(as_few):.2f}",
            f"，等量样本：{reference.distance(as_few):.2f}",
        )
    shift = held_out.limit - held_out.value
    natural_limit = say(
        f"held-out pictures: {held_out.limit:.2f} ({low + shift:.2f} to {high + shift:.2f})",
        f"留出图片：{held_out.limit:.2f}（{low + shift:.2f} 至 {high + shift:.2f}）",
    )
    return natural + say("; ", "；"), natural_limit + say("; ", "；")


def extrapolate(reference: Gaussian, features: np.ndarray, seed: int) -> Extrapolation:
    """Return d² of features [N, D] from the reference, and its limit."""
    value = reference.distance(features)
    of_halves = halves(
        lambda rows: [reference.distance(features[rows])], len(features), seed
    )[:, 0]
    return Extrapolation(value, 2 * value - float(of_halves.mean()), of_halves)


@dataclass(frozen=True)
class Gaussian:
    """What is compared with, computed once."""

    mean: Tensor
    """[D]."""
    root: Tensor
    """Σ^½, [D, D]."""
    trace: float
    """tr Σ."""

    @classmethod
    def of(cls, features: np.ndarray) -> Gaussian:
        """The Gaussian of features [N, D]; Σ with N - 1."""
        mean, deviations = _centre(features)
        values, vectors = torch.linalg.eigh(deviations.T @ deviations)
        root = vectors * values.clamp(min=0).sqrt() @ vectors.T
        return cls(mean, root, float(deviations.square().sum()))

    def distance(self, features: np.ndarray) -> float:
        """Return d² of features [N, D]."""
        mean, deviations = _centre(features)
        rotated = deviations @ self.root
        # Both products have the same eigenvalues but for zeros; take the smaller.
        if len(rotated) >= rotated.shape[1]:
            rotated = rotated.T
        product = rotated @ rotated.T
        overlap = torch.linalg.eigvalsh(product).clamp(min=0).sqrt().sum()
        return float(
            (mean - self.mean).square().sum()
            + deviations.square().sum()
            + self.trace
            - 2 * overlap
        )


def _centre(features: np.ndarray) -> tuple[Tensor, Tensor]:
    """Return the mean [D] and the deviations by √(N - 1) [N, D], in double precision.

    Σ is the second times itself.
    """
    values = torch.tensor(np.asarray(features), dtype=torch.float64)
    mean = values.mean(0)
    scale: float = max(len(values) - 1, 1) ** 0.5
    return mean, (values - mean) / scale


def frechet_distance(a: np.ndarray, b: np.ndarray) -> float:
    """Return d² of features a [N, D] and b [M, D]."""
    return Gaussian.of(b).distance(a)
