"""Augmentations by name: small changes to training pictures that leave their meaning as
it was, drawn anew for every batch.

Each takes float32 [B, C, H, W] in [-1, 1] and a seeded generator, and gives the same
shape and range. What moves pixels (moves=True) is applied to both pictures of a pair
alike; what changes their values only to the picture itself.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from miaobi.core.errors import NotFound, nearest
from miaobi.core.language import say

SHIFT, DEGREES, ZOOM, COLOUR, CUT, NOISE = 0.125, 10.0, 0.8, 0.2, 0.25, 0.05


class Augmentation(NamedTuple):
    change: Callable[[Tensor, np.random.Generator], Tensor]
    moves: bool


def check(names: Sequence[str]) -> None:
    """Raise NotFound for a name that is none."""
    for name in names:
        if name not in AUGMENTATIONS:
            raise NotFound(
                say(
                    f"There is no augmentation {name!r}.",
                    f"没有名为 {name!r} 的数据增强。",
                ),
                nearest(name, AUGMENTATIONS),
            )


def apply(
    names: Sequence[str], batch: dict[str, Tensor], draw: np.random.Generator
) -> dict[str, Tensor]:
    """The batch with the named changes, in their order."""
    pixels, source = batch["pixels"], batch.get("source")
    for name in names:
        change, moves = AUGMENTATIONS[name]
        if moves and source is not None:
            both = change(torch.cat([pixels, source], dim=1), draw)
            pixels, source = both[:, : pixels.shape[1]], both[:, pixels.shape[1] :]
        else:
            pixels = change(pixels, draw)
    return {
        **batch,
        "pixels": pixels.contiguous(),
        **({} if source is None else {"source": source.contiguous()}),
    }


def flip(pixels: Tensor, draw: np.random.Generator) -> Tensor:
    """Half of the pictures mirrored left to right."""
    return torch.where(_uniform(draw, pixels, 0, 1) < 0.5, pixels.flip(3), pixels)


def shift(pixels: Tensor, draw: np.random.Generator) -> Tensor:
    """Moved by up to an eighth of each side in whole pixels; the edge is repeated."""
    count, _, height, width = pixels.shape
    down, across = (
        torch.from_numpy(
            draw.integers(-round(SHIFT * side), round(SHIFT * side) + 1, (count, 1))
        )
        for side in (height, width)
    )
    rows = (torch.arange(height) + down).clamp(0, height - 1)
    columns = (torch.arange(width) + across).clamp(0, width - 1)
    return pixels[
        torch.arange(count)[:, None, None], :, rows[:, :, None], columns[:, None, :]
    ].permute(0, 3, 1, 2)


def rotate(pixels: Tensor, draw: np.random.Generator) -> Tensor:
    """Turned about the middle by up to 10 degrees; the edge is repeated."""
    angle = _uniform(draw, pixels, -DEGREES, DEGREES).flatten() * math.pi / 180
    aspect = pixels.shape[3] / pixels.shape[2]
    zero = torch.zeros_like(angle)
    rows = [
        angle.cos(),
        -angle.sin() / aspect,
        zero,
        angle.sin() * aspect,
        angle.cos(),
        zero,
    ]
    return _warped(pixels, torch.stack(rows, dim=1).view(-1, 2, 3))


def crop(pixels: Tensor, draw: np.random.Generator) -> Tensor:
    """A part of 80 to 100 % of each side, anywhere, brought back to the full size."""
    zoom, across, down = (
        _uniform(draw, pixels, *bounds).flatten()
        for bounds in ((ZOOM, 1), (-1, 1), (-1, 1))
    )
    zero = torch.zeros_like(zoom)
    rows = [zoom, zero, across * (1 - zoom), zero, zoom, down * (1 - zoom)]
    return _warped(pixels, torch.stack(rows, dim=1).view(-1, 2, 3))


def colour(pixels: Tensor, draw: np.random.Generator) -> Tensor:
    """Brightness, contrast and saturation changed by up to a fifth each."""
    brightness, contrast, saturation = (
        _uniform(draw, pixels, -COLOUR, COLOUR) for _ in range(3)
    )
    grey = pixels.mean(1, keepdim=True)
    pixels = grey + (pixels - grey) * (1 + saturation)
    middle = pixels.mean((1, 2, 3), keepdim=True)
    return (middle + (pixels - middle) * (1 + contrast) + brightness).clamp(-1, 1)


def cutout(pixels: Tensor, draw: np.random.Generator) -> Tensor:
    """A square of half the sides' length, anywhere, made grey (DeVries and Taylor 2017,
    arXiv:1708.04552).
    """
    height, width = pixels.shape[2:]
    down, across = (_uniform(draw, pixels, 0, side) for side in (height, width))
    rows, columns = (
        torch.arange(height).view(1, 1, -1, 1),
        torch.arange(width).view(1, 1, 1, -1),
    )
    hidden = ((rows + 0.5 - down).abs() < CUT * height) & (
        (columns + 0.5 - across).abs() < CUT * width
    )
    return pixels.masked_fill(hidden, 0.0)


def noise(pixels: Tensor, draw: np.random.Generator) -> Tensor:
    """Gaussian noise of a twentieth of the half range."""
    return (
        pixels
        + NOISE
        * torch.from_numpy(draw.standard_normal(tuple(pixels.shape), dtype=np.float32))
    ).clamp(-1, 1)


def _uniform(
    draw: np.random.Generator, pixels: Tensor, low: float, high: float
) -> Tensor:
    """A number for each picture, [B, 1, 1, 1]."""
    return torch.from_numpy(
        draw.uniform(low, high, (len(pixels), 1, 1, 1)).astype(np.float32)
    )


def _warped(pixels: Tensor, matrices: Tensor) -> Tensor:
    """Sampled at affinely moved places, [B, 2, 3] in coordinates from -1 to 1; the edge
    is repeated.
    """
    grid = functional.affine_grid(matrices, list(pixels.shape), align_corners=False)
    return functional.grid_sample(
        pixels, grid, padding_mode="border", align_corners=False
    )


AUGMENTATIONS = {
    "flip": Augmentation(flip, True),
    "shift": Augmentation(shift, True),
    "rotate": Augmentation(rotate, True),
    "crop": Augmentation(crop, True),
    "colour": Augmentation(colour, False),
    "cutout": Augmentation(cutout, False),
    "noise": Augmentation(noise, False),
}
