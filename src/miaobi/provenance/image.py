"""Pictures as files that say where they came from.

Each file carries its facts as JSON (PNG: iTXt "miaobi"; JPEG and WebP: EXIF
UserComment; GIF: comment) and an XMP packet with IPTC's digital source type
"trainedAlgorithmicMedia" (PNG, JPEG, WebP). Every file is read back before it takes its
name: writers are known to drop metadata without a word.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import ExifTags
from PIL import Image as Pillow
from PIL.PngImagePlugin import PngInfo

from miaobi import __version__
from miaobi.core.artifacts import Image, Video
from miaobi.core.errors import Damaged, Unsupported
from miaobi.core.files import locked, write_beside, write_text
from miaobi.core.language import say
from miaobi.provenance.label import SOURCE_TYPE, label, xmp
from miaobi.provenance.sheet import sheet

FORMATS = {
    ".png": "PNG",
    ".jpg": "JPEG",
    ".jpeg": "JPEG",
    ".webp": "WEBP",
    ".gif": "GIF",
}
MOVING = ("WEBP", "GIF")
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


def write(pictures: Sequence[Image] | Video, path: Path) -> Path:
    """Write one picture as it is; several as one sheet, as an animation (.gif), or
    numbered in a folder; a video as an animation.

    Raises Unsupported for an ending without a writer, or a picture too large for the format.
    """
    if isinstance(pictures, Video):
        _save(
            path,
            format_of(path),
            list(pictures.frames),
            label(pictures.facts),
            seconds=1 / pictures.fps,
        )
        return path
    if is_folder(path):
        write_each(pictures, path)
        return path
    kind = format_of(path)
    pixels = [picture.pixels for picture in pictures]
    facts = merged([record(picture) for picture in pictures])
    if kind == "GIF":
        _save(path, kind, pixels, facts, seconds=SECONDS_A_PICTURE)
    elif len(pixels) == 1:
        _save(path, kind, pixels, facts)
    else:
        _save(path, kind, [sheet(pixels)], facts)
    return path


def write_each(pictures: Sequence[Image], folder: Path) -> list[Path]:
    """Write 000.png, 001.png, ... and a line of index.jsonl for each.

    Numbers go on after those that are in the folder.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with locked(folder):  # no number is used twice
        first = _next_number(folder)
        paths = [
            write([picture], folder / f"{number:03d}.png")
            for number, picture in enumerate(pictures, first)
        ]
        index = folder / "index.jsonl"
        rows = index.read_text(encoding="utf-8").splitlines() if index.exists() else []
        for path, picture in zip(paths, pictures, strict=True):
            row = {"file": path.name, **record(picture)}
            rows.append(json.dumps(row, ensure_ascii=False))
        write_text(index, "\n".join(rows) + "\n")
    return paths


def _next_number(folder: Path) -> int:
    """One more than the highest number that names a file of the folder."""
    stems = [file.stem for file in folder.iterdir()]
    numbers = [int(stem) for stem in stems if stem.isascii() and stem.isdigit()]
    return max(numbers, default=-1) + 1


def is_folder(path: Path) -> bool:
    """Whether pictures for this path go into a folder: one that is there, or a name
    without an ending.
    """
    return path.is_dir() or not path.suffix


def format_of(path: Path, moving: bool = False) -> str:
    """Pillow's name of the format that the ending stands for.

    Args:
        path: only its ending counts.
        moving: the file is an animation.

    Raises Unsupported for any other ending.
    """
    kind = FORMATS.get(path.suffix.lower(), "")
    if kind and (kind in MOVING or not moving):
        return kind
    endings = [end for end, name in FORMATS.items() if name in MOVING or not moving]
    what, thing = ("An animation", "动画") if moving else ("A picture", "图片")
    raise Unsupported(
        say(
            f"{what} cannot be written as {path.suffix or 'a file without an ending'} ({path}).",
            f"{thing}不能写成 {path.suffix or '没有扩展名的文件'}（{path}）。",
        ),
        say(f"Choose one of {', '.join(endings)}.", f"请选用 {'、'.join(endings)}。"),
    )


def record(picture: Image) -> dict[str, Any]:
    """A picture's label as JSON, with why it ended where that is not "stop"."""
    if picture.finish == "stop":
        return label(picture.facts)
    return {**label(picture.facts), "finish": picture.finish}


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


def read_record(path: Path) -> dict[str, Any]:
    """The record that a picture file carries; empty where there is none."""
    with Pillow.open(path) as picture:
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


def _save(
    path: Path,
    kind: str,
    frames: list[np.ndarray],
    facts: dict[str, Any],
    seconds: float = 0,
) -> None:
    """Encode, read back, and only then take the name.

    Args:
        path: the file's name in the end.
        kind: Pillow's name of the format.
        frames: uint8 [H, W, C] each; more than one make an animation.
        facts: the record to write into the file.
        seconds: how long each frame is shown.
    """
    if len(frames) > 1:
        format_of(path, moving=True)
    _check_size(path, kind, frames[0], facts)
    settings = _settings(kind, facts)
    if len(frames) > 1:
        settings |= {
            "save_all": True,
            "append_images": [_pillow(frame) for frame in frames[1:]],
            "duration": round(1000 * seconds),
            "loop": 0,
        }
    with write_beside(path) as draft:
        _pillow(frames[0]).save(draft, kind, **settings)
        _check(draft, path, frames, facts)


def _check_size(
    path: Path, kind: str, pixels: np.ndarray, facts: dict[str, Any]
) -> None:
    """Raise Unsupported for pictures or facts that are too large for the format."""
    remedy = say(
        f"Write {path.with_suffix('.png').name} instead.",
        f"请改写为 {path.with_suffix('.png').name}。",
    )
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
    draft: Path, path: Path, frames: list[np.ndarray], facts: dict[str, Any]
) -> None:
    """Raise Damaged unless the file on disk holds the picture's size, its facts, its
    source type and (PNG) its very pixels.
    """
    height, width = frames[0].shape[:2]
    with Pillow.open(draft) as picture:
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
                f"{path} was written, but reads back without its facts or with other pixels.",
                f"{path} 写出后读回的内容不一致。",
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
