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
Size = tuple[int, int]
"""Height, width."""
WIDEST = 2.0
"""Aspect ratio of the outermost buckets."""
STEP = 8
"""Bucket sides are multiples of this many pixels, so that networks can halve them three times."""
LUMA = (0.299, 0.587, 0.114)
"""Of red, green and blue (ITU-R BT.601), as Pillow's."""


def fitted(picture: Image.Image, height: int, width: int, fit: Fit) -> np.ndarray:
    """Return the picture at this size, uint8 [C, height, width], C = 1 where every
    pixel is grey.

    Args:
        picture: mode L or RGB
        height: pixels
        width: pixels
        fit: crop cuts off what is beyond the size on both sides of the middle; pad
            leaves white beside the picture; stretch distorts it
    """
    import numpy as np
    from PIL import Image

    if picture.size != (width, height):
        if fit == "stretch":
            picture = picture.resize((width, height), Image.Resampling.LANCZOS)
        elif fit == "crop":
            picture = _cropped(picture, height, width)
        else:
            picture = _on_white(picture, height, width)
    pixels = np.asarray(picture)
    if pixels.ndim == 2:
        return pixels[None]
    red, green, blue = (pixels[..., channel] for channel in range(3))
    if (red == green).all() and (green == blue).all():
        return red[None]
    return pixels.transpose(2, 0, 1)


def _cropped(picture: Image.Image, height: int, width: int) -> Image.Image:
    from PIL import Image

    scale = max(width / picture.width, height / picture.height)
    # But for rounding, one of the two is exactly the picture's.
    box_width = min(width / scale, picture.width)
    box_height = min(height / scale, picture.height)
    left = (picture.width - box_width) / 2
    top = (picture.height - box_height) / 2
    box = (left, top, left + box_width, top + box_height)
    return picture.resize((width, height), Image.Resampling.LANCZOS, box)


def cropped_share(picture: Image.Image, height: int, width: int) -> float:
    """Return the share of a picture's area that `crop` cuts off to reach this shape."""
    given = picture.width / picture.height
    wanted = width / height
    return 1 - min(given, wanted) / max(given, wanted)


def _on_white(picture: Image.Image, height: int, width: int) -> Image.Image:
    from PIL import Image

    left, top, inner_width, inner_height = padded(picture, height, width)
    size = (inner_width, inner_height)
    canvas = Image.new(picture.mode, (width, height), "white")
    canvas.paste(picture.resize(size, Image.Resampling.LANCZOS), (left, top))
    return canvas


def padded(picture: Image.Image, height: int, width: int) -> tuple[int, int, int, int]:
    """Return where a picture lies on a canvas of this size that leaves white beside it:
    left, top, width, height.
    """
    scale = min(width / picture.width, height / picture.height)
    inner_width = max(1, round(picture.width * scale))
    inner_height = max(1, round(picture.height * scale))
    left = (width - inner_width) // 2
    top = (height - inner_height) // 2
    return left, top, inner_width, inner_height


def with_channels(pixels: np.ndarray, channels: int) -> np.ndarray:
    """Return uint8 [..., C, H, W] with 1 or 3 channels as [..., channels, H, W]."""
    import numpy as np

    if pixels.shape[-3] == channels:
        return pixels
    if channels == 3:
        return np.repeat(pixels, 3, axis=-3)
    channel_axis = pixels.ndim - 3
    values = pixels.astype(np.float64)
    luma = np.tensordot(np.array(LUMA), values, axes=(0, channel_axis))
    return np.round(luma).astype(np.uint8)[..., None, :, :]


def buckets(side: int, count: int) -> list[Size]:
    """Return about `count` sizes of about side² pixels, from 1:WIDEST to WIDEST:1; the
    square is always among them. count >= 2.
    """
    sizes = {(side, side)}
    for number in range(count):
        direction = 2 * number / (count - 1) - 1  # from -1, tall, to 1, wide
        aspect = WIDEST ** (-abs(direction) / 2)
        short = max(STEP, round(side * aspect / STEP) * STEP)
        long = max(STEP, round(side * side / short / STEP) * STEP)
        sizes.add((short, long) if direction > 0 else (long, short))
    return sorted(sizes, key=_aspect)


def nearest_bucket(height: int, width: int, sizes: list[Size]) -> Size:
    """Return the size whose aspect ratio is the nearest, by its logarithm."""
    aspect = math.log(width / height)
    return min(sizes, key=lambda size: abs(math.log(_aspect(size)) - aspect))


def _aspect(size: Size) -> float:
    height, width = size
    return width / height
