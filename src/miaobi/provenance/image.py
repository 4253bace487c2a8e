"""The writer of pictures: files that say where they came from.

Each file carries its facts as JSON (PNG: iTXt "miaobi"; JPEG and WebP: EXIF
UserComment; GIF: comment) and an XMP packet with IPTC's digital source type
"trainedAlgorithmicMedia" (PNG, JPEG, WebP). Every file is read back before it leaves:
encoders are known to drop metadata without a word.
"""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
from PIL import ExifTags
from PIL import Image as Pillow
from PIL.PngImagePlugin import PngInfo

from miaobi import __version__
from miaobi.core.artifacts import Image
from miaobi.core.errors import Damaged, Unsupported
from miaobi.core.language import say
from miaobi.provenance.label import SOURCE_TYPE, xmp
from miaobi.provenance.label import record as record
from miaobi.provenance.sheet import sheet

ARTIFACT = Image
ENDINGS = {
    ".png": "image/png",
    ".jpg": "image/jpeg",
    ".jpeg": "image/jpeg",
    ".webp": "image/webp",
    ".gif": "image/gif",
}
NUMBERED = True
LARGEST = {"PNG": 2**31 - 1, "JPEG": 65_500, "WEBP": 16_383, "GIF": 65_535}
"""Pixels a side that a format, or its usual library, can hold."""
LONGEST_EXIF = 65_000
"""Bytes: a JPEG segment holds 65,533."""
KEY = "miaobi"
XMP_KEY = "XML:com.adobe.xmp"
ASCII = b"ASCII\0\0\0"
"""What an EXIF UserComment in ASCII begins with."""
SECONDS_A_PICTURE = 0.5
"""How long each picture of an animation is shown."""


def encode(pictures: Sequence[Image], ending: str) -> bytes:
    """Return the file of one picture as it is; of several as one sheet, or as an
    animation (.gif).

    Raises Unsupported for a picture that is too large for the format.
    """
    pixels = [picture.pixels for picture in pictures]
    facts = merged([record(picture) for picture in pictures])
    if len(pixels) > 1 and ending != ".gif":
        pixels = [sheet(pixels)]
    return encode_frames(pixels, ending, facts, SECONDS_A_PICTURE)


def encode_sheet(
    pictures: Sequence[Image], captions: Sequence[str], ending: str
) -> bytes:
    """Return the file of one sheet that shows several pictures over their captions."""
    pixels = sheet([picture.pixels for picture in pictures], captions=captions)
    facts = merged([record(picture) for picture in pictures])
    return encode_frames([pixels], ending, facts, SECONDS_A_PICTURE)


def merged(records: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Several records as one: what they share, and under "pictures" what differs."""
    shared = {
        key: value
        for key, value in records[0].items()
        if all(other.get(key) == value for other in records)
    }
    own = [
        {key: value for key, value in item.items() if key not in shared}
        for item in records
    ]
    return {**shared, "pictures": own} if any(own) else shared


def read_record(file: Path | IO[bytes]) -> dict[str, Any]:
    """The record that a picture file carries; empty where there is none."""
    with Pillow.open(file) as picture:
        return _read_record(picture)


def _read_record(picture: Pillow.Image) -> dict[str, Any]:
    try:
        value = json.loads(_record_text(picture) or "{}")
    except ValueError:  # somebody else's comment
        return {}
    return value if isinstance(value, dict) else {}


def _record_text(picture: Pillow.Image) -> str | bytes:
    """What stands where this module writes records: iTXt, UserComment, comment."""
    if picture.info.get(KEY):
        return str(picture.info[KEY])
    exif = picture.getexif().get_ifd(ExifTags.IFD.Exif)
    comment: bytes = exif.get(ExifTags.Base.UserComment, b"")
    if comment.startswith(ASCII):
        return comment.removeprefix(ASCII)
    text: bytes = picture.info.get("comment", b"")
    return text


def encode_frames(
    frames: Sequence[np.ndarray], ending: str, facts: dict[str, Any], seconds: float
) -> bytes:
    """Return a picture, or an animation, with its facts inside; it was read back.

    Args:
        frames: uint8 [H, W, C] each; more than one make an animation.
        ending: one of ENDINGS; .gif or .webp for an animation.
        facts: the record to write into the file.
        seconds: how long each frame of an animation is shown.
    """
    kind = ENDINGS[ending].removeprefix("image/").upper()
    _check_size(kind, frames[0], facts)
    settings = _settings(kind, facts)
    if len(frames) > 1:
        settings |= {
            "save_all": True,
            "append_images": [_pillow(frame) for frame in frames[1:]],
            "duration": round(1000 * seconds),
            "loop": 0,
        }
    file = io.BytesIO()
    _pillow(frames[0]).save(file, kind, **settings)
    _check(file, frames, facts)
    return file.getvalue()


def _check_size(kind: str, pixels: np.ndarray, facts: dict[str, Any]) -> None:
    """Raise Unsupported for pictures or facts that are too large for the format."""
    remedy = say("Write a .png instead.", "请改写为 .png。")
    height, width = pixels.shape[:2]
    if max(height, width) > LARGEST[kind]:
        raise Unsupported(
            say(
                f"{kind} holds at most {LARGEST[kind]:,} pixels a side; this picture has {width:,} × {height:,}.",
                f"{kind} 每边最多 {LARGEST[kind]:,} 像素；这张图片为 {width:,} × {height:,}。",
            ),
            remedy,
        )
    length = len(json.dumps(facts))
    if kind == "JPEG" and length > LONGEST_EXIF:
        raise Unsupported(
            say(
                f"The facts take {length:,} bytes; a JPEG holds at most {LONGEST_EXIF:,}.",
                f"生成信息有 {length:,} 字节；JPEG 最多容纳 {LONGEST_EXIF:,} 字节。",
            ),
            remedy,
        )


def _settings(kind: str, facts: dict[str, Any]) -> dict[str, Any]:
    """The arguments of Pillow's `save` for this format, the facts included."""
    if kind == "PNG":
        chunks = PngInfo()
        chunks.add_itxt(KEY, json.dumps(facts, ensure_ascii=False))
        chunks.add_itxt(XMP_KEY, xmp())
        return {"pnginfo": chunks}
    if kind == "GIF":
        return {"comment": json.dumps(facts).encode()}
    metadata = {"exif": _exif(facts), "xmp": xmp().encode()}
    if kind == "JPEG":
        return {**metadata, "quality": 95, "subsampling": 0}
    return {**metadata, "quality": 95, "method": 4}


def _exif(facts: dict[str, Any]) -> Pillow.Exif:
    exif = Pillow.Exif()
    description = f"AI-generated · {facts.get('model', '')}"
    exif[ExifTags.Base.ImageDescription] = description.encode()
    exif[ExifTags.Base.Software] = f"miaobi {__version__}"
    exif.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.UserComment] = (
        ASCII + json.dumps(facts).encode()
    )
    return exif


def _check(
    file: io.BytesIO, frames: Sequence[np.ndarray], facts: dict[str, Any]
) -> None:
    """Raise Damaged unless the file holds the picture's size, its facts, its source type
    and (PNG) its very pixels.
    """
    height, width = frames[0].shape[:2]
    with Pillow.open(file) as picture:
        whole = (
            picture.size == (width, height)
            and _read_record(picture) == json.loads(json.dumps(facts))
            and _has_source_type(picture)
            and _has_pixels(picture, frames[0])
        )
        if len(frames) == 1:
            picture.load()
    if not whole:
        raise Damaged(
            say(
                "The picture was encoded, but reads back without its facts or with other pixels.",
                "图片编码后读回的内容不一致。",
            ),
            say("Try another ending, such as .png.", "请换一种扩展名，例如 .png。"),
        )


def _has_source_type(picture: Pillow.Image) -> bool:
    if picture.format == "GIF":  # has no XMP
        return True
    packet = picture.info.get("xmp") or picture.info.get(XMP_KEY) or ""
    text = packet.decode() if isinstance(packet, bytes) else packet
    return SOURCE_TYPE in text


def _has_pixels(picture: Pillow.Image, pixels: np.ndarray) -> bool:
    """Whether a PNG holds these pixels; the other formats lose some."""
    if picture.format != "PNG":
        return True
    return np.array_equal(np.asarray(picture), np.asarray(_pillow(pixels)))


def _pillow(pixels: np.ndarray) -> Pillow.Image:
    grey = pixels.ndim == 3 and pixels.shape[2] == 1
    return Pillow.fromarray(pixels[..., 0] if grey else pixels)
