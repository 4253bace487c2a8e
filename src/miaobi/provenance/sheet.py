"""Contact sheets: several pictures on one, with even margins and legible labels.

A sheet is pixels, not an artifact: whoever makes one from generated pictures wraps it
in an `Image` with its facts and publishes it.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from PIL.Image import Image
    from PIL.ImageDraw import ImageDraw
    from PIL.ImageFont import FreeTypeFont

Pictures = np.ndarray | Sequence[np.ndarray]

GROUND = (250, 250, 248)
EDGE = (222, 222, 218)
INK = (48, 48, 46)
GAP = 8
LETTERS = 14
"""Height of the font in pixels."""
LINE_HEIGHT = LETTERS + 5
CAPTION_LINES = 2
"""The most lines that a label may take."""
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
    """Return one picture of many, in reading order: uint8 [H, W, 3].

    Args:
        pictures: uint8 [N, H, W, C], or arrays [H, W] or [H, W, C] of any sizes; C is
            1, 3 or 4 (alpha is laid on white).
        columns: how many stand side by side; by default as many as columns_labels, or
            else as near a square as may be.
        rows_labels: one to the left of each row.
        columns_labels: one above each column.
        captions: one below each picture, on at most two lines.
        scale: whole-number enlargement; None enlarges small pictures to about 128 pixels a side.

    Raises ValueError for no pictures at all, or labels that do not match their number.
    """
    cells = [_colour(item) for item in pictures]
    columns = columns or _columns(len(cells), rows_labels, columns_labels)
    rows = math.ceil(len(cells) / max(columns, 1))
    for name, texts, count in (
        ("rows_labels", rows_labels, rows),
        ("columns_labels", columns_labels, columns),
        ("captions", captions, len(cells)),
    ):
        if not cells or (texts is not None and len(texts) != count):
            raise ValueError(
                f"{count} {name} belong to {len(cells)} pictures in {columns} columns, not {len(texts or ())}"
            )
    cells = _resize(cells, columns, rows, scale)
    labels = _Labels(rows_labels or (), columns_labels or (), captions or ())
    layout = _Layout.of(cells, rows, columns, labels)
    return _draw(layout, cells, labels)


def animation(
    frames: Sequence[Pictures],
    columns: int | None = None,
    captions: Sequence[str] | None = None,
    titles: Sequence[str] | None = None,
    scale: int | None = None,
) -> np.ndarray:
    """Return one sheet for each moment: uint8 [T, H, W, 3].

    Args:
        frames: T times the same number of pictures of the same sizes, as `sheet` takes them.
        columns: how many stand side by side.
        captions: one below each picture, the same at all moments.
        titles: one short word for each moment, above its first column.
        scale: whole-number enlargement.
    """
    columns = columns or _columns(len(frames[0]), None, None)
    sheets = list[np.ndarray]()
    for index, moment in enumerate(frames):
        heads = None
        if titles is not None:
            heads = [titles[index], *[""] * (columns - 1)]
        sheets.append(sheet(moment, columns, None, heads, captions, scale))
    return np.stack(sheets)


def _columns(
    count: int, rows_labels: Sequence[str] | None, columns_labels: Sequence[str] | None
) -> int:
    """How many of `count` pictures stand side by side."""
    if columns_labels:
        return len(columns_labels)
    if rows_labels:
        return math.ceil(count / len(rows_labels))
    return math.ceil(math.sqrt(count))


def _colour(picture: np.ndarray) -> np.ndarray:
    """Return uint8 [H, W, 3] of grey, colour or colour with alpha."""
    pixels = picture[..., None] if picture.ndim == 2 else picture
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] not in (1, 3, 4):
        raise ValueError(
            f"a picture is uint8 [H, W, 1, 3 or 4], not {picture.dtype} {list(picture.shape)}"
        )
    if pixels.shape[2] == 4:
        alpha = pixels[..., 3:].astype(np.float32) / 255
        pixels = np.rint(pixels[..., :3] * alpha + 255 * (1 - alpha)).astype(np.uint8)
    return pixels.repeat(3, axis=2) if pixels.shape[2] == 1 else pixels


def _resize(
    cells: list[np.ndarray], columns: int, rows: int, scale: int | None
) -> list[np.ndarray]:
    """Enlarge small pictures by whole pixels, so that each stays a crisp square; reduce
    large ones where the sheet would be above WIDEST.
    """
    from PIL import Image

    height, width = _largest(cells)
    times = scale or max(1, ENLARGED // max(height, width))
    longest = max(height * rows, width * columns) * times
    if longest <= WIDEST:
        return [cell.repeat(times, axis=0).repeat(times, axis=1) for cell in cells]
    share = WIDEST / longest * times
    resized = list[np.ndarray]()
    for cell in cells:
        size = (max(1, int(cell.shape[1] * share)), max(1, int(cell.shape[0] * share)))
        picture = Image.fromarray(cell).resize(size, Image.Resampling.LANCZOS)
        resized.append(np.asarray(picture))
    return resized


def _largest(cells: Sequence[np.ndarray]) -> tuple[int, int]:
    """The largest height and the largest width."""
    height = max(cell.shape[0] for cell in cells)
    width = max(cell.shape[1] for cell in cells)
    return height, width


@dataclass(frozen=True)
class _Labels:
    rows: Sequence[str]
    columns: Sequence[str]
    captions: Sequence[str]


@dataclass(frozen=True)
class _Layout:
    """Where the cells of a sheet are, in pixels."""

    rows: int
    columns: int
    height: int
    """Of a cell."""
    width: int
    """Of a cell."""
    left: int
    """Where the first column begins, after the rows' labels."""
    top: int
    """Where the first row begins, under the columns' labels."""
    caption_height: int
    """Of the captions of one row, with the gap above them."""

    @classmethod
    def of(
        cls, cells: list[np.ndarray], rows: int, columns: int, labels: _Labels
    ) -> _Layout:
        height, width = _largest(cells)
        if labels.columns or labels.captions:
            width = max(width, 4 * LETTERS)
        left = GAP
        if labels.rows:
            left += (
                max(math.ceil(_font().getlength(text)) for text in labels.rows) + GAP
            )
        top = GAP
        if labels.columns:
            top += _height_of(labels.columns, width) + GAP // 2
        caption_height = 0
        if labels.captions:
            caption_height = _height_of(labels.captions, width) + GAP
        return cls(rows, columns, height, width, left, top, caption_height)

    @property
    def size(self) -> tuple[int, int]:
        """Width and height of the sheet."""
        left, top = self.corner(self.rows, self.columns)
        return left, top

    def corner(self, row: int, column: int) -> tuple[int, int]:
        """Left and top of a cell."""
        left = self.left + column * (self.width + GAP)
        top = self.top + row * (self.height + self.caption_height + GAP)
        return left, top


def _height_of(texts: Sequence[str], width: int) -> int:
    """Pixels that the tallest of these texts takes, wrapped to `width`."""
    return max(len(_wrap(text, width)) for text in texts) * LINE_HEIGHT


def _draw(layout: _Layout, cells: Sequence[np.ndarray], labels: _Labels) -> np.ndarray:
    from PIL import Image, ImageDraw

    canvas = Image.new("RGB", layout.size, GROUND)
    draw = ImageDraw.Draw(canvas)
    for index, cell in enumerate(cells):
        left, top = layout.corner(*divmod(index, layout.columns))
        _draw_picture(canvas, draw, cell, layout, left, top)
        if labels.captions:
            middle = left + layout.width // 2
            below = top + layout.height + GAP // 2
            _draw_text(draw, labels.captions[index], middle, below, layout.width)
    for row, text in enumerate(labels.rows):
        left, top = layout.corner(row, 0)
        position = (left - GAP, top + layout.height // 2)
        draw.text(position, text, INK, _font(), anchor="rm")
    for column, text in enumerate(labels.columns):
        left, top = layout.corner(0, column)
        middle = left + layout.width // 2
        above = top - GAP // 2 - _height_of([text], layout.width)
        _draw_text(draw, text, middle, above, layout.width)
    return np.asarray(canvas)


def _draw_picture(
    canvas: Image,
    draw: ImageDraw,
    picture: np.ndarray,
    layout: _Layout,
    left: int,
    top: int,
) -> None:
    """Draw a picture in the middle of its cell, with a hairline around it so that the
    edge of a white picture can be seen.
    """
    from PIL import Image

    height, width = picture.shape[:2]
    x = left + (layout.width - width) // 2
    y = top + (layout.height - height) // 2
    draw.rectangle((x - 1, y - 1, x + width, y + height), outline=EDGE)
    canvas.paste(Image.fromarray(picture), (x, y))


def _draw_text(draw: ImageDraw, text: str, middle: int, top: int, width: int) -> None:
    """Draw a text of at most `width` pixels, centred at `middle`."""
    for index, line in enumerate(_wrap(text, width)):
        position = (middle, top + index * LINE_HEIGHT)
        draw.text(position, line, INK, _font(), anchor="ma")


def _wrap(text: str, width: int) -> list[str]:
    """Break a text into at most two lines of `width` pixels; what does not fit ends in
    an ellipsis. Breaks are at spaces and Chinese characters, or anywhere in a long word.
    """
    lines = [""]
    for piece in _pieces(text):
        longer = lines[-1] + piece
        fits = _font().getlength(longer.rstrip()) <= width
        if fits or not lines[-1].strip():
            lines[-1] = longer
        else:
            lines.append(piece)
    lines = [line.strip() for line in lines]
    if len(lines) > CAPTION_LINES:
        lines = [lines[0], "".join(lines[1:])]
    return [_shorten(line, width) for line in lines]


def _pieces(text: str) -> list[str]:
    """Pieces between which a line may break: Latin words with the space behind them,
    single Chinese characters.
    """
    pieces = list[str]()
    before = ""
    for letter in " ".join(text.split()):
        if not before or before == " " or _is_wide(letter) or _is_wide(before):
            pieces.append(letter)
        else:
            pieces[-1] += letter
        before = letter
    return pieces or [""]


def _is_wide(letter: str) -> bool:
    """Whether a letter is of a script without spaces between words (CJK and beyond)."""
    return ord(letter) > 0x2E7F


def _shorten(line: str, width: int) -> str:
    """Cut a line to `width` pixels, with an ellipsis where something is cut."""
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

    fonts = _installed_fonts()
    for name in CHINESE:
        matches = [stem for stem in sorted(fonts) if stem.startswith(name.lower())]
        if matches:
            path = fonts[matches[0]]
            # Noto's collection holds JP, KR, SC, TC and HK faces in this order.
            is_collection = "CJK-" in path.name and path.suffix == ".ttc"
            return ImageFont.truetype(path, LETTERS, index=2 if is_collection else 0)
    return ImageFont.load_default(LETTERS)


def _installed_fonts() -> dict[str, Path]:
    """The system's font files by their names in lower case."""
    fonts = dict[str, Path]()
    for root in FOLDERS:
        for folder, _, names in os.walk(Path(root).expanduser()):
            for name in names:
                if name.lower().endswith((".ttf", ".ttc", ".otf")):
                    fonts[Path(name).stem.lower()] = Path(folder) / name
    return fonts
