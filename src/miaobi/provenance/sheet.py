"""Contact sheets: several pictures on one, with even margins and legible labels.

A sheet is pixels, not an artifact: who makes one from generated pictures wraps it in an
    `Image` with its facts and publishes it.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from PIL.Image import Image
    from PIL.ImageDraw import ImageDraw
    from PIL.ImageFont import FreeTypeFont

Pictures = np.ndarray | Sequence[np.ndarray]

GROUND, EDGE, INK = (250, 250, 248), (222, 222, 218), (48, 48, 46)
GAP, LETTERS = 8, 14
ENLARGED = 128
"""Pictures smaller than this are enlarged by a whole number, up to this many pixels a side."""
WIDEST = 4096
"""Pictures are reduced where a sheet would be wider or taller than this."""


def sheet(
    pictures: Pictures,
    columns: int | None = None,
    rows_labels: Sequence[str] | None = None,
    columns_labels: Sequence[str] | None = None,
    captions: Sequence[str] | None = None,
    scale: int | None = None,
) -> np.ndarray:
    """One picture of many, in reading order: uint8 [H, W, 3].

    Args:
        pictures: uint8 [N, H, W, C], or arrays [H, W] or [H, W, C] of any sizes; C is
            1, 3 or 4 (alpha is laid on white).
        columns: How many stand side by side; as many as there are columns_labels, or
            else as near a square as may be.
        rows_labels: One to the left of each row.
        columns_labels: One above each column.
        captions: One below each picture, on at most two lines.
        scale: Whole-number enlargement; None enlarges small pictures to about 128 pixels a side.

    Raises ValueError for no pictures at all, or labels that do not match their number.
    """
    cells = [_colour(item) for item in pictures]
    columns = columns or _columns(len(cells), rows_labels, columns_labels)
    rows = math.ceil(len(cells) / max(columns, 1))
    for name, labels, count in (
        ("rows_labels", rows_labels, rows),
        ("columns_labels", columns_labels, columns),
        ("captions", captions, len(cells)),
    ):
        if not cells or (labels is not None and len(labels) != count):
            raise ValueError(
                f"{count} {name} belong to {len(cells)} pictures in {columns} columns, not {len(labels or ())}"
            )
    cells = _sized(cells, columns, rows, scale)
    plan = _Plan.of(cells, rows, columns, rows_labels, columns_labels, captions)
    return plan.drawn(cells, rows_labels, columns_labels, captions)


def animation(
    frames: Sequence[Pictures],
    columns: int | None = None,
    captions: Sequence[str] | None = None,
    titles: Sequence[str] | None = None,
    scale: int | None = None,
) -> np.ndarray:
    """One sheet for each moment: uint8 [T, H, W, 3].

    frames: T times the same number of pictures of the same sizes, as `sheet` takes
        them; captions stay through all of them.
    titles: one short word for each moment, above its first column.
    """
    columns = columns or _columns(len(frames[0]), None, None)
    heads = (
        [None] * len(frames)
        if titles is None
        else [[title, *[""] * (columns - 1)] for title in titles]
    )
    return np.stack(
        [
            sheet(moment, columns, columns_labels=head, captions=captions, scale=scale)
            for moment, head in zip(frames, heads, strict=True)
        ]
    )


def _columns(
    count: int, rows_labels: Sequence[str] | None, columns_labels: Sequence[str] | None
) -> int:
    if columns_labels:
        return len(columns_labels)
    return (
        math.ceil(count / len(rows_labels))
        if rows_labels
        else math.ceil(math.sqrt(count))
    )


def _colour(picture: np.ndarray) -> np.ndarray:
    """uint8 [H, W, 3] of grey, colour or colour with alpha."""
    pixels = picture[..., None] if picture.ndim == 2 else picture
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] not in (1, 3, 4):
        raise ValueError(
            f"a picture is uint8 [H, W, 1, 3 or 4], not {picture.dtype} {list(picture.shape)}"
        )
    if pixels.shape[2] == 4:
        alpha = pixels[..., 3:].astype(np.float32) / 255
        pixels = np.rint(pixels[..., :3] * alpha + 255 * (1 - alpha)).astype(np.uint8)
    return pixels.repeat(3, axis=2) if pixels.shape[2] == 1 else pixels


def _sized(
    cells: list[np.ndarray], columns: int, rows: int, scale: int | None
) -> list[np.ndarray]:
    """Small ones enlarged by whole pixels, so that each stays a crisp square; large
    ones reduced to keep the sheet at hand.
    """
    from PIL import Image

    height, width = (
        max(cell.shape[0] for cell in cells),
        max(cell.shape[1] for cell in cells),
    )
    times = scale or max(1, ENLARGED // max(height, width))
    longest = max(height * rows, width * columns) * times
    if longest <= WIDEST:
        return [cell.repeat(times, axis=0).repeat(times, axis=1) for cell in cells]
    share = WIDEST / longest * times
    sizes = [
        (max(1, int(cell.shape[1] * share)), max(1, int(cell.shape[0] * share)))
        for cell in cells
    ]
    return [
        np.asarray(Image.fromarray(cell).resize(size, Image.Resampling.LANCZOS))
        for cell, size in zip(cells, sizes, strict=True)
    ]


@dataclass(frozen=True)
class _Plan:
    """Where things stand, in pixels. A place is a cell with the room for its caption
    and the gap to the next.
    """

    rows: int
    columns: int
    cell: tuple[int, int]
    """Height and width."""
    left: int
    """Where the first column begins, after the rows' labels."""
    top: int
    caption_lines: int

    @classmethod
    def of(
        cls,
        cells: list[np.ndarray],
        rows: int,
        columns: int,
        rows_labels: Sequence[str] | None,
        columns_labels: Sequence[str] | None,
        captions: Sequence[str] | None,
    ) -> _Plan:
        height, width = (
            max(cell.shape[0] for cell in cells),
            max(cell.shape[1] for cell in cells),
        )
        if columns_labels or captions:
            width = max(width, 4 * LETTERS)
        left = GAP + max(
            (math.ceil(_font().getlength(label)) + GAP for label in rows_labels or ()),
            default=0,
        )
        above = max(
            (len(_wrapped(label, width)) for label in columns_labels or ()), default=0
        )
        below = max((len(_wrapped(text, width)) for text in captions or ()), default=0)
        return cls(
            rows,
            columns,
            (height, width),
            left,
            GAP + above * _line() + (GAP // 2 if above else 0),
            below,
        )

    @property
    def step(self) -> tuple[int, int]:
        """From one place to the next: down, across."""
        height, width = self.cell
        return height + self.caption_lines * _line() + (
            GAP if self.caption_lines else 0
        ) + GAP, width + GAP

    def places(self) -> Iterator[tuple[int, int]]:
        """Top and left of every cell."""
        for row in range(self.rows):
            for column in range(self.columns):
                yield self.top + row * self.step[0], self.left + column * self.step[1]

    def drawn(
        self,
        cells: list[np.ndarray],
        rows_labels: Sequence[str] | None,
        columns_labels: Sequence[str] | None,
        captions: Sequence[str] | None,
    ) -> np.ndarray:
        from PIL import Image, ImageDraw

        canvas = Image.new(
            "RGB",
            (
                self.left + self.columns * self.step[1],
                self.top + self.rows * self.step[0],
            ),
            GROUND,
        )
        draw, (height, width) = ImageDraw.Draw(canvas), self.cell
        for at, (cell, (top, left)) in enumerate(
            zip(cells, self.places(), strict=False)
        ):
            self._picture(canvas, draw, cell, top, left)
            if captions:
                _write(
                    draw,
                    captions[at],
                    left + width // 2,
                    top + height + GAP // 2,
                    width,
                )
        for at, label in enumerate(rows_labels or ()):
            draw.text(
                (self.left - GAP, self.top + at * self.step[0] + height // 2),
                label,
                INK,
                _font(),
                anchor="rm",
            )
        for at, label in enumerate(columns_labels or ()):
            lines = len(_wrapped(label, width))
            _write(
                draw,
                label,
                self.left + at * self.step[1] + width // 2,
                self.top - GAP // 2 - lines * _line(),
                width,
            )
        return np.asarray(canvas)

    def _picture(
        self, canvas: Image, draw: ImageDraw, cell: np.ndarray, top: int, left: int
    ) -> None:
        """In the middle of its place, with a hair line around it so that a white
        picture has an end.
        """
        from PIL import Image

        y, x = (
            top + (self.cell[0] - cell.shape[0]) // 2,
            left + (self.cell[1] - cell.shape[1]) // 2,
        )
        draw.rectangle(
            (x - 1, y - 1, x + cell.shape[1], y + cell.shape[0]), outline=EDGE
        )
        canvas.paste(Image.fromarray(cell), (x, y))


def _write(draw: ImageDraw, text: str, middle: int, top: int, width: int) -> None:
    for at, line in enumerate(_wrapped(text, width)):
        draw.text((middle, top + at * _line()), line, INK, _font(), anchor="ma")


def _line() -> int:
    return LETTERS + 5


def _wrapped(text: str, width: int) -> list[str]:
    """At most two lines of `width` pixels; what does not fit ends in an ellipsis.
    Breaks at spaces, or anywhere in a long word.
    """
    words, lines, length = _words(text), [""], _font().getlength
    for word in words:
        if length((lines[-1] + word).rstrip()) <= width or not lines[-1].strip():
            lines[-1] += word
        else:
            lines.append(word)
    lines = [line.strip() for line in lines]
    if len(lines) > 2:
        lines = [lines[0], "".join(lines[1:])]
    return [_shortened(line, width) for line in lines]


def _words(text: str) -> list[str]:
    """Pieces between which a line may break: Latin words with the space behind them,
    single Chinese characters.
    """
    text = " ".join(text.split())
    cuts = [
        0,
        *(
            at
            for at in range(1, len(text))
            if text[at - 1] == " "
            or ord(text[at]) > 0x2E7F
            or ord(text[at - 1]) > 0x2E7F
        ),
        len(text),
    ]
    return [text[a:b] for a, b in pairwise(cuts)]


def _shortened(line: str, width: int) -> str:
    if _font().getlength(line) <= width:
        return line
    while line and _font().getlength(line + "…") > width:
        line = line[:-1]
    return line + "…"


CHINESE = (
    "NotoSansCJK-Regular",
    "NotoSansCJKsc-Regular",
    "NotoSansSC",
    "SourceHanSansSC-Regular",
    "SourceHanSansCN-Regular",
    "PingFang",
    "Hiragino Sans GB",
    "STHeiti Light",
    "msyh",
    "wqy-microhei",
    "wqy-zenhei",
    "DroidSansFallback",
    "simhei",
    "simsun",
    "NotoSerifCJK-Regular",
    "uming",
)
"""Fonts with Chinese letters that systems carry, the most legible first: Linux, macOS, Windows."""

FOLDERS = (
    "/usr/share/fonts",
    "/usr/local/share/fonts",
    "~/.local/share/fonts",
    "~/.fonts",
    "/System/Library/Fonts",
    "/Library/Fonts",
    "C:/Windows/Fonts",
)


@cache
def _font() -> FreeTypeFont | Any:
    """A font with Chinese letters where the system has one, else Pillow's own, which has none."""
    from PIL import ImageFont

    found = dict[str, Path]()
    for folder in FOLDERS:
        for place, _, names in os.walk(Path(folder).expanduser()):
            found |= {
                Path(name).stem.lower(): Path(place) / name
                for name in names
                if name.lower().endswith((".ttf", ".ttc", ".otf"))
            }
    for name in CHINESE:
        path = next(
            (
                path
                for stem, path in sorted(found.items())
                if stem.startswith(name.lower())
            ),
            None,
        )
        if path is not None:
            # Noto's collection holds JP, KR, SC, TC and HK faces in this order.
            return ImageFont.truetype(
                path,
                LETTERS,
                index=2 if "CJK-" in path.name and path.suffix == ".ttc" else 0,
            )
    return ImageFont.load_default(LETTERS)
