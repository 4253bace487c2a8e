"""Pictures from outside: three formats, their size read from the header before anything
is decoded, transparency kept apart.

OpenAI's masks say by transparency what is to be repainted; ours say it in white.
`Incoming.mask` is ours.
"""

from __future__ import annotations

import base64
import binascii
import io
import threading
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from miaobi.core.errors import BadInput
from miaobi.core.language import say
from miaobi.data.image.files import read_picture
from miaobi.serve.errors import ApiError

FORMATS = ("PNG", "JPEG", "WEBP")
"""What a browser's picture is. Every further parser is one more for a hostile file to
find a fault in.
"""
DATA = "data:image/"
_decoding = threading.Lock()
"""read_picture quietens warnings for the whole process while it decodes."""


@dataclass(frozen=True)
class Incoming:
    """pixels: uint8 [H, W, 3], on white where transparent. alpha: uint8 [H, W], 0 where
    transparent; None for an opaque picture.
    """

    pixels: np.ndarray
    alpha: np.ndarray | None

    @property
    def mask(self) -> np.ndarray | None:
        """White [H, W, 3] where this picture is transparent, which is where it is to be
        repainted.
        """
        return (
            None
            if self.alpha is None
            else np.repeat(255 - self.alpha[..., None], 3, axis=2)
        )


def read(raw: bytes, name: str, most_pixels: int) -> Incoming:
    """A picture's bytes, decoded; `name` is the field it came in. Raises BadInput."""
    try:
        picture = Image.open(io.BytesIO(raw), formats=FORMATS)
    except UnidentifiedImageError:
        raise BadInput(
            say(
                f"{name} is not a picture that is read here.",
                f"{name} 不是可读取的图片。",
            ),
            say("Send PNG, JPEG or WebP.", "请发送 PNG、JPEG 或 WebP。"),
        ) from None
    except Image.DecompressionBombError:
        raise _too_large(name, most_pixels) from None
    except Exception:  # Pillow's parsers raise nearly anything on damaged files
        raise _damaged(name) from None
    if picture.width * picture.height > most_pixels:
        raise _too_large(name, most_pixels)
    with _decoding:
        pixels = read_picture(raw, name)
        try:
            return Incoming(pixels, _alpha(picture))
        except Exception:  # as above
            raise _damaged(name) from None


def of_data_url(url: str, param: str) -> bytes:
    """The bytes of a data: URL's picture, still to be read. No other URL is ever
    fetched. Raises ApiError 400.
    """
    head, comma, data = url.partition(",")
    if not head.startswith(DATA) or not head.endswith(";base64") or not comma:
        raise ApiError(
            400,
            say(
                "image_url takes data: URLs only (data:image/png;base64,...); nothing is fetched from other addresses.",
                "image_url 仅支持 data: URL（data:image/png;base64,...）；不会访问其他地址。",
            ),
            code="url_not_allowed",
            param=param,
        )
    try:
        return base64.b64decode(data, validate=True)
    except (binascii.Error, ValueError):
        raise ApiError(
            400,
            say("image_url holds no valid base64.", "image_url 不是有效的 base64。"),
            param=param,
        ) from None


def _alpha(picture: Image.Image) -> np.ndarray | None:
    """How opaque each pixel is; None where all are wholly so."""
    if "A" not in picture.mode and "transparency" not in picture.info:
        return None
    alpha = np.asarray(ImageOps.exif_transpose(picture).convert("RGBA").getchannel("A"))
    return None if alpha.min() == 255 else alpha


def _too_large(name: str, most_pixels: int) -> BadInput:
    return BadInput(
        say(
            f"{name} is too large: at most {most_pixels:,} pixels are decoded here.",
            f"{name} 过大：此处最多解码 {most_pixels:,} 像素。",
        ),
        say("Scale it down first.", "请先缩小图片。"),
    )


def _damaged(name: str) -> BadInput:
    return BadInput(
        say(
            f"{name} cannot be decoded: the file is damaged.",
            f"{name} 无法解码：文件已损坏。",
        ),
        say("Send it again.", "请重新发送。"),
    )
