"""Are the samples like the pictures (precision, density), and do they reach all of them (recall, coverage)?

B(x) is the ball around x that ends at its k-th nearest neighbour among its own kind, real X, fake Y:

    precision = share of Y inside some B(x)        recall   = share of X inside some B(y)      (Kynkäänniemi et al. 2019, arXiv:1904.06991)
    density   = mean over Y of |{x: y ∈ B(x)}| / k coverage = share of X whose B(x) holds a y  (Naeem et al. 2020, arXiv:2002.09797)
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

NEIGHBOURS = 5
NAMES = ("precision", "recall", "density", "coverage")


def prdc(real: np.ndarray, fake: np.ndarray, k: int = NEIGHBOURS) -> dict[str, float]:
    """precision, recall, density and coverage of features real [N, D] and fake [M, D]; k below N and M."""
    return shares(distances(real, real), distances(fake, fake), distances(real, fake), k)


def distances(a: np.ndarray, b: np.ndarray) -> Tensor:
    """Euclidean, [N, M] of [N, D] and [M, D]. ‖a‖² + ‖b‖² - 2 a·b cancels, so it is worked out in double precision."""
    x, y = (torch.as_tensor(np.asarray(item), dtype=torch.float64) for item in (a, b))
    squares = x.square().sum(1)[:, None] + y.square().sum(1) - 2 * x @ y.T
    return squares.clamp_(min=0).sqrt_()


def shares(within_real: Tensor, within_fake: Tensor, between: Tensor, k: int) -> dict[str, float]:
    """From distances real-real [N, N], fake-fake [M, M] and real-fake [N, M]."""
    # The smallest distance within one's own kind is to oneself.
    reach_real, reach_fake = (item.kthvalue(k + 1, dim=1).values for item in (within_real, within_fake))
    inside = between <= reach_real[:, None]
    return {"precision": float(inside.any(0).float().mean()), "recall": float((between <= reach_fake[None]).any(1).float().mean()),
            "density": float(inside.sum(0).float().mean() / k), "coverage": float(inside.any(1).float().mean())}
