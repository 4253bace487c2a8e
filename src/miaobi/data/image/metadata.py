"""What is written beside pictures: tables that describe them (metadata.jsonl and its
like), and a text of each one's own (1.txt or 1.caption beside 1.png, as kohya has it).
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any

from miaobi.core.errors import nearest
from miaobi.core.language import say
from miaobi.data.encoding import Problem, Report, numbered_lines
from miaobi.data.image.listing import INDEX, Listing, readable
from miaobi.data.text.files import csv_rows, json_lines
from miaobi.data.text.shapes import Unusable

METADATA = {"metadata.jsonl": json_lines, "metadata.csv": csv_rows}
TABLES = {
    ".jsonl": json_lines,
    ".json1": json_lines,
    ".ndjson": json_lines,
    ".jsonlines": json_lines,
    ".json": json_lines,
    ".csv": csv_rows,
    ".tsv": csv_rows,
}
"""Endings of tables with other names, and what reads them."""
FILE_COLUMNS = (
    "file_name",
    "filename",
    "file",
    "image",
    "image_file",
    "image_path",
    "path",
)
"""Columns that name a picture, the usual one first."""
LABELS = ("label", "class")
SIDE_ENDINGS = (".txt", ".caption")
LONGEST_SIDE_TEXT = 16_384
"""Bytes; a longer text beside a picture is no caption."""
NUMBERS = re.compile(r"[-\d.eE+\s]+")


@dataclass(frozen=True)
class Row:
    """A line of a table."""

    path: Path
    line: int
    name: str
    """As it is written."""
    file_name: str
    """Relative to the folder that is read."""
    label: str | None
    meta: Mapping[str, str]


@dataclass
class Descriptions:
    """What is written about the pictures of a folder."""

    tables: list[Path] = field(default_factory=list)
    side_texts: dict[str, Path] = field(default_factory=dict)
    """By the key of the picture."""

    def __bool__(self) -> bool:
        return bool(self.tables or self.side_texts)

    @property
    def files(self) -> set[Path]:
        return {*self.tables, *self.side_texts.values()}


def may_describe(file: PurePosixPath) -> bool:
    """Return whether a file beside pictures may be a table or a text about them."""
    ending = file.suffix.lower()
    return ending in TABLES or ending in SIDE_ENDINGS


def key_of(name: str) -> str:
    """Return one spelling for a relative path: macOS stores é as two characters, others
    as one.
    """
    return unicodedata.normalize("NFC", readable(str(PurePosixPath(name))))


def pictures_by_key(content: Listing) -> dict[str, Path]:
    """Return the pictures of a folder by the key of their relative path."""
    return {
        key_of(file.relative_to(content.folder).as_posix()): file
        for file in content.pictures
    }


def descriptions(content: Listing, files: Mapping[str, Path]) -> Descriptions:
    """Return which files of a folder describe its pictures.

    A table is one of METADATA; where a folder has none, any other table whose first
    line names a picture that is there. A side text has the name of its picture, with
    the picture's ending or without it.

    Args:
        content: what lies in the folder
        files: its pictures by their keys
    """
    tables = [file for file in content.files if file.name in METADATA]
    served = {file.parent for file in tables}
    names = Names(files)
    for file in content.files:
        if file.parent in served:
            continue
        if _names_a_picture(file, content.folder, names):
            tables.append(file)
            served.add(file.parent)
    return Descriptions(tables, _side_texts(content, files))


def _names_a_picture(file: Path, folder: Path, names: Names) -> bool:
    """Whether the first line of a table names a picture that is there."""
    reader = TABLES.get(file.suffix.lower())
    if reader is None or file.name == INDEX:
        return False
    for line, record in reader(file, _ignore):
        try:
            row = _row(folder, file, line, record)
        except Unusable:
            return False
        return names.find(row.file_name) is not None
    return False


def _ignore(_: Problem) -> None:
    """For a file of which it is not known yet whether it is meant."""


def _side_texts(content: Listing, files: Mapping[str, Path]) -> dict[str, Path]:
    texts = {file for file in content.files if file.suffix.lower() in SIDE_ENDINGS}
    texts_by_key = dict[str, Path]()
    for key, picture in files.items():
        for ending in SIDE_ENDINGS:
            for name in (picture.with_suffix(ending), Path(f"{picture}{ending}")):
                if name in texts and name.stat().st_size <= LONGEST_SIDE_TEXT:
                    texts_by_key.setdefault(key, name)
    return texts_by_key


class Names:
    """Finds a picture by a name that may be nearly right."""

    def __init__(self, keys: Iterable[str]) -> None:
        self.keys = set(keys)

    @cached_property
    def folded(self) -> dict[str, str]:
        """The keys by themselves without case."""
        return _unique((key.casefold(), key) for key in self.keys)

    @cached_property
    def stems(self) -> dict[str, str]:
        """The keys by themselves without ending."""
        return _unique(
            (str(PurePosixPath(key).with_suffix("")), key)
            for key in self.keys
            if PurePosixPath(key).name
        )

    def find(self, name: str) -> str | None:
        """Return the key that is meant: of this name, of this name in other case, or of
        this name and an ending; None where there is none, or more than one.
        """
        key = key_of(name)
        if key in self.keys:
            return key
        return self.folded.get(key.casefold()) or self.stems.get(key)


def _unique(pairs: Iterable[tuple[str, str]]) -> dict[str, str]:
    """The pairs as a mapping, without names that stand for several keys."""
    by_name = dict[str, str]()
    several = set[str]()
    for name, key in pairs:
        if name in by_name:
            several.add(name)
        by_name[name] = key
    return {name: key for name, key in by_name.items() if name not in several}


def rows_by_key(
    tables: Iterable[Path],
    folder: Path,
    files: dict[str, Path],
    report: Report,
) -> dict[str, Row]:
    """Return the lines of all tables by the key of their picture.

    Each line that describes no picture is reported. A file that a line names is a
    picture whatever its ending, and joins `files`.
    """
    rows = dict[str, Row]()
    names = Names(files)
    missing = list[tuple[Row, str]]()
    for line in _lines(tables, folder, report):
        known = names.find(line.file_name)
        key = known or key_of(line.file_name)
        earlier = rows.get(key)
        if earlier is not None:
            report(_described_twice(line, earlier))
            continue
        named = folder / line.file_name
        if known is None and named.is_file():
            files[key] = named
        elif known is None:
            missing.append((line, key))
            continue
        rows[key] = line
    for line, key in missing:
        report(_without_file(line, key, files))
    return rows


def _lines(tables: Iterable[Path], folder: Path, report: Report) -> Iterator[Row]:
    for table in tables:
        reader = METADATA.get(table.name) or TABLES[table.suffix.lower()]
        for line, record in reader(table, report):
            try:
                yield _row(folder, table, line, record)
            except Unusable as error:
                report(Problem(table, line, error.what, error.remedy))


def _row(folder: Path, table: Path, line: int, record: Any) -> Row:
    """A line of a table. Raises Unusable for one that names no file of the folder."""
    column = _file_column(record)
    if column is None:
        raise Unusable(
            say("there is no file_name.", "缺少 file_name。"),
            say(
                'Write lines such as {"file_name": "a.png", "text": "a red fox"}.',
                '请写成 {"file_name": "a.png", "text": "一只红狐狸"} 的形式。',
            ),
        )
    name = record[column]
    meta = {
        other: str(value)
        for other, value in record.items()
        if other != column and value not in (None, "")
    }
    label = None
    for other in LABELS:
        if other in meta:
            label = meta.pop(other)
            break
    return Row(table, line, name, _inside(folder, table, name), label, meta)


def _file_column(record: Any) -> str | None:
    if not isinstance(record, dict):
        return None
    for column in FILE_COLUMNS:
        value = record.get(column)
        if isinstance(value, str) and value.strip():
            return column
    return None


def _inside(folder: Path, table: Path, name: str) -> str:
    """The path of a file relative to the folder. Raises Unusable for one outside it."""
    written = name.strip().replace("\\", "/")
    path = PurePosixPath(written)
    if path.is_absolute():
        for root in (folder, folder.absolute(), folder.resolve()):
            if path.is_relative_to(root.as_posix()):
                path = path.relative_to(root.as_posix())
                break
    else:
        base = PurePosixPath(table.parent.relative_to(folder).as_posix())
        path = base / path
    has_drive = any(":" in part for part in PurePosixPath(written).parts[:1])
    if path.is_absolute() or ".." in path.parts or has_drive:
        raise Unusable(
            say(f"{name!r} points outside the folder.", f"{name!r} 指向文件夹之外。"),
            say(
                "Name files relative to the metadata.", "请使用相对于元数据文件的路径。"
            ),
        )
    return str(path)


def side_text(path: Path, report: Report) -> str:
    """Return the text beside a picture on one line; "" for one that is no caption,
    which is reported.
    """
    lines = [line.strip() for _, line in numbered_lines(path, report)]
    text = " ".join(line for line in lines if line)
    if text and not NUMBERS.fullmatch(text):
        return text
    what = say("it is empty.", "内容为空。")
    if text:
        what = say(
            "it holds only numbers (boxes?), which are no caption.",
            "只有数字（标注框？），不是图片说明。",
        )
    report(
        Problem(
            path,
            0,
            what,
            say("Write what the picture shows.", "请写明图片的内容。"),
        )
    )
    return ""


def _without_file(row: Row, key: str, files: Mapping[str, Path]) -> Problem:
    remedy = say(
        "Put the file there, or take the line out.", "请放入该文件，或删除这一行。"
    )
    return Problem(
        row.path,
        row.line,
        say(
            f"it describes {row.name!r}, which is not there.",
            f"描述了不存在的文件 {row.name!r}。",
        ),
        nearest(key, files) or remedy,
    )


def _described_twice(row: Row, earlier: Row) -> Problem:
    return Problem(
        row.path,
        row.line,
        say(
            f"{row.name!r} is described twice, first in line {earlier.line}.",
            f"{row.name!r} 被描述了两次，首次在第 {earlier.line} 行。",
        ),
        say("Keep one of the lines.", "请只保留一行。"),
    )


def without_description(file: Path) -> Problem:
    """Return the problem of a picture of which nothing is written, while it is of others."""
    return Problem(
        file,
        0,
        say(
            "no metadata describes it; it is used without a caption.",
            "元数据中没有它；将不带说明使用。",
        ),
        say(
            "Add a line with its file_name or a text of its name, or put the file elsewhere.",
            "请为它添加一行（file_name）或同名文本，或移到别处。",
        ),
    )
