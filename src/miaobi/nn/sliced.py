"""Sliced Wasserstein distance between two sets of pictures, without any trained extractor.

    SW(a, b) = E_θ  mean_i |sort(aθ)_i - sort(bθ)_i|,   θ random unit directions

over patches of 7 × 7 at full size and over whole pictures at half size (Rabin et al.
2012; for GANs: Karras et al. 2018, arXiv:1710.10196).
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

DIRECTIONS, PATCH, PATCHES = 128, 7, 16


def sliced_wasserstein(a: Tensor, b: Tensor) -> Tensor:
    """a, b: [B, C, H, W], as many of each -> scalar."""
    return 0.5 * (
        _distance(*(_patches(x) for x in (a, b)))
        + _distance(*(F.avg_pool2d(x, 2).flatten(1) for x in (a, b)))
    )


def _patches(x: Tensor) -> Tensor:
    """PATCHES patches of each picture, at places drawn from a fixed seed, [B · PATCHES,
    C · PATCH²].
    """
    size, draw = min(PATCH, *x.shape[2:]), torch.Generator().manual_seed(0)
    rows, columns = (
        torch.randint(side - size + 1, (PATCHES,), generator=draw).tolist()
        for side in x.shape[2:]
    )
    return torch.cat(
        [
            x[:, :, row : row + size, column : column + size].flatten(1)
            for row, column in zip(rows, columns)
        ]
    )


def _distance(a: Tensor, b: Tensor) -> Tensor:
    directions = torch.randn(
        a.shape[1], DIRECTIONS, generator=torch.Generator().manual_seed(0)
    ).to(a.device)
    directions = directions / directions.norm(dim=0)
    return (
        ((a @ directions).sort(0).values - (b @ directions).sort(0).values).abs().mean()
    )
