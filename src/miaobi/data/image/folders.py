"""The `folder` and `pairs` sources: pictures as files.

folder   pictures in any depth. Captions from metadata.jsonl or metadata.csv beside them (file_name and further columns: the
         layout of Hugging Face's imagefolder); without metadata, folders of the lowest
         level are classes.
pairs    two folders with pictures of equal names: source/ and target/, input/ and output/, or A/ and B/.

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
KNOWN = ENDINGS | FOREIGN


def files_in(folder: Path) -> list[Path]:
    """Every picture file of a folder and its folders, sorted; also those in formats
    that are not read here, so that they are named.
    """
    return [file for file in visible(folder) if is_picture(file)]


def is_picture(file: PurePath) -> bool:
    """By the ending of its name."""
    return file.suffix.lower() in KNOWN


def visible(folder: Path) -> list[Path]:
    """The files of a folder and its folders, sorted, without hidden ones and what macOS
    leaves in archives.
    """
    return sorted(
        file
        for file in folder.rglob("*")
        if file.is_file() and not is_hidden(file.relative_to(folder))
    )


def is_hidden(place: PurePath) -> bool:
    """Whether it, or a folder on the way to it, is hidden or macOS's own."""
    return any(part.startswith(".") or part == "__MACOSX" for part in place.parts)


def read(folder: Path, report: Report) -> Iterator[Picture]:
    """The pictures of a folder, with captions or classes. Each caption without a file
    and each file without one is reported.
    """
    files = {
        _key(file.relative_to(folder).as_posix()): file for file in files_in(folder)
    }
    described = _metadata(folder, report)
    if described is None:
        yield from _class_folders(folder, files)
        return
    for key, row in described.items():
        if key not in files:
            named = folder / row.file_name
            if named.is_file():
                files[key] = named
            else:
                report(
                    Problem(
                        row.path,
                        row.line,
                        say(
                            f"it describes {row.name!r}, which is not there.",
                            f"描述了不存在的文件 {row.name!r}。",
                        ),
                        nearest(key, files)
                        or say(
                            "Put the file there, or take the line out.",
                            "请放入该文件，或删除这一行。",
                        ),
                    )
                )
    for key, file in sorted(files.items()):
        found = described.get(key)
        if found is None:
            report(
                Problem(
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
            )
        yield Picture(
            key,
            file,
            file,
            split=_split(key),
            label=found.label if found else None,
            meta=found.meta if found else {},
        )


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


def _metadata(folder: Path, report: Report) -> dict[str, _Row] | None:
    """Every line of the metadata files by the key of its file; None where there are none."""
    tables = [file for file in visible(folder) if file.name in METADATA]
    if not tables:
        return None
    found = dict[str, _Row]()
    for table in tables:
        for line, record in METADATA[table.name](table, report):
            problem = _add(found, folder, table, line, record)
            if problem:
                report(Problem(table, line, *problem))
    return found


def _add(
    found: dict[str, _Row], folder: Path, table: Path, line: int, record: Any
) -> tuple[str, str] | None:
    """Take a line up, or say what is wrong with it and what to do."""
    name = record.get("file_name") if isinstance(record, dict) else None
    if not isinstance(name, str) or not name.strip():
        return (
            say("there is no file_name.", "缺少 file_name。"),
            say(
                'Write lines such as {"file_name": "a.png", "text": "a red fox"}.',
                '请写成 {"file_name": "a.png", "text": "一只红狐狸"} 的形式。',
            ),
        )
    inside = PurePosixPath(
        table.parent.relative_to(folder).as_posix()
    ) / name.strip().replace("\\", "/")
    if inside.is_absolute() or ".." in inside.parts or ":" in inside.parts[0]:
        return (
            say(f"{name!r} leads out of the folder.", f"{name!r} 指向文件夹之外。"),
            say(
                "Name files relative to the metadata.", "请使用相对于元数据文件的路径。"
            ),
        )
    key = _key(str(inside))
    if key in found:
        return (
            say(
                f"{name!r} is described twice, first in line {found[key].line}.",
                f"{name!r} 被描述了两次，首次在第 {found[key].line} 行。",
            ),
            say("Keep one of the lines.", "请只保留一行。"),
        )
    values = {
        column: str(value)
        for column, value in record.items()
        if column != "file_name" and value not in (None, "")
    }
    label = next((values.pop(column) for column in LABELS if column in values), None)
    found[key] = _Row(table, line, name, str(inside), label, values)
    return None


def _key(name: str) -> str:
    """One spelling for a relative path: macOS stores é as two characters, others as one."""
    return unicodedata.normalize("NFC", str(PurePosixPath(name)))


def _split(key: str) -> str:
    """The split that the topmost folder names."""
    first, _, rest = key.partition("/")
    return SPLITS.get(first.lower(), "") if rest else ""


def _class_folders(folder: Path, files: Mapping[str, Path]) -> Iterator[Picture]:
    """Classes are folders, where every picture lies in one, all at the same depth, and
    there are at least two.
    """
    parents = {key: PurePosixPath(key).parts[bool(_split(key)) : -1] for key in files}
    names = {parts[-1:] for parts in parents.values()}
    classes = len({len(parts) for parts in parents.values()}) == 1 and len(names) > 1
    for key, file in files.items():
        yield Picture(
            key,
            file,
            file,
            split=_split(key),
            label=parents[key][-1] if classes else None,
        )


def pairs(folder: Path, report: Report) -> Iterator[Picture]:
    """Pictures of target/ with those of equal names in source/. Each one without a
    partner is reported.
    """
    places = _pair_folders(folder)
    if not places:
        raise BadInput(
            say(f"{folder} holds no pairs.", f"{folder} 中没有成对的图片。"),
            say(
                "Put pictures of equal names into source/ and target/.",
                "请把同名图片分别放入 source/ 与 target/。",
            ),
        )
    for first, second in places:
        sources, targets = _by_stem(first, report), _by_stem(second, report)
        split = _split(f"{first.relative_to(folder).as_posix()}")
        for stem in sorted(sources.keys() | targets.keys()):
            if stem in sources and stem in targets:
                yield Picture(
                    targets[stem].relative_to(folder).as_posix(),
                    targets[stem],
                    targets[stem],
                    source=sources[stem],
                    split=split,
                )
            else:
                alone, other = (
                    (sources[stem], second)
                    if stem in sources
                    else (targets[stem], first)
                )
                report(
                    Problem(
                        alone,
                        0,
                        say(
                            f"it has no partner of the same name in {other.name}/.",
                            f"在 {other.name}/ 中没有同名的图片。",
                        ),
                        nearest(stem, (targets if stem in sources else sources))
                        or say("Add it, or remove this one.", "请补上，或删除这一张。"),
                    )
                )


def are_pairs(folder: Path) -> bool:
    """Whether the folder has the layout of pairs. A/ and B/ may also be classes: there,
    half of the names must agree.
    """
    return bool(_pair_folders(folder))


def _pair_folders(folder: Path) -> list[tuple[Path, Path]]:
    inside = [
        folder,
        *(
            item
            for item in sorted(folder.iterdir())
            if item.is_dir() and item.name.lower() in SPLITS
        ),
    ]
    found = [
        (place / first, place / second)
        for place in inside
        for first, second in PAIRS
        if (place / first).is_dir() and (place / second).is_dir()
    ]
    return [
        (first, second)
        for first, second in found
        if first.name != "A" or _agree(first, second)
    ]


def _agree(first: Path, second: Path) -> bool:
    ours, theirs = (
        {_stem(file, folder) for file in files_in(folder)} for folder in (first, second)
    )
    return 2 * len(ours & theirs) >= max(1, min(len(ours), len(theirs)))


def _by_stem(folder: Path, report: Report) -> dict[str, Path]:
    found = dict[str, Path]()
    for file in files_in(folder):
        stem = _stem(file, folder)
        if stem in found:
            report(
                Problem(
                    file,
                    0,
                    say(
                        f"{found[stem].name} has the same name but for its ending.",
                        f"与 {found[stem].name} 仅扩展名不同。",
                    ),
                    say("Keep one of them.", "请只保留一个。"),
                )
            )
        else:
            found[stem] = file
    return found


def _stem(file: Path, folder: Path) -> str:
    return _key(file.relative_to(folder).with_suffix("").as_posix())
