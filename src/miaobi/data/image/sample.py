"""Pictures to try every command with: landscapes by day and by night, a drawing, a
painted sky, a mask. All are computed, always in the same way, and have no author.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageColor, ImageDraw

Pixels = np.ndarray
"""float [height, width, 3] in 0 to 1."""
LANDSCAPES = 40
"""Of the day, and as many of the night."""
SIDE = 96
"""Pixels of the landscapes in the folder photos."""
WIDTH = 6
"""Of the lines of the drawing, in pixels."""


class Hours(NamedTuple):
    """Colours of a landscape."""

    zenith: str
    horizon: str
    light: str
    """Of the sun or the moon."""
    ground: str


HOURS = {
    "day": Hours("#5999f2", "#e6e6cc", "#fff299", "#408033"),
    "night": Hours("#05081f", "#33264d", "#e6e6d9", "#0d171a"),
}
SKY, SWIRL, STAR = "#1a3380", "#1f2e40", "#e6cc33"
"""Colours of the painted sky."""


def pictures() -> Iterator[tuple[str, Image.Image]]:
    """Yield the name of every sample file and its picture."""
    for number in range(LANDSCAPES):
        for hours in HOURS:
            pixels = landscape(hours, SIDE, seed=number)
            yield f"photos/{hours}/{number + 1:02}.jpg", _image(pixels)
    photo = landscape("day", 256, seed=100)
    yield "photo.jpg", _image(photo)
    yield "mask.png", _mask(256)
    yield "starry.jpg", _image(_starry(256))
    yield "small.png", _image(landscape("day", 48, seed=101))
    yield "line.png", _drawing(256)


def landscape(hours: str, side: int, *, seed: int) -> Pixels:
    """Return hills under a sky with the sun or the moon, [side, side, 3].

    Args:
        hours: "day" or "night".
        side: pixels.
        seed: each gives other hills.
    """
    colours = HOURS[hours]
    draws = np.random.default_rng([seed, len(hours)])
    rows, columns = np.mgrid[0:side, 0:side] / side
    zenith = _rgb(colours.zenith)
    horizon = _rgb(colours.horizon)
    pixels: Pixels = zenith + (horizon - zenith) * rows[..., None]
    x = draws.uniform(0.15, 0.85)
    y = draws.uniform(0.1, 0.4)
    radius = draws.uniform(0.05, 0.1)
    distance = np.hypot(columns - x, rows - y)
    pixels[distance < radius] = _rgb(colours.light)
    for depth in range(3):
        phase = draws.uniform(0, 2 * np.pi)
        frequency = draws.uniform(3, 12)
        wave = np.sin(frequency * columns + phase)
        crest = 0.5 + 0.13 * depth + 0.06 * wave
        shade = draws.uniform(0.9, 1.1) - 0.25 * depth
        pixels[rows > crest] = _rgb(colours.ground) * shade
    noise = draws.normal(0, 0.015, pixels.shape)
    return (pixels + noise).clip(0, 1)


def _rgb(colour: str) -> Pixels:
    """Return a colour as red, green, blue in 0 to 1."""
    levels = ImageColor.getrgb(colour)
    return np.array(levels) / 255


def _image(pixels: Pixels) -> Image.Image:
    levels = (pixels * 255).round()
    return Image.fromarray(levels.astype(np.uint8))


def _mask(side: int) -> Image.Image:
    """White where a picture is to be made anew: a disc in the sky."""
    mask = Image.new("L", (side, side), 0)
    disc = (side // 8, side // 8, side // 2, side // 2)
    ImageDraw.Draw(mask).ellipse(disc, fill=255)
    return mask


def _starry(side: int) -> Pixels:
    """Return swirls of blue around yellow stars."""
    draws = np.random.default_rng(0)
    rows, columns = np.mgrid[0:side, 0:side] / side
    pixels = np.full((side, side, 3), _rgb(SKY))
    for _ in range(9):
        x = draws.uniform(0, 1)
        y = draws.uniform(0, 1)
        distance = np.hypot(columns - x, rows - y)
        angle = np.arctan2(rows - y, columns - x)
        wave = np.sin(60 * distance + 3 * angle)
        swirl = wave * np.exp(-6 * distance)
        star = np.exp(-400 * distance**2)
        pixels += swirl[..., None] * _rgb(SWIRL)
        pixels += star[..., None] * _rgb(STAR)
    return pixels.clip(0, 1)


def _drawing(side: int) -> Image.Image:
    """Return a face in black lines on white."""
    picture = Image.new("RGB", (side, side), "white")
    pen = ImageDraw.Draw(picture)
    middle = side // 2
    _circle(pen, middle, middle, side // 3)
    _circle(pen, side // 3, side // 3, side // 16)
    _circle(pen, side - side // 3, side // 3, side // 16)
    pen.line(
        (side // 3, middle + side // 8, side - side // 3, middle + side // 8),
        fill="black",
        width=WIDTH,
    )
    return picture


def _circle(pen: ImageDraw.ImageDraw, x: int, y: int, radius: int) -> None:
    pen.circle((x, y), radius, outline="black", width=WIDTH)
