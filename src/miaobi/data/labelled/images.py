"""Readers of pictures with their labels, captions, boxes or masks: (location, record)
pairs.

pictures    what the sources of data/image open: class folders, metadata.jsonl or .csv,
            Parquet, IDX, starter packs; and JSONL, JSON or CSV whose column "image"
            names files
boxes       COCO's JSON; VOC's Annotations/*.xml; YOLO's labels/*.txt; what `pictures`
            reads, with an "objects" column; emoji-scenes
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
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from miaobi.core import storage
from miaobi.core.errors import BadInput
from miaobi.core.files import home, write_text
from miaobi.core.language import say
from miaobi.data.encoding import Problem
from miaobi.data.image import sources
from miaobi.data.image.config import Config
from miaobi.data.image.files import open_picture, quiet, upright_size
from miaobi.data.image.record import Picture
from miaobi.data.labelled import STRICT, ReadOptions
from miaobi.data.labelled.texts import no_record
from miaobi.data.text.files import records
from miaobi.data.text.shapes import Unusable

if TYPE_CHECKING:
    from PIL import Image

Record = Mapping[str, Any]
LISTS = (".jsonl", ".ndjson", ".json", ".csv", ".tsv")
FILE_COLUMNS = ("image", "file_name", "path")
COLUMNS = ("image", "digest", "width", "height")
CHECK_SIDE = 64
"""Pixels to which a JPEG may be decoded when it is only checked."""


def pictures(
    path: str, pack: str, options: ReadOptions = STRICT
) -> Iterator[tuple[str, Record]]:
    """Yield pictures with "label" and their columns of text. Raises NotFound, BadInput."""
    with picture_check() as check:
        if Path(path).suffix.lower() in LISTS:
            yield from list_records(storage.local(path), check, options)
            return
        config = Config(path=path, pack=pack)
        for picture in sources.pictures(config, partial(_report, options)):
            record = {**picture.meta, **_label(picture), **check(picture.content)}
            yield _location(picture, pack), record


def _location(picture: Picture, pack: str) -> str:
    """A picture's file, with its row where the file holds several."""
    if pack or picture.line:
        return f"{pack or picture.path}:{picture.line or picture.name}"
    return str(picture.path)


def _report(options: ReadOptions, problem: Problem) -> None:
    """Report what cannot be read. A picture without a caption (line 0 of a picture
    file) comes all the same: its task may not need one.
    """
    if problem.line or problem.path.suffix in (".parquet", ".arrow"):
        options.report(problem)


def _label(picture: Picture) -> dict[str, str]:
    label = picture.label
    if label is None:
        return {}
    if isinstance(label, int) and picture.classes:
        return {"label": picture.classes[label]}
    return {"label": str(label)}


def list_records(
    path: Path, check: PictureCheck, options: ReadOptions = STRICT
) -> Iterator[tuple[str, Record]]:
    """Yield records whose column "image" (or "file_name", "path") names a file,
    relative to the list.
    """
    for line, record in records(path, options.report, options.encoding):
        if not isinstance(record, Mapping):
            options.report(no_record(path, line, record))
            continue
        column = _file_column(record)
        name = record[column] if column else None
        if not isinstance(name, str):
            options.report(_without_picture(path, line))
            continue
        others = {key: value for key, value in record.items() if key != column}
        yield f"{path}:{line}", {**others, **check(path.parent / name)}


def _without_picture(path: Path, line: int) -> Problem:
    return Problem(
        path,
        line,
        say('no "image".', "缺少 image。"),
        '{"image": "photos/a.jpg", ...}',
    )


def _file_column(record: Record) -> str:
    """The column that names the picture; "" for none."""
    return next((column for column in FILE_COLUMNS if record.get(column)), "")


class PictureCheck:
    """Opens each picture once. Returns its path, digest and size, or what is wrong.

    What came as bytes or pixels is written to a file. Files whose size and time are as
    they were are not opened again.
    """

    def __init__(self, remembered: dict[str, list[Any]]) -> None:
        """remembered: [size, time, digest, width, height] by path, or by digest for
        what has no file of its own.
        """
        self.remembered = remembered
        self.fresh = dict[str, list[Any]]()

    def __call__(self, content: Path | bytes | np.ndarray) -> dict[str, Any]:
        try:
            with quiet():
                if isinstance(content, Path):
                    return self._file(content.absolute())
                return self._without_file(content)
        except Unusable as error:
            image = str(content) if isinstance(content, Path) else ""
            return {"image": image, "problem": [error.what, error.remedy]}

    def _file(self, path: Path) -> dict[str, Any]:
        if not path.is_file():
            raise Unusable(
                say(f"there is no picture {path}.", f"图片 {path} 不存在。"),
                say(
                    "Mend the path, or take the record out.",
                    "请修正路径，或去掉该记录。",
                ),
            )
        stat = path.stat()
        state = [stat.st_size, stat.st_mtime_ns]
        entry = self.remembered.get(str(path))
        if entry is None or entry[:2] != state:
            entry = [*state, _digest(path), *_sound_size(path)]
            self.fresh[str(path)] = entry
        return _columns(path, entry)

    def _without_file(self, content: bytes | np.ndarray) -> dict[str, Any]:
        raw = content
        if not isinstance(raw, bytes):
            raw = repr(raw.shape).encode() + raw.tobytes()
        digest = hashlib.sha256(raw).hexdigest()
        folder = home() / "examples" / "pictures" / digest[:2]
        target = folder / f"{digest[2:40]}.png"
        entry = self.remembered.get(digest)
        if entry is None or not target.exists():
            picture = open_picture(content).pixels
            _write(picture, target)
            entry = [0, 0, digest, *picture.size]
            self.fresh[digest] = entry
        return _columns(target, entry)


def _columns(path: Path, entry: list[Any]) -> dict[str, Any]:
    _, _, digest, width, height = entry
    return {"image": str(path), "digest": digest, "width": width, "height": height}


def _write(picture: Image.Image, target: Path) -> None:
    """Write a picture whole or not at all, but without waiting for the disk at every
    one of many small files: what a power cut takes is written again, since it is only
    remembered after all of them (`picture_check`).
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    draft = target.with_suffix(f".{os.getpid()}.part")
    picture.save(draft, "PNG", compress_level=1)
    os.replace(draft, target)


def _sound_size(path: Path) -> tuple[int, int]:
    """Width and height of a picture that decodes to its end, upright."""
    opened = open_picture(path, CHECK_SIDE)
    if not opened.kind.startswith("JPEG"):
        return opened.pixels.size
    return upright_size(path)  # what was decoded may be a part of the size


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def picture_check() -> Iterator[PictureCheck]:
    """Yield a check that remembers earlier ones, under $MIAOBI_HOME/examples."""
    memory = home() / "examples" / "pictures.json"
    remembered = dict[str, list[Any]]()
    if memory.exists():
        remembered = json.loads(memory.read_text(encoding="utf-8"))
    check = PictureCheck(remembered)
    try:
        yield check
    finally:
        if any(remembered.get(key) != entry for key, entry in check.fresh.items()):
            memory.parent.mkdir(parents=True, exist_ok=True)
            write_text(memory, json.dumps({**remembered, **check.fresh}))


def picture_of(record: Record, example: str) -> dict[str, Any]:
    """Return the picture's columns of a record: image, digest, width, height.

    Raises Unusable, with `example` as the remedy where there is no picture.
    """
    if "problem" in record:
        raise Unusable(*record["problem"])
    if not record.get("image"):
        raise Unusable(say("no image.", "缺少 image。"), example)
    return {key: record[key] for key in COLUMNS}


def picture_columns(columns: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the picture's columns of an example: the question of every task about
    pictures.
    """
    return {key: columns[key] for key in COLUMNS}


def no_pictures(path: str, expected: tuple[str, str]) -> BadInput:
    """Return the error for data of another kind; `expected` is the remedy in English
    and in Chinese.
    """
    return BadInput(
        say(
            f"{path} holds no labelled pictures of this kind.",
            f"{path} 中没有这类带标注的图片。",
        ),
        say(*expected),
    )
