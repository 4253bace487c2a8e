"""Super-resolution by the packaged esrgan-slim.

A residual dense network (Zhang et al. 2018, arXiv:1802.08797) of 0.2 million parameters
that its author trained on DIV2K (named after ESRGAN, Wang et al. 2018,
arXiv:1809.00219): levels in [0, 255] in, levels out. It runs over tiles that share a
margin as wide as the network sees, so that the result is that of the whole image at once.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from functools import cache
from pathlib import Path

import numpy as np

from miaobi.core.artifacts import Facts, Image
from miaobi.core.engine import Abilities, Chunk
from miaobi.core.errors import BadInput
from miaobi.core.language import say
from miaobi.core.requests import ImageRequest, Request
from miaobi.engines.packaged import Network, accepted_with_image
from miaobi.engines.upscaler import layers_model

MARGIN = 10
"""How far a pixel's value depends on its neighbours: the radii of the network's
convolutions, added up.
"""
TILE = 192
"""Side of a tile, in pixels of the source."""
LIMIT = 64_000_000
"""Pixels of the largest result."""


class Upscaler:
    """The networks of one pack; each is opened when it is first needed.

    `folder` holds x2, x3, x4 and x8, each a TensorFlow.js model.
    """

    takes = ImageRequest

    def __init__(
        self, folder: Path, name: str, abilities: Abilities, threads: int | None = None
    ) -> None:
        self.name = name
        self.abilities = abilities

        @cache
        def network(scale: int) -> Network:
            path = folder / f"x{scale}" / "model.json"
            return Network(layers_model.read(path), threads)

        self._network = network

    async def generate(self, request: Request) -> AsyncIterator[Chunk]:
        """Make one image, in colour. Leaving early stops after the present tile."""
        image_request, pixels = accepted_with_image(request, self.abilities, "upscaler")
        scale = image_request.upscale or 4
        height, width = pixels.shape[0] * scale, pixels.shape[1] * scale
        if height * width > LIMIT:
            raise BadInput(
                say(
                    f"{scale} times {pixels.shape[1]}×{pixels.shape[0]} is "
                    f"{width}×{height}: more than {LIMIT // 10**6} million "
                    "pixels.",
                    f"{pixels.shape[1]}×{pixels.shape[0]} 放大 {scale} 倍为 "
                    f"{width}×{height}，超过 {LIMIT // 10**6} 百万像素。",
                ),
                say(
                    "Enlarge it less, or cut it into parts.",
                    "请减小放大倍数，或把图片分成几块。",
                ),
            )
        result = np.empty((height, width, 3), np.uint8)
        parts = list(tiles(pixels.shape[0], pixels.shape[1], TILE))
        for done, (rows, columns) in enumerate(parts):
            yield Chunk(progress=done / len(parts))
            tile = await asyncio.to_thread(self.enlarge, pixels, scale, rows, columns)
            result[_enlarged(rows, scale), _enlarged(columns, scale)] = tile
        facts = Facts(self.name, parameters={"upscale": scale})
        yield Chunk(artifact=Image(result, facts), finish="stop")

    def enlarge(
        self, pixels: np.ndarray, scale: int, rows: slice, columns: slice
    ) -> np.ndarray:
        """Return a part of an image, `scale` times as large, uint8.

        Args:
            pixels: The whole image, uint8 [H, W, 3].
            scale: 2, 3, 4 or 8.
            rows: Of the part.
            columns: Of the part.
        """
        top = max(0, rows.start - MARGIN)
        left = max(0, columns.start - MARGIN)
        window = pixels[top : rows.stop + MARGIN, left : columns.stop + MARGIN]
        planes = window.transpose(2, 0, 1)[None].astype(np.float32)
        output = self._network(scale)(planes)[0]
        part = output[:, _enlarged(rows, scale, top), _enlarged(columns, scale, left)]
        levels: np.ndarray = np.rint(part).clip(0, 255).astype(np.uint8)
        return levels.transpose(1, 2, 0)

    def close(self) -> None:
        """Nothing is held open between requests but the networks' weights, 1 MB each."""


def tiles(height: int, width: int, side: int) -> Iterator[tuple[slice, slice]]:
    """Yield rows and columns of squares that cover an image; the last are cut short."""
    for top in range(0, height, side):
        for left in range(0, width, side):
            rows = slice(top, min(top + side, height))
            columns = slice(left, min(left + side, width))
            yield rows, columns


def _enlarged(part: slice, scale: int, origin: int = 0) -> slice:
    """`part` of the source, counted from `origin`, in the result."""
    return slice((part.start - origin) * scale, (part.stop - origin) * scale)
