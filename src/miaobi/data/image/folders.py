"""The `folder` and `pairs` sources: pictures as files.

folder   pictures in any depth. Captions from metadata.jsonl or metadata.csv beside them
         (file_name and further columns: the layout of Hugging Face's imagefolder);
         without metadata, folders of the lowest level are classes.
pairs    two folders with pictures of equal names: source/ and target/, input/ and
         output/, or A/ and B/.

In both, folders named train, validation or test at the top are splits.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePath, PurePosixPath
from typing import Any

from miaobi.core.errors import BadInput, nearest
from miaobi.core.language import say
from miaobi.data.encoding import Problem, Report
from miaobi.data.image.files import ENDINGS, FOREIGN
from miaobi.data.image.record import Picture
from miaobi.data.text.files import csv_rows, json_lines
from miaobi.data.text.shapes import Unusable

METADATA = {"metadata.jsonl": json_lines, "metadata.csv": csv_rows}
SPLITS = {
    "train": "train",
    "training": "train",
    "val": "validation",
    "valid": "validation",
    "validation": "validation",
    "dev": "validation",
    "test": "test",
    "testing": "test",
}
PAIRS = (("source", "target"), ("input", "output"), ("A", "B"))
LABELS = ("label", "class")
PICTURE_ENDINGS = ENDINGS | FOREIGN
MACOS_FOLDER = "__MACOSX"
"""What macOS leaves in archives."""


def files_in(folder: Path) -> list[Path]:
    """Return every picture file of a folder and its folders, sorted; also those in
    formats that are not read here, so that they are named.
    """
    return [file for file in visible(folder) if is_picture(file)]


def is_picture(file: PurePath) -> bool:
    """Return whether the ending of a file's name is that of a picture."""
    return file.suffix.lower() in PICTURE_ENDINGS


def visible(folder: Path) -> list[Path]:
    """Return the files of a folder and its folders, sorted, without hidden ones."""
    return sorted(
        file
        for file in folder.rglob("*")
        if file.is_file() and not is_hidden(file.relative_to(folder))
    )


def is_hidden(path: PurePath) -> bool:
    """Return whether a file, or a folder on the way to it, is hidden or macOS's own."""
    return any(part.startswith(".") or part == MACOS_FOLDER for part in path.parts)


def read(folder: Path, report: Report) -> Iterator[Picture]:
    """Yield the pictures of a folder, with captions or classes.

    Each caption without a file and each file without one is reported.
    """
    files = dict[str, Path]()
    for file in files_in(folder):
        files[_key(file.relative_to(folder).as_posix())] = file
    rows = _metadata(folder, report)
    if rows is None:
        yield from _class_folders(files)
        return
    for key, row in rows.items():
        named = folder / row.file_name
        if key not in files and named.is_file():
            files[key] = named
        elif key not in files:
            report(_without_file(row, key, files))
    for key, file in sorted(files.items()):
        if key in rows:
            label, meta = rows[key].label, rows[key].meta
        else:
            report(_without_row(file))
            label, meta = None, {}
        yield Picture(key, file, file, split=_split(key), label=label, meta=meta)


@dataclass(frozen=True)
class _Row:
    """A line of metadata."""

    path: Path
    line: int
    name: str
    """As it is written."""
    file_name: str
    """Relative to the folder that is read."""
    label: str | None
    meta: Mapping[str, str]


def _without_file(row: _Row, key: str, files: Mapping[str, Path]) -> Problem:
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


def _without_row(file: Path) -> Problem:
    return Problem(
        file,
        0,
        say(
            "no metadata describes it; it is used without a caption.",
            "元数据中没有它；将不带说明使用。",
        ),
        say(
            "Add a line with its file_name, or put the file elsewhere.",
            "请为它添加一行（file_name），或移到别处。",
        ),
    )


def _metadata(folder: Path, report: Report) -> dict[str, _Row] | None:
    """Every line of the metadata files by the key of its file; None where there are none."""
    tables = [file for file in visible(folder) if file.name in METADATA]
    if not tables:
        return None
    rows = dict[str, _Row]()
    for table in tables:
        for line, record in METADATA[table.name](table, report):
            try:
                row = _row(folder, table, line, record)
                key = _key(row.file_name)
                _check_first(row, rows.get(key))
            except Unusable as error:
                report(Problem(table, line, error.what, error.remedy))
            else:
                rows[key] = row
    return rows


def _row(folder: Path, table: Path, line: int, record: Any) -> _Row:
    """A line of metadata. Raises Unusable for one that names no file of the folder."""
    name = record.get("file_name") if isinstance(record, dict) else None
    if not isinstance(name, str) or not name.strip():
        raise Unusable(
            say("there is no file_name.", "缺少 file_name。"),
            say(
                'Write lines such as {"file_name": "a.png", "text": "a red fox"}.',
                '请写成 {"file_name": "a.png", "text": "一只红狐狸"} 的形式。',
            ),
        )
    base = PurePosixPath(table.parent.relative_to(folder).as_posix())
    path = base / name.strip().replace("\\", "/")
    has_drive = any(":" in part for part in path.parts[:1])
    if path.is_absolute() or ".." in path.parts or has_drive:
        raise Unusable(
            say(f"{name!r} points outside the folder.", f"{name!r} 指向文件夹之外。"),
            say(
                "Name files relative to the metadata.", "请使用相对于元数据文件的路径。"
            ),
        )
    meta = {
        column: str(value)
        for column, value in record.items()
        if column != "file_name" and value not in (None, "")
    }
    label = None
    for column in LABELS:
        if column in meta:
            label = meta.pop(column)
            break
    return _Row(table, line, name, str(path), label, meta)


def _check_first(row: _Row, earlier: _Row | None) -> None:
    """Raise Unusable where another line describes the same file."""
    if earlier is not None:
        raise Unusable(
            say(
                f"{row.name!r} is described twice, first in line {earlier.line}.",
                f"{row.name!r} 被描述了两次，首次在第 {earlier.line} 行。",
            ),
            say("Keep one of the lines.", "请只保留一行。"),
        )


def _key(name: str) -> str:
    """One spelling for a relative path: macOS stores é as two characters, others as one."""
    return unicodedata.normalize("NFC", str(PurePosixPath(name)))


def _split(key: str) -> str:
    """The split that the topmost folder names."""
    first, _, rest = key.partition("/")
    return SPLITS.get(first.lower(), "") if rest else ""


def _class_folders(files: Mapping[str, Path]) -> Iterator[Picture]:
    """Classes are folders, where every picture lies in one, all at the same depth, and
    there are at least two.
    """
    parents = dict[str, tuple[str, ...]]()
    for key in files:
        first = 1 if _split(key) else 0
        parents[key] = PurePosixPath(key).parts[first:-1]
    depths = {len(parts) for parts in parents.values()}
    names = {parts[-1:] for parts in parents.values()}
    are_classes = len(depths) == 1 and len(names) > 1
    for key, file in files.items():
        label = parents[key][-1] if are_classes else None
        yield Picture(key, file, file, split=_split(key), label=label)


def pairs(folder: Path, report: Report) -> Iterator[Picture]:
    """Yield the pictures of target/ with those of equal names in source/.

    Each one without a partner is reported.
    """
    pair_folders = _pair_folders(folder)
    if not pair_folders:
        raise BadInput(
            say(f"{folder} holds no pairs.", f"{folder} 中没有成对的图片。"),
            say(
                "Put pictures of equal names into source/ and target/.",
                "请把同名图片分别放入 source/ 与 target/。",
            ),
        )
    for source_folder, target_folder in pair_folders:
        sources = _by_stem(source_folder, report)
        targets = _by_stem(target_folder, report)
        split = _split(source_folder.relative_to(folder).as_posix())
        for stem in sorted(sources.keys() | targets.keys()):
            source, target = sources.get(stem), targets.get(stem)
            if source and target:
                name = target.relative_to(folder).as_posix()
                yield Picture(name, target, target, source=source, split=split)
            elif source:
                report(_without_partner(source, stem, target_folder, targets))
            elif target:
                report(_without_partner(target, stem, source_folder, sources))


def _without_partner(
    picture: Path, stem: str, folder: Path, others: Mapping[str, Path]
) -> Problem:
    remedy = say("Add it, or remove this one.", "请补上，或删除这一张。")
    return Problem(
        picture,
        0,
        say(
            f"it has no partner of the same name in {folder.name}/.",
            f"在 {folder.name}/ 中没有同名的图片。",
        ),
        nearest(stem, others) or remedy,
    )


def are_pairs(folder: Path) -> bool:
    """Return whether the folder has the layout of pairs.

    A/ and B/ may also be classes: there, half of the names must agree.
    """
    return bool(_pair_folders(folder))


def _pair_folders(folder: Path) -> list[tuple[Path, Path]]:
    """The source and target folders, at the top and in each split."""
    children = [item for item in sorted(folder.iterdir()) if item.is_dir()]
    splits = [item for item in children if item.name.lower() in SPLITS]
    pair_folders = list[tuple[Path, Path]]()
    for parent in (folder, *splits):
        for source_name, target_name in PAIRS:
            source, target = parent / source_name, parent / target_name
            if not source.is_dir() or not target.is_dir():
                continue
            if source_name != "A" or _agree(source, target):
                pair_folders.append((source, target))
    return pair_folders


def _agree(first: Path, second: Path) -> bool:
    """Whether half of the names in the smaller folder are in the other too."""
    first_stems = {_stem(file, first) for file in files_in(first)}
    second_stems = {_stem(file, second) for file in files_in(second)}
    fewer = min(len(first_stems), len(second_stems))
    return 2 * len(first_stems & second_stems) >= max(1, fewer)


def _by_stem(folder: Path, report: Report) -> dict[str, Path]:
    files = dict[str, Path]()
    for file in files_in(folder):
        stem = _stem(file, folder)
        if stem in files:
            report(_same_stem(file, files[stem]))
        else:
            files[stem] = file
    return files


def _same_stem(file: Path, other: Path) -> Problem:
    return Problem(
        file,
        0,
        say(
            f"{other.name} has the same name but for its ending.",
            f"与 {other.name} 仅扩展名不同。",
        ),
        say("Keep one of them.", "请只保留一个。"),
    )


def _stem(file: Path, folder: Path) -> str:
    return _key(file.relative_to(folder).with_suffix("").as_posix())
