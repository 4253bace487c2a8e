"""Super-resolution by the packaged esrgan-slim.

A residual dense network (Zhang et al. 2018, arXiv:1802.08797) of 0.2 million parameters
that its author trained on DIV2K (named after ESRGAN, Wang et al. 2018,
arXiv:1809.00219): levels in [0, 255] in, levels out. It runs over tiles that share a
margin as wide as the network sees, so that the result is that of the whole picture at
once.
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
from miaobi.core.requests import Request
from miaobi.engines.packaged import Network, image_of
from miaobi.engines.upscaler import layers_model

MARGIN = 10
"""How far a pixel's value depends on its neighbours: the radii of the network's
convolutions, added up.
"""
TILE = 192
"""Side of a tile, in pixels of the picture that is given."""
LIMIT = 64_000_000
"""Pixels of the largest result."""


class Upscaler:
    modality = "image"

    def __init__(
        self, folder: Path, name: str, abilities: Abilities, threads: int | None = None
    ) -> None:
        """`folder` holds x2, x3, x4 and x8, each a TensorFlow.js model."""
        self.name, self.abilities = name, abilities
        self._network = cache(
            lambda scale: Network(
                layers_model.read(folder / f"x{scale}" / "model.json"), threads
            )
        )

    async def generate(self, request: Request) -> AsyncIterator[Chunk]:
        """One picture, in colour. Leaving early stops after the tile at work."""
        asked, pixels = image_of(request, self.abilities, "upscaler")
        scale = asked.upscale or 4
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
        enlarged, parts = (
            np.empty((height, width, 3), np.uint8),
            list(tiles(pixels.shape[0], pixels.shape[1], TILE)),
        )
        for done, (rows, columns) in enumerate(parts):
            yield Chunk(progress=done / len(parts))
            enlarged[
                _times(rows, scale), _times(columns, scale)
            ] = await asyncio.to_thread(self.enlarge, pixels, scale, rows, columns)
        yield Chunk(
            artifact=Image(enlarged, Facts(self.name, parameters={"upscale": scale})),
            finish="stop",
        )

    def enlarge(
        self, pixels: np.ndarray, scale: int, rows: slice, columns: slice
    ) -> np.ndarray:
        """Those rows and columns of a picture, uint8 [H, W, 3], `scale` times as large."""
        top, left = max(0, rows.start - MARGIN), max(0, columns.start - MARGIN)
        seen = pixels[top : rows.stop + MARGIN, left : columns.stop + MARGIN]
        found = self._network(scale)(seen.transpose(2, 0, 1)[None].astype(np.float32))[
            0
        ]
        kept = found[:, _times(rows, scale, top), _times(columns, scale, left)]
        levels: np.ndarray = np.rint(kept).clip(0, 255).astype(np.uint8)
        return levels.transpose(1, 2, 0)

    def close(self) -> None:
        """Nothing is held open between requests but the networks' weights, 1 MB each."""


def tiles(height: int, width: int, side: int) -> Iterator[tuple[slice, slice]]:
    """Rows and columns of squares that cover a picture, the last ones cut short at its edge."""
    for top in range(0, height, side):
        for left in range(0, width, side):
            yield (
                slice(top, min(top + side, height)),
                slice(left, min(left + side, width)),
            )


def _times(part: slice, scale: int, start: int = 0) -> slice:
    """`part` of the small picture, from `start`, in the enlarged one."""
    return slice((part.start - start) * scale, (part.stop - start) * scale)
