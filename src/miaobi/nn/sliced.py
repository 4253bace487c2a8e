"""Sliced Wasserstein distance between two sets of pictures, without a trained extractor.

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
    """Return the distance, a scalar, of a and b: [B, C, H, W], as many of each."""
    of_patches = _distance(_patches(a), _patches(b))
    of_wholes = _distance(_half_size(a), _half_size(b))
    return 0.5 * (of_patches + of_wholes)


def _half_size(x: Tensor) -> Tensor:
    return F.avg_pool2d(x, 2).flatten(1)


def _patches(x: Tensor) -> Tensor:
    """Cut PATCHES patches out of each picture, [B · PATCHES, C · PATCH²].

    Their positions are drawn from a fixed seed.
    """
    height, width = x.shape[2:]
    size = min(PATCH, height, width)
    generator = torch.Generator().manual_seed(0)
    tops = torch.randint(height - size + 1, (PATCHES,), generator=generator)
    lefts = torch.randint(width - size + 1, (PATCHES,), generator=generator)
    patches = [
        x[:, :, top : top + size, left : left + size].flatten(1)
        for top, left in zip(tops.tolist(), lefts.tolist(), strict=True)
    ]
    return torch.cat(patches)


def _distance(a: Tensor, b: Tensor) -> Tensor:
    """Return the mean distance of a [N, D] and b [N, D] along random directions."""
    generator = torch.Generator().manual_seed(0)
    directions = torch.randn(a.shape[1], DIRECTIONS, generator=generator).to(a.device)
    directions = directions / directions.norm(dim=0)
    sorted_a = (a @ directions).sort(0).values
    sorted_b = (b @ directions).sort(0).values
    distance: Tensor = (sorted_a - sorted_b).abs().mean()
    return distance
