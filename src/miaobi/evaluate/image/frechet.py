"""How far apart two crowds of pictures lie, each seen as one Gaussian in the space of features.

    d² = ‖μ_a - μ_b‖² + tr Σ_a + tr Σ_b - 2 tr (Σ_b^½ Σ_a Σ_b^½)^½      (Fréchet 1957; Heusel et al. 2017, arXiv:1706.08500)

With any features but Inception's this is not "FID", and it is never called so here. Few
samples make d² too large, by about c / N (Chong & Forsyth 2020, arXiv:1911.07023): from
all samples and from halves of them follows where it would end,

    d²_∞ ≈ 2 d²_N - mean d²_{N/2}

and held-out pictures, measured in the same way, show what a perfect model would get.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from miaobi.core.language import say
from miaobi.evaluate.image.subject import PictureSubject
from miaobi.evaluate.score import Score, half_interval, halves
from miaobi.evaluate.text.subject import REFERENCE, SAMPLES

MODALITY = "image"
NEEDS = frozenset({SAMPLES, REFERENCE})


def measure(subject: PictureSubject) -> list[Score]:
    found = subject.sample_features
    reference = Gaussian.of(subject.reference_features)
    value, limit, of_halves = extrapolated(reference, found, subject.seed)
    low, high = half_interval(value, of_halves, len(found))
    detail = say(
        f"{subject.extractor.name} features, comparable among themselves only, "
        f"against {subject.reference}; the spread of random halves",
        f"{subject.extractor.name} 特征（只能与同一特征的结果比较），对照{subject.reference}；区间取自随机半样本",
    )
    plain, endless = "", ""
    if subject.yardstick_features is not None:
        beside, beside_limit, _ = extrapolated(
            reference, subject.yardstick_features[: len(found)], subject.seed
        )
        count = min(len(found), len(subject.yardstick_features))
        plain = say(
            f"{count:,} held-out pictures: {beside:.2f}; ",
            f"{count:,} 张留出图片：{beside:.2f}；",
        )
        endless = say(
            f"held-out pictures: {beside_limit:.2f}; ",
            f"留出图片：{beside_limit:.2f}；",
        )
    return [
        Score(
            "frechet",
            value,
            low,
            high,
            len(found),
            "",
            "lower",
            plain + detail,
            say("Fréchet distance", "弗雷歇距离"),
        ),
        Score(
            "frechet_extrapolated",
            limit,
            limit + low - value,
            limit + high - value,
            len(found),
            "",
            "lower",
            endless
            + say(
                "as if there were endlessly many samples, from all and from halves",
                "由全部与半数样本外推到无限多样本",
            ),
            say("Fréchet distance, extrapolated", "弗雷歇距离（外推）"),
        ),
    ]


def extrapolated(
    reference: Gaussian, features: np.ndarray, seed: int
) -> tuple[float, float, np.ndarray]:
    """(d² of these features, d² as if there were endlessly many, d² of random halves [R])."""
    value = reference.distance(features)
    of_halves = halves(
        lambda rows: [reference.distance(features[rows])], len(features), seed
    )[:, 0]
    return value, 2 * value - float(of_halves.mean()), of_halves


@dataclass(frozen=True)
class Gaussian:
    """What is compared with, worked out once: mean [D], Σ^½ [D, D] and tr Σ."""

    mean: Tensor
    root: Tensor
    trace: float

    @classmethod
    def of(cls, features: np.ndarray) -> Gaussian:
        """Of features [N, D]; Σ with N - 1."""
        mean, spread = _centred(features)
        values, vectors = torch.linalg.eigh(spread.T @ spread)
        return cls(
            mean,
            vectors * values.clamp(min=0).sqrt() @ vectors.T,
            float(spread.square().sum()),
        )

    def distance(self, features: np.ndarray) -> float:
        """d² of features [N, D]."""
        mean, spread = _centred(features)
        rotated = spread @ self.root
        product = (
            rotated @ rotated.T
            if len(rotated) < rotated.shape[1]
            else rotated.T @ rotated
        )
        overlap = torch.linalg.eigvalsh(product).clamp(min=0).sqrt().sum()
        return float(
            (mean - self.mean).square().sum()
            + spread.square().sum()
            + self.trace
            - 2 * overlap
        )


def _centred(features: np.ndarray) -> tuple[Tensor, Tensor]:
    """(mean [D], what is left divided by √(N - 1) [N, D]), in double precision: Σ is
    the second times itself.
    """
    values = torch.tensor(np.asarray(features), dtype=torch.float64)
    mean = values.mean(0)
    return mean, (values - mean) / max(len(values) - 1, 1) ** 0.5


def frechet_distance(a: np.ndarray, b: np.ndarray) -> float:
    """d² of features a [N, D] and b [M, D]."""
    return Gaussian.of(b).distance(a)
