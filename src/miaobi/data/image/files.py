"""From a picture file to its pixels, whatever it was saved as: turned as its EXIF says,
on white where it is transparent, 8 bits.

What cannot be used is refused with the reason and the remedy. Sizes are read from the
header before anything is decoded, so a small file that would unpack to gigabytes (a
decompression bomb) costs nothing.
"""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from miaobi.core.errors import BadInput, MissingPart
from miaobi.core.language import in_each, say
from miaobi.data.text.shapes import Unusable

if TYPE_CHECKING:
    import numpy as np
    from PIL import Image

ENDINGS = frozenset(
    {
        ".png",
        ".apng",
        ".jpg",
        ".jpeg",
        ".jpe",
        ".jfif",
        ".webp",
        ".gif",
        ".bmp",
        ".tif",
        ".tiff",
        ".svg",
    }
)
FOREIGN = frozenset(
    {
        ".heic",
        ".heif",
        ".avif",
        ".jp2",
        ".jxl",
        ".psd",
        ".tga",
        ".ico",
        ".dng",
        ".cr2",
        ".nef",
        ".arw",
    }
)
"""Endings of pictures that are not read here; they are reported, not passed over."""
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")
"""Pillow's names (JPEG opens MPO too). Its other readers are not used: fewer parsers
for hostile files to find a fault in.
"""
PIXEL_LIMIT = 64_000_000
SMALLEST = 2
"""Pixels of a side, at least."""
SVG_SIDE = 64
"""Pixels of the longer side at which a drawing (SVG) is drawn where no size is named."""
ORIENTATION = 0x0112
"""The EXIF tag; from 5 on width and height are exchanged."""
TRANSPARENT_MODES = ("LA", "La", "PA", "RGBA", "RGBa")
LARGEST_16_BIT = 65535
WHITES = (255, 1023, 4095, 16383, LARGEST_16_BIT)
"""The value of white in integers of 8, 10, 12, 14 and 16 bits."""
SIXTEEN_BITS, THIRTY_TWO_BITS, FLOATS = "16-bit", "32-bit", "float"
"""Kinds of deep pictures: those whose values do not say themselves what is white."""


def read_picture(
    content: Path | str | bytes | np.ndarray, name: str = ""
) -> np.ndarray:
    """Return the pixels of a picture, uint8 [H, W, 3].

    Args:
        content: a file, its bytes, or pixels uint8 [H, W] or [H, W, 1, 3 or 4]
        name: of the picture in errors, by default the file's

    Raises BadInput with the name, the reason and the remedy.
    """
    import numpy as np

    if isinstance(content, str):
        content = Path(content).expanduser()
    if not name:
        is_file = isinstance(content, Path)
        name = str(content) if is_file else say("the picture", "图片")
    try:
        with quiet():
            picture = open_picture(content).pixels
    except Unusable as error:
        raise BadInput(error.at(name), error.remedy) from None
    return np.asarray(picture.convert("RGB"))


def upright_size(file: Path) -> tuple[int, int]:
    """Return width and height of a picture as its header says, a JPEG's turned as its
    EXIF says; nothing is decoded. On damaged files Pillow raises nearly anything.
    """
    from PIL import Image

    with Image.open(file, formats=FORMATS) as picture:
        width, height = picture.size
        # Of a PNG, everything would be decoded to look for EXIF.
        is_jpeg = picture.format in ("JPEG", "MPO")
        if is_jpeg and picture.getexif().get(ORIENTATION, 1) >= 5:
            return height, width
    return width, height


@contextmanager
def quiet() -> Iterator[None]:
    """Silence Pillow's warnings: what matters of them is reported. Not to be entered by
    several threads at once.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"PIL\.")
        yield


class Range(NamedTuple):
    """The values from black to white."""

    low: float
    high: float


class Opened(NamedTuple):
    pixels: Image.Image
    """Mode L or RGB."""
    kind: str
    """Format and mode of what was opened, such as "JPEG CMYK"."""
    note: str
    """What a user should know of how it was read, or ""."""
    depth: str = ""
    """One of the kinds of deep pictures, or ""."""
    values: Range = Range(0, 255)
    """Its smallest and its largest value, for a deep picture."""


def open_picture(
    content: Path | bytes | np.ndarray,
    side: int = 0,
    ranges: Mapping[str, Range] | None = None,
) -> Opened:
    """Decode a picture. Raises Unusable.

    Args:
        content: a file, its bytes, or pixels
        side: pixels of the longer side at which an SVG is drawn, and half of what a
            JPEG is decoded to at least; 0 for SVG_SIDE, and for all there are
        ranges: black and white of deep pictures by their kind, as a whole set shows
            them (`range_of_set`); by default what type and largest value of this one suggest
    """
    picture, kind = _undecoded(content, side)
    _check_size(*picture.size)
    try:
        frames = _frames(picture)
        if side and picture.format == "JPEG":
            picture.draft(None, (2 * side, 2 * side))
        picture.load()
        picture = _upright(picture)
        depth = _depth(picture.mode)
        values = _values(picture) if depth else Range(0, 255)
        pixels = _eight_bits(picture, values, (ranges or {}).get(depth))
    except Unusable:
        raise
    # On damaged files Pillow's decoders raise nearly anything.
    except Exception as error:
        raise Unusable(
            say(
                f"it cannot be decoded: {_reason(error)}.",
                f"无法解码：{_reason(error)}。",
            ),
            _copy_again(),
        ) from None
    note = ""
    if frames > 1:
        note = say(
            f"{frames} frames or pages: only the first is used.",
            f"共 {frames} 帧（页）：只使用第一帧。",
        )
    return Opened(pixels, kind, note, depth, values)


def _undecoded(
    content: Path | bytes | np.ndarray, side: int
) -> tuple[Image.Image, str]:
    """A picture that is not decoded yet, and its kind."""
    if not isinstance(content, Path | bytes):
        return _from_array(content), say("pixels", "像素")
    raw = _bytes(content)
    if _is_svg(raw):
        return _header(_draw(raw, side or SVG_SIDE)), "SVG"
    picture = _header(raw)
    return picture, f"{picture.format} {picture.mode}"


def _frames(picture: Image.Image) -> int:
    """Frames or pages; the further pictures of an MPO (a stereo JPEG) do not count."""
    if picture.format == "MPO":
        return 1
    return int(getattr(picture, "n_frames", 1))  # Pillow sets it for some formats only


def _bytes(content: Path | bytes) -> bytes:
    try:
        raw = content if isinstance(content, bytes) else content.read_bytes()
    except OSError as error:
        raise Unusable(
            say(
                f"it cannot be read: {error.strerror}.", f"无法读取：{error.strerror}。"
            ),
            say("Check the path and its permissions.", "请检查路径与权限。"),
        ) from None
    if not raw:
        raise Unusable(
            say("it is empty (zero bytes).", "文件为空（零字节）。"), _copy_again()
        )
    return raw


def _header(raw: bytes) -> Image.Image:
    """The picture, not yet decoded."""
    from PIL import Image, UnidentifiedImageError

    try:
        return Image.open(io.BytesIO(raw), formats=FORMATS)
    except Image.DecompressionBombError as error:
        pixels = _first_number(str(error))
        raise _too_large(
            say(
                f"{pixels / 1e6:,.0f} million pixels",
                f"{pixels / 1e4:,.0f} 万像素",
            )
        ) from None
    except UnidentifiedImageError:
        raise Unusable(
            say(
                f"it is not a picture in a format read here (it begins with {raw[:8]!r}).",
                f"不是可读取的图片格式（开头为 {raw[:8]!r}）。",
            ),
            say(
                "Save it as PNG, JPEG, WebP, GIF, BMP or TIFF.",
                "请另存为 PNG、JPEG、WebP、GIF、BMP 或 TIFF。",
            ),
        ) from None
    except Exception as error:  # as above
        raise Unusable(
            say(
                f"its header is damaged: {_reason(error)}.",
                f"文件头已损坏：{_reason(error)}。",
            ),
            _copy_again(),
        ) from None


def _check_size(width: int, height: int) -> None:
    if width * height > PIXEL_LIMIT:
        raise _too_large(
            say(f"{width:,} × {height:,} pixels", f"{width:,} × {height:,} 像素")
        )
    if min(width, height) < SMALLEST:
        raise Unusable(
            say(
                f"it is {width} × {height} pixels: nothing can be learned from it.",
                f"只有 {width} × {height} 像素，无法用于训练。",
            ),
            say(
                f"Leave it out, or give one of at least {SMALLEST} × {SMALLEST}.",
                f"请去掉它，或换成至少 {SMALLEST} × {SMALLEST} 的图片。",
            ),
        )


def _too_large(size: str) -> Unusable:
    return Unusable(
        in_each(
            lambda: say(
                f"it is too large: {size}; at most {PIXEL_LIMIT / 1e6:.0f} million are decoded.",
                f"图片过大：{size}；最多解码 {PIXEL_LIMIT // 10_000:,} 万像素。",
            )
        ),
        say(
            "Scale it down first. A small file of such a size may be a decompression bomb.",
            "请先缩小。很小的文件却有这样的尺寸，可能是解压炸弹。",
        ),
    )


def _first_number(text: str) -> int:
    return int(next(iter(re.findall(r"\d+", text)), 0))


def _copy_again() -> str:
    return say(
        "Copy or download it again, or remove it.", "请重新复制或下载，或将其删除。"
    )


def _reason(error: Exception) -> str:
    lines = str(error).splitlines() or [type(error).__name__]
    return lines[0].rstrip(".")


def _upright(picture: Image.Image) -> Image.Image:
    """Rotated and mirrored as EXIF tag 0x0112 says. Damaged EXIF leaves it as it is:
    its pixels are sound.
    """
    from PIL import ImageOps

    try:
        return ImageOps.exif_transpose(picture)
    except Exception:  # as above
        return picture


def _depth(mode: str) -> str:
    """The kind of a deep picture by its mode in Pillow, or ""."""
    if mode.startswith("I;16"):
        return SIXTEEN_BITS
    return {"I": THIRTY_TWO_BITS, "F": FLOATS}.get(mode, "")


def _values(picture: Image.Image) -> Range:
    """The smallest and the largest value. Raises Unusable for what are no numbers."""
    import numpy as np

    values = np.asarray(picture)
    if not np.isfinite(values).all():
        raise Unusable(
            say(
                "it has values that are no numbers (NaN or infinite).",
                "含有非数值（NaN 或无穷大）。",
            ),
            say("Export it again with finite values.", "请重新导出为有限值。"),
        )
    return Range(float(values.min()), float(values.max()))


def _eight_bits(
    picture: Image.Image, values: Range, limits: Range | None
) -> Image.Image:
    """The picture in mode L or RGB, transparent parts on white.

    Args:
        picture: in any mode
        values: of a deep picture
        limits: its black and white, where they are known
    """
    from PIL import Image

    if picture.mode in ("L", "RGB"):
        return picture
    if picture.mode == "1":
        return picture.convert("L")
    if _depth(picture.mode):
        limits = limits or _suggested(values, picture.mode == "F")
        return Image.fromarray(_scaled(picture, limits))
    if picture.mode in TRANSPARENT_MODES or "transparency" in picture.info:
        picture = picture.convert("RGBA")
        white = Image.new("RGBA", picture.size, "white")
        return Image.alpha_composite(white, picture).convert("RGB")
    return picture.convert("RGB")


def _scaled(picture: Image.Image, limits: Range) -> np.ndarray:
    """The values of a deep picture as uint8 [H, W], from black to white."""
    import numpy as np

    values = np.asarray(picture).astype(np.float64)
    share = (values - limits.low) / (limits.high - limits.low or 1)
    return np.round(share.clip(0, 1) * 255).astype(np.uint8)


def _suggested(values: Range, is_float: bool) -> Range:
    """Black and white of a single deep picture, by its type and its largest value."""
    low, high = values
    if low < 0 or high > LARGEST_16_BIT:
        return values
    if is_float and high <= 1:
        return Range(0, 1)
    if is_float and high <= 255:
        return Range(0, 255)
    return Range(0, LARGEST_16_BIT)


def range_of_set(depth: str, values: Range) -> Range:
    """Return black and white of a set of deep pictures.

    Args:
        depth: their kind
        values: the smallest and the largest value in the whole set

    Where nothing is below zero, white is the largest value of as many bits as the set
    needs (8, 10, 12, 14 or 16), or 1 for floats up to 1; floats from -1 to 1 keep that
    range. Anything else reaches from the smallest to the largest value.
    """
    low, high = values
    if depth == FLOATS and -1 <= low < 0 and high <= 1:
        return Range(-1, 1)
    if low < 0 or high > LARGEST_16_BIT:
        return values
    if depth == FLOATS and high <= 1:
        return Range(0, 1)
    return Range(0, next(white for white in WHITES if high <= white))


def _from_array(pixels: np.ndarray) -> Image.Image:
    import numpy as np
    from PIL import Image

    is_grey = pixels.ndim == 2 or (pixels.ndim == 3 and pixels.shape[2] == 1)
    is_colour = pixels.ndim == 3 and pixels.shape[2] in (3, 4)
    if pixels.dtype != np.uint8 or not (is_grey or is_colour):
        raise Unusable(
            say(
                f"its pixels are {pixels.dtype} {list(pixels.shape)}.",
                f"像素为 {pixels.dtype} {list(pixels.shape)}。",
            ),
            say(
                "Give uint8 [H, W], or [H, W, C] with 1, 3 or 4 channels.",
                "请给出 uint8 [H, W]，或通道数为 1、3、4 的 [H, W, C]。",
            ),
        )
    if not pixels.size:
        raise Unusable(say("it has no pixels.", "没有像素。"), _copy_again())
    if is_grey:
        pixels = pixels.reshape(pixels.shape[:2])
    return Image.fromarray(np.ascontiguousarray(pixels))


def _is_svg(raw: bytes) -> bool:
    text = raw[:1024].lstrip(b"\xef\xbb\xbf \t\r\n")
    return text.startswith(b"<") and b"<svg" in raw[:4096]


def _draw(raw: bytes, side: int) -> bytes:
    """An SVG drawing as a PNG whose longer side has `side` pixels, on white. Nothing in
    it is run, nothing it names is loaded.
    """
    resvg: Any
    try:
        import resvg_py as resvg
    except ImportError:
        raise MissingPart(
            say(
                "Drawings (SVG) need the package resvg-py.",
                "读取 SVG 需要安装 resvg-py。",
            ),
            "pip install resvg-py",
        ) from None
    try:
        return bytes(
            resvg.svg_to_bytes(
                svg_string=raw.decode("utf-8"),
                width=side,
                height=side,
                background="white",
                skip_system_fonts=True,
            )
        )
    except ValueError as error:
        raise Unusable(
            say(
                f"it is not a sound SVG drawing: {_reason(error)}.",
                f"不是有效的 SVG：{_reason(error)}。",
            ),
            _copy_again(),
        ) from None
