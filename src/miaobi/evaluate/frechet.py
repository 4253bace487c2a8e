"""How far apart two crowds of pictures lie, each seen as one Gaussian in the space of features.

    d² = ‖μ_a - μ_b‖² + tr Σ_a + tr Σ_b - 2 tr (Σ_b^½ Σ_a Σ_b^½)^½      (Fréchet 1957; Heusel et al. 2017, arXiv:1706.08500)

With any features but Inception's this is not "FID", and it is never called so here. Few pictures make d² too large by an
amount that depends on how many there are, so held-out pictures, as many, are measured beside the samples.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor


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
        return cls(mean, vectors * values.clamp(min=0).sqrt() @ vectors.T, float(spread.square().sum()))

    def distance(self, features: np.ndarray) -> float:
        """d² of features [N, D]."""
        mean, spread = _centred(features)
        rotated = spread @ self.root
        product = rotated @ rotated.T if len(rotated) < rotated.shape[1] else rotated.T @ rotated
        overlap = torch.linalg.eigvalsh(product).clamp(min=0).sqrt().sum()
        return float((mean - self.mean).square().sum() + spread.square().sum() + self.trace - 2 * overlap)


def _centred(features: np.ndarray) -> tuple[Tensor, Tensor]:
    """(mean [D], what is left divided by √(N - 1) [N, D]), in double precision: Σ is the second times itself."""
    values = torch.as_tensor(np.asarray(features), dtype=torch.float64)
    mean = values.mean(0)
    return mean, (values - mean) / max(len(values) - 1, 1) ** 0.5


def frechet_distance(a: np.ndarray, b: np.ndarray) -> float:
    """d² of features a [N, D] and b [M, D]."""
    return Gaussian.of(b).distance(a)
