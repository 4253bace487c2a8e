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
from xml.sax.saxutils import quoteattr

import numpy as np
from PIL import ExifTags
from PIL import Image as Pillow
from PIL.PngImagePlugin import PngInfo

from miaobi import __version__
from miaobi.core.artifacts import Facts, Image, Video
from miaobi.core.errors import Damaged, Unsupported
from miaobi.core.files import locked, write_beside, write_text
from miaobi.core.language import say
from miaobi.core.requests import recorded
from miaobi.provenance.publish import NOTICE, facts_of
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
SOURCE_TYPE = "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"
KEY, XMP_KEY, ASCII = "miaobi", "XML:com.adobe.xmp", b"ASCII\0\0\0"
SECONDS_A_PICTURE = 0.5


def write(pictures: Sequence[Image] | Video, path: Path) -> Path:
    """One picture as it is; several as one sheet, or as an animation (.gif), or
    numbered in a folder; a video as an animation.

    Raises Unsupported for an ending that has no writer, or a picture too large for the format.
    """
    if not isinstance(pictures, Video) and is_folder(path):
        write_each(pictures, path)
        return path
    kind = format_of(path)
    if isinstance(pictures, Video):
        _save(
            path, kind, list(pictures.frames), record(pictures.facts), 1 / pictures.fps
        )
    elif kind == "GIF":
        _save(
            path,
            kind,
            [item.pixels for item in pictures],
            common([of(item) for item in pictures]),
            SECONDS_A_PICTURE,
        )
    else:
        pixels = (
            pictures[0].pixels
            if len(pictures) == 1
            else sheet([item.pixels for item in pictures])
        )
        _save(path, kind, [pixels], common([of(item) for item in pictures]))
    return path


def write_each(pictures: Sequence[Image], folder: Path) -> list[Path]:
    """000.png, 001.png, ... and their facts as lines of index.jsonl; numbers go on
    after those that are in the folder.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with locked(folder):  # so that no number is given twice
        taken = [
            int(item.stem)
            for item in folder.iterdir()
            if item.stem.isascii() and item.stem.isdigit()
        ]
        first = max(taken, default=-1) + 1
        paths = [
            write([item], folder / f"{number:03d}.png")
            for number, item in enumerate(pictures, first)
        ]
        index = folder / "index.jsonl"
        lines = [
            json.dumps({"file": path.name, **of(item)}, ensure_ascii=False)
            for path, item in zip(paths, pictures, strict=True)
        ]
        before = (
            index.read_text(encoding="utf-8").splitlines() if index.exists() else []
        )
        write_text(index, "\n".join([*before, *lines]) + "\n")
    return paths


def is_folder(path: Path) -> bool:
    """Whether pictures for this path go into a folder: one that is there, or a name
    without an ending.
    """
    return path.is_dir() or not path.suffix


def format_of(path: Path, moving: bool = False) -> str:
    """Pillow's name of the format that the ending means. Raises Unsupported."""
    kind = FORMATS.get(path.suffix.lower(), "")
    known = [ending for ending, name in FORMATS.items() if name in MOVING or not moving]
    if not kind or (moving and kind not in MOVING):
        what, thing = ("An animation", "动画") if moving else ("A picture", "图片")
        raise Unsupported(
            say(
                f"{what} cannot be written as {path.suffix or 'a file without an ending'} ({path}).",
                f"{thing}不能写成 {path.suffix or '没有扩展名的文件'}（{path}）。",
            ),
            say(f"Choose one of {', '.join(known)}.", f"请选用 {'、'.join(known)}。"),
        )
    return kind


def of(picture: Image) -> dict[str, Any]:
    """A picture's facts and notice, as JSON has them."""
    return record(picture.facts) | (
        {"finish": picture.finish} if picture.finish != "stop" else {}
    )


def record(facts: Facts) -> dict[str, Any]:
    made = facts_of(facts)
    return {
        "notice": NOTICE,
        "digitalSourceType": SOURCE_TYPE,
        **made,
        "parameters": {
            name: recorded(value) for name, value in made["parameters"].items()
        },
    }


def common(records: list[dict[str, Any]]) -> dict[str, Any]:
    """Several records as one: what they share, and under "pictures" what is each one's own."""
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
    """The facts that a picture file carries; empty where there are none."""
    with Pillow.open(path) as picture:
        return _read_record(picture)


def _read_record(picture: Pillow.Image) -> dict[str, Any]:
    comment = (
        picture.getexif().get_ifd(ExifTags.IFD.Exif).get(ExifTags.Base.UserComment, b"")
    )
    text = picture.info.get(KEY) or (
        comment.removeprefix(ASCII)
        if comment.startswith(ASCII)
        else picture.info.get("comment", b"")
    )
    try:
        found = json.loads(text or "{}")
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _save(
    path: Path,
    kind: str,
    frames: list[np.ndarray],
    facts: dict[str, Any],
    seconds: float = 0,
) -> None:
    """Encode, read back, and only then take the name."""
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
    """Raise Unsupported for pictures or facts that the format has no room for."""
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
    if kind == "JPEG" and len(json.dumps(facts)) > LONGEST_EXIF:
        raise Unsupported(
            say(
                f"The facts take {len(json.dumps(facts)):,} bytes; a JPEG has room for {LONGEST_EXIF:,}.",
                f"生成信息有 {len(json.dumps(facts)):,} 字节；JPEG 最多容纳 {LONGEST_EXIF:,} 字节。",
            ),
            remedy,
        )


def _settings(kind: str, facts: dict[str, Any]) -> dict[str, Any]:
    """What `Image.save` takes for this format, the facts included."""
    if kind == "PNG":
        chunks = PngInfo()
        chunks.add_itxt(KEY, json.dumps(facts, ensure_ascii=False))
        chunks.add_itxt(XMP_KEY, xmp())
        return {"pnginfo": chunks}
    if kind == "GIF":
        return {"comment": json.dumps(facts).encode()}
    quality = (
        {"quality": 95, "subsampling": 0}
        if kind == "JPEG"
        else {"quality": 95, "method": 4}
    )
    return {**quality, "exif": _exif(facts), "xmp": xmp().encode()}


def _exif(facts: dict[str, Any]) -> Pillow.Exif:
    exif = Pillow.Exif()
    exif[ExifTags.Base.ImageDescription] = (
        f"AI-generated · {facts.get('model', '')}".encode()
    )
    exif[ExifTags.Base.Software] = f"miaobi {__version__}"
    exif.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.UserComment] = (
        ASCII + json.dumps(facts).encode()
    )
    return exif


def xmp() -> str:
    """An XMP packet that says a trained model made it (IPTC digital source type)."""
    return (
        '<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?><x:xmpmeta xmlns:x="adobe:ns:meta/">'
        '<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"><rdf:Description rdf:about=""'
        ' xmlns:xmp="http://ns.adobe.com/xap/1.0/" xmlns:Iptc4xmpExt="http://iptc.org/std/Iptc4xmpExt/2008-02-29/"'
        f" xmp:CreatorTool={quoteattr(f'miaobi {__version__}')} "
        f"Iptc4xmpExt:DigitalSourceType={quoteattr(SOURCE_TYPE)}/>"
        '</rdf:RDF></x:xmpmeta><?xpacket end="w"?>'
    )


def _check(
    draft: Path, path: Path, frames: list[np.ndarray], facts: dict[str, Any]
) -> None:
    """Raise Damaged unless the file on disk holds the picture's size, its facts, its
    source type and (PNG) its very pixels.
    """
    with Pillow.open(draft) as picture:
        whole = picture.size == (
            frames[0].shape[1],
            frames[0].shape[0],
        ) and _read_record(picture) == json.loads(json.dumps(facts))
        packet = picture.info.get("xmp") or picture.info.get(XMP_KEY) or ""
        marked = (
            SOURCE_TYPE in (packet.decode() if isinstance(packet, bytes) else packet)
            or picture.format == "GIF"
        )
        same = picture.format != "PNG" or np.array_equal(
            np.asarray(picture), np.asarray(_pillow(frames[0]))
        )
        if len(frames) == 1:
            picture.load()
    if not (whole and marked and same):
        raise Damaged(
            say(
                f"{path} was written, but reads back without its facts or with other pixels.",
                f"{path} 写出后读回的内容不一致。",
            ),
            say("Try another ending, such as .png.", "请换一种扩展名，例如 .png。"),
        )


def _pillow(pixels: np.ndarray) -> Pillow.Image:
    return Pillow.fromarray(
        pixels[..., 0] if pixels.ndim == 3 and pixels.shape[2] == 1 else pixels
    )
