"""Readers of pictures with their labels, captions, boxes or masks: (place, record) pairs.

pictures    what the readers of data/picture_*.py open: class folders, metadata.jsonl or .csv, Parquet, IDX, starter packs; and JSONL, JSON
            or CSV whose column "image" names files
boxes       COCO's JSON; VOC's Annotations/*.xml; YOLO's labels/*.txt; what `pictures` reads, with an "objects" column; emoji-scenes
masks       images/ and masks/ with equal names, as PNG of class numbers; emoji-scenes

Every record has "image" (a file that stays where it is; what came as bytes or pixels is
kept under $MIAOBI_HOME/examples/pictures, named after its content), "digest" (SHA-256),
"width" and "height"; or "problem" for a picture that cannot be used.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from miaobi.core.errors import BadInput
from miaobi.core.files import home, write_text
from miaobi.core.language import say
from miaobi.data import packs
from miaobi.data.encoding import Problem, raise_problem
from miaobi.data.image import sources as picture_sources
from miaobi.data.image.config import Config
from miaobi.data.image.files import open_picture, quiet
from miaobi.data.image.record import Picture
from miaobi.data.text.files import records
from miaobi.data.text.shapes import Unusable

Record = Mapping[str, Any]
LISTS = (".jsonl", ".ndjson", ".json", ".csv", ".tsv")
COLUMNS = ("image", "digest", "width", "height")
CHECK = 64
"""Pixels to which a JPEG may be decoded when it is only checked."""


def pictures(path: str, pack: str) -> Iterator[tuple[str, Record]]:
    """Pictures with "label" and their columns of text. Raises NotFound, BadInput."""
    with picture_check() as check:
        if Path(path).suffix.lower() in LISTS:
            yield from list_records(Path(path).expanduser(), check)
            return
        config = Config(path=path, pack=pack)
        found = (
            packs.pictures(pack) if pack else picture_sources.pictures(config, _tell)
        )
        for picture in found:
            place = (
                f"{pack or picture.path}:{picture.line or picture.name}"
                if pack or picture.line
                else str(picture.path)
            )
            yield place, {**picture.meta, **_label(picture), **check(picture.content)}


def _tell(problem: Problem) -> None:
    """Raise for what cannot be read. A picture without a caption (line 0 of a picture
    file) comes all the same: its task may not need one.
    """
    if problem.line or problem.path.suffix in (".parquet", ".arrow"):
        raise_problem(problem)


def _label(picture: Picture) -> dict[str, str]:
    if picture.label is None:
        return {}
    number = picture.label
    return {
        "label": picture.classes[number]
        if isinstance(number, int) and picture.classes
        else str(number)
    }


def list_records(path: Path, check: PictureCheck) -> Iterator[tuple[str, Record]]:
    """Records whose column "image" (or "file_name", "path") names a file, relative to the list."""
    for line, record in records(path):
        named = (
            next(
                (
                    record[key]
                    for key in ("image", "file_name", "path")
                    if record.get(key)
                ),
                None,
            )
            if isinstance(record, dict)
            else None
        )
        place = f"{path}:{line}"
        if not isinstance(named, str):
            yield (
                place,
                {
                    "problem": [
                        say('no "image".', "缺少 image。"),
                        '{"image": "photos/a.jpg", ...}',
                    ]
                },
            )
        else:
            yield place, {**record, **check(path.parent / named)}


class PictureCheck:
    """A picture, opened once and kept in a place of its own where it has none: path,
    digest, size; or what is wrong with it.

    Files whose size and time are as they were are not opened again.
    """

    def __init__(self, known: dict[str, list[Any]]) -> None:
        self.known, self.fresh = known, dict[str, list[Any]]()

    def __call__(self, content: Path | bytes | np.ndarray) -> dict[str, Any]:
        try:
            with quiet():
                return (
                    self._file(content.absolute())
                    if isinstance(content, Path)
                    else self._kept(content)
                )
        except Unusable as error:
            return {
                "image": str(content) if isinstance(content, Path) else "",
                "problem": [error.what, error.remedy],
            }

    def _file(self, path: Path) -> dict[str, Any]:
        if not path.is_file():
            raise Unusable(
                say(f"there is no picture {path}.", f"图片 {path} 不存在。"),
                say(
                    "Mend the path, or take the record out.",
                    "请修正路径，或去掉该记录。",
                ),
            )
        state = path.stat()
        now = [state.st_size, state.st_mtime_ns]
        found = self.known.get(str(path))
        if found is None or found[:2] != now:
            found = self.fresh[str(path)] = [*now, _digest(path), *_sound_size(path)]
        return {
            "image": str(path),
            "digest": found[2],
            "width": found[3],
            "height": found[4],
        }

    def _kept(self, content: bytes | np.ndarray) -> dict[str, Any]:
        raw = (
            content
            if isinstance(content, bytes)
            else repr(content.shape).encode() + content.tobytes()
        )
        digest = hashlib.sha256(raw).hexdigest()
        target = home() / "examples" / "pictures" / digest[:2] / f"{digest[2:40]}.png"
        found = self.known.get(digest)
        if found is None or not target.exists():
            picture = open_picture(content).pixels
            _write(picture, target)
            found = self.fresh[digest] = [0, 0, digest, *picture.size]
        return {
            "image": str(target),
            "digest": digest,
            "width": found[3],
            "height": found[4],
        }


def _write(picture: Any, target: Path) -> None:
    """Whole or not at all, but without waiting for the disk at every one of many small
    files: what a power cut takes is written again, since it is only known after all of
    them (`picture_check`).
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    draft = target.with_suffix(f".{os.getpid()}.part")
    picture.save(draft, "PNG", compress_level=1)
    os.replace(draft, target)


def _sound_size(path: Path) -> tuple[int, int]:
    """Width and height of a picture that decodes to its end, upright."""
    opened = open_picture(path, CHECK)
    if not opened.kind.startswith("JPEG"):
        return opened.pixels.size
    from PIL import Image

    with Image.open(path) as header:  # what was decoded may be a part of the size
        width, height = header.size
        turned = header.getexif().get(0x0112, 1) >= 5
    return (height, width) if turned else (width, height)


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def picture_check() -> Iterator[PictureCheck]:
    """What was checked before is remembered under $MIAOBI_HOME/examples."""
    target = home() / "examples" / "pictures.json"
    check = PictureCheck(
        json.loads(target.read_text(encoding="utf-8")) if target.exists() else {}
    )
    try:
        yield check
    finally:
        if any(check.known.get(key) != value for key, value in check.fresh.items()):
            target.parent.mkdir(parents=True, exist_ok=True)
            write_text(target, json.dumps({**check.known, **check.fresh}))


def picture_of(record: Record, example: str) -> dict[str, Any]:
    """The picture's columns of a record: image, digest, width, height. Raises Unusable."""
    if "problem" in record:
        raise Unusable(*record["problem"])
    if not record.get("image"):
        raise Unusable(say("no image.", "缺少 image。"), example)
    return {key: record[key] for key in COLUMNS}


def picture_columns(columns: Mapping[str, Any]) -> Mapping[str, Any]:
    """The picture's columns of an example: the question of every task about pictures."""
    return {key: columns[key] for key in COLUMNS}


def no_pictures(path: str, expected: tuple[str, str]) -> BadInput:
    return BadInput(
        say(
            f"{path} holds no labelled pictures of this kind.",
            f"{path} 中没有这类带标注的图片。",
        ),
        say(*expected),
    )
