"""Bringing pictures to one size, or to a few sizes of about as many pixels
(aspect-ratio buckets, NovelAI 2022).
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import numpy as np
    from PIL import Image

Fit = Literal["crop", "pad", "stretch"]
Shape = tuple[int, int, int]
"""Channels, height, width."""
WIDEST = 2.0
"""Aspect ratio of the outermost buckets."""
STEP = 8
"""Bucket sides are multiples of this many pixels, so that networks can halve them three times."""


def fitted(picture: Image.Image, height: int, width: int, fit: Fit) -> np.ndarray:
    """The picture at this size, uint8 [C, height, width], C = 1 where every pixel is grey.

    crop cuts off what stands over in the middle of both sides; pad leaves white beside;
    stretch does as its name says.
    """
    import numpy as np
    from PIL import Image

    if picture.size != (width, height):
        if fit == "stretch":
            picture = picture.resize((width, height), Image.Resampling.LANCZOS)
        elif fit == "crop":
            scale = max(width / picture.width, height / picture.height)
            across, down = (
                min(width / scale, picture.width),
                min(height / scale, picture.height),
            )  # but for rounding, one of them fits exactly
            left, top = (picture.width - across) / 2, (picture.height - down) / 2
            picture = picture.resize(
                (width, height),
                Image.Resampling.LANCZOS,
                (left, top, left + across, top + down),
            )
        else:
            left, top, across, down = padded(picture, height, width)
            inside = picture.resize((across, down), Image.Resampling.LANCZOS)
            picture = Image.new(picture.mode, (width, height), "white")
            picture.paste(inside, (left, top))
    pixels = np.asarray(picture)
    if pixels.ndim == 2:
        return pixels[None]
    if (pixels[..., 0] == pixels[..., 1]).all() and (
        pixels[..., 1] == pixels[..., 2]
    ).all():
        return pixels[None, ..., 0]
    return pixels.transpose(2, 0, 1)


def padded(picture: Image.Image, height: int, width: int) -> tuple[int, int, int, int]:
    """Where a picture lies on a canvas of this size that leaves white beside it: left,
    top, width, height.
    """
    scale = min(width / picture.width, height / picture.height)
    across, down = (
        max(1, round(picture.width * scale)),
        max(1, round(picture.height * scale)),
    )
    return (width - across) // 2, (height - down) // 2, across, down


def with_channels(pixels: np.ndarray, channels: int) -> np.ndarray:
    """uint8 [..., C, H, W] with 1 or 3 channels as `channels`; grey by the luma of
    ITU-R BT.601, as Pillow's.
    """
    import numpy as np

    if pixels.shape[-3] == channels:
        return pixels
    if channels == 3:
        return np.repeat(pixels, 3, axis=-3)
    luma = np.tensordot(
        np.array([0.299, 0.587, 0.114]),
        pixels.astype(np.float64),
        axes=(0, pixels.ndim - 3),
    )
    return np.round(luma).astype(np.uint8)[..., None, :, :]


def buckets(size: int, count: int) -> list[tuple[int, int]]:
    """About `count` sizes (height, width) of about size² pixels, from 1:WIDEST to
    WIDEST:1; the square is always among them. count >= 2.
    """
    found = {(size, size)}
    for place in range(count):
        turn = 2 * place / (count - 1) - 1
        short = max(STEP, round(size * WIDEST ** (-abs(turn) / 2) / STEP) * STEP)
        long = max(STEP, round(size * size / short / STEP) * STEP)
        found.add((short, long) if turn > 0 else (long, short))
    return sorted(found, key=lambda sides: sides[1] / sides[0])


def nearest_bucket(
    height: int, width: int, sizes: list[tuple[int, int]]
) -> tuple[int, int]:
    """The size whose aspect ratio is the nearest, by its logarithm."""
    return min(
        sizes,
        key=lambda sides: abs(math.log(sides[1] / sides[0]) - math.log(width / height)),
    )
