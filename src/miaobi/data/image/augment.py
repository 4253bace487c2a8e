"""Augmentations by name: small changes to training pictures that leave their meaning as
it was, drawn anew for every batch.

Each takes float32 [B, C, H, W] in [-1, 1] and a seeded generator, and returns the same
shape and range. One that moves pixels (moves=True) is applied alike to both pictures of
a pair; one that changes their values only to the target.
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

MAX_SHIFT = 0.125
"""Share of a side."""
MAX_DEGREES = 10.0
MIN_CROP = 0.8
"""Share of a side."""
MAX_COLOUR = 0.2
CUTOUT = 0.25
"""Half of the square's side, as a share of the picture's."""
NOISE = 0.05


class Augmentation(NamedTuple):
    change: Callable[[Tensor, np.random.Generator], Tensor]
    moves: bool


def check(names: Sequence[str]) -> None:
    """Raise NotFound for a name that is no augmentation."""
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
    """Return the batch with the named changes, in their order.

    Args:
        names: names of AUGMENTATIONS
        batch: {"pixels": [B, C, H, W], ...}, with "source" [B, C', H, W] for pairs
        draw: the generator of all random numbers
    """
    pixels = batch["pixels"]
    source = batch.get("source")
    for name in names:
        change, moves = AUGMENTATIONS[name]
        if source is None or not moves:
            pixels = change(pixels, draw)
        else:
            both = change(torch.cat([pixels, source], dim=1), draw)
            channels = pixels.shape[1]
            pixels = both[:, :channels]
            source = both[:, channels:]
    changed = {**batch, "pixels": pixels.contiguous()}
    if source is not None:
        changed["source"] = source.contiguous()
    return changed


def flip(pixels: Tensor, draw: np.random.Generator) -> Tensor:
    """Mirror half of the pictures left to right."""
    mirrored = _uniform(draw, pixels, 0, 1) < 0.5
    return torch.where(mirrored, pixels.flip(3), pixels)


def shift(pixels: Tensor, draw: np.random.Generator) -> Tensor:
    """Move by up to an eighth of each side in whole pixels; the edge is repeated."""
    count, _, height, width = pixels.shape
    rows = _shifted(count, height, draw)
    columns = _shifted(count, width, draw)
    pictures = torch.arange(count)[:, None, None]
    moved = pixels[pictures, :, rows[:, :, None], columns[:, None, :]]
    return moved.permute(0, 3, 1, 2)


def _shifted(count: int, side: int, draw: np.random.Generator) -> Tensor:
    """Where each pixel of a side comes from, int64 [count, side]."""
    most = round(MAX_SHIFT * side)
    offset = torch.from_numpy(draw.integers(-most, most + 1, (count, 1)))
    return (torch.arange(side) + offset).clamp(0, side - 1)


def rotate(pixels: Tensor, draw: np.random.Generator) -> Tensor:
    """Turn about the middle by up to 10 degrees; the edge is repeated."""
    degrees = _uniform(draw, pixels, -MAX_DEGREES, MAX_DEGREES).flatten()
    angle = degrees * math.pi / 180
    aspect = pixels.shape[3] / pixels.shape[2]
    cos, sin, zero = angle.cos(), angle.sin(), torch.zeros_like(angle)
    matrix = [
        *(cos, -sin / aspect, zero),
        *(sin * aspect, cos, zero),
    ]
    return _warped(pixels, matrix)


def crop(pixels: Tensor, draw: np.random.Generator) -> Tensor:
    """Cut a part of 80 to 100 % of each side out anywhere, and bring it back to the
    full size.
    """
    zoom = _uniform(draw, pixels, MIN_CROP, 1).flatten()
    across = _uniform(draw, pixels, -1, 1).flatten()
    down = _uniform(draw, pixels, -1, 1).flatten()
    zero = torch.zeros_like(zoom)
    matrix = [
        *(zoom, zero, across * (1 - zoom)),
        *(zero, zoom, down * (1 - zoom)),
    ]
    return _warped(pixels, matrix)


def colour(pixels: Tensor, draw: np.random.Generator) -> Tensor:
    """Change brightness, contrast and saturation by up to a fifth each."""
    brightness = _uniform(draw, pixels, -MAX_COLOUR, MAX_COLOUR)
    contrast = _uniform(draw, pixels, -MAX_COLOUR, MAX_COLOUR)
    saturation = _uniform(draw, pixels, -MAX_COLOUR, MAX_COLOUR)
    grey = pixels.mean(1, keepdim=True)
    saturated = grey + (pixels - grey) * (1 + saturation)
    mean = saturated.mean((1, 2, 3), keepdim=True)
    changed = mean + (saturated - mean) * (1 + contrast) + brightness
    return changed.clamp(-1, 1)


def cutout(pixels: Tensor, draw: np.random.Generator) -> Tensor:
    """Make a square of half the sides' length grey, anywhere (DeVries and Taylor 2017,
    arXiv:1708.04552).
    """
    height, width = pixels.shape[2:]
    down = _uniform(draw, pixels, 0, height)
    across = _uniform(draw, pixels, 0, width)
    rows = torch.arange(height).view(1, 1, -1, 1)
    columns = torch.arange(width).view(1, 1, 1, -1)
    in_rows = (rows + 0.5 - down).abs() < CUTOUT * height
    in_columns = (columns + 0.5 - across).abs() < CUTOUT * width
    return pixels.masked_fill(in_rows & in_columns, 0.0)


def noise(pixels: Tensor, draw: np.random.Generator) -> Tensor:
    """Add Gaussian noise of a twentieth of the half range."""
    normal = draw.standard_normal(tuple(pixels.shape), dtype=np.float32)
    return (pixels + NOISE * torch.from_numpy(normal)).clamp(-1, 1)


def _uniform(
    draw: np.random.Generator, pixels: Tensor, low: float, high: float
) -> Tensor:
    """A number for each picture, float32 [B, 1, 1, 1]."""
    numbers = draw.uniform(low, high, (len(pixels), 1, 1, 1))
    return torch.from_numpy(numbers.astype(np.float32))


def _warped(pixels: Tensor, matrix: list[Tensor]) -> Tensor:
    """Pixels sampled at affinely moved positions; the edge is repeated.

    matrix: its six entries [B], row by row, in coordinates from -1 to 1.
    """
    matrices = torch.stack(matrix, dim=1).view(-1, 2, 3)
    grid = functional.affine_grid(matrices, list(pixels.shape), align_corners=False)
    return functional.grid_sample(
        pixels, grid, padding_mode="border", align_corners=False
    )


AUGMENTATIONS = {
    "flip": Augmentation(flip, moves=True),
    "shift": Augmentation(shift, moves=True),
    "rotate": Augmentation(rotate, moves=True),
    "crop": Augmentation(crop, moves=True),
    "colour": Augmentation(colour, moves=False),
    "cutout": Augmentation(cutout, moves=False),
    "noise": Augmentation(noise, moves=False),
}
