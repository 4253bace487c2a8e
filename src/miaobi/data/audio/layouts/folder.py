"""Sound as files in any depth: folders are classes, those called train, validation or
test at the top are splits.

Captions come from metadata.jsonl or metadata.csv (file_name and further columns, as
Hugging Face's audiofolder), or from a .txt or .json of each recording's own name.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from miaobi.core.language import say
from miaobi.data.audio.clips import Clip, attributes, is_sound
from miaobi.data.audio.layouts import manifest
from miaobi.data.encoding import Problem, Report, numbered_lines
from miaobi.data.image import metadata
from miaobi.data.image.layout import classes_of, positions_of
from miaobi.data.image.listing import listing

SIDE_ENDINGS = (".txt", ".json")


def holds(path: Path) -> bool:
    """Return whether there is a sound file, or this is one."""
    if path.is_file():
        return is_sound(path)
    return any(is_sound(file) for file in listing(path).files)


def read(path: Path, report: Report) -> Iterator[Clip]:
    """Yield the recordings of a folder, or the one that the path is."""
    if path.is_file():
        yield Clip(path.name, path)
        return
    content = listing(path)
    files = {
        metadata.key_of(file.relative_to(path).as_posix()): file
        for file in content.files
        if is_sound(file)
    }
    tables = [file for file in content.files if file.name in metadata.METADATA]
    rows = metadata.rows_by_key(tables, path, files, report)
    positions = positions_of(files)
    classes = classes_of(positions.values())
    for key, file in sorted(files.items()):
        row = rows.get(key)
        values = dict(row.meta) if row else _beside(file, report)
        if tables and row is None:
            report(metadata.without_description(file))
        label = row.label if row else values.get("label")
        yield Clip(
            key,
            file,
            _pop(values, manifest.TEXTS),
            speaker=_pop(values, manifest.SPEAKERS),
            label=label or classes.of(positions[key]),
            split=positions[key].split,
            meta=values,
            source=row.path if row else None,
            line=row.line if row else 0,
        )


def _beside(file: Path, report: Report) -> dict[str, str]:
    """What a .txt or .json of the recording's own name says."""
    for ending in SIDE_ENDINGS:
        for path in (file.with_suffix(ending), Path(f"{file}{ending}")):
            if path.is_file():
                return _read_beside(path, report)
    return {}


def _read_beside(path: Path, report: Report) -> dict[str, str]:
    if path.suffix == ".json":
        return {
            name: str(value)
            for name, value in attributes(path, report).items()
            if value not in (None, "")
        }
    lines = [line.strip() for _, line in numbered_lines(path, report)]
    text = " ".join(line for line in lines if line)
    if text:
        return {"text": text}
    report(
        Problem(
            path,
            0,
            say("it is empty.", "内容为空。"),
            say(
                "Write what is said or heard, or take the file away.",
                "请写出所说或所听到的内容，或移走该文件。",
            ),
        )
    )
    return {}


def _pop(values: dict[str, str], names: tuple[str, ...]) -> str:
    """Take the first of these columns out of the others; "" where there is none."""
    for name in names:
        if name in values:
            return values.pop(name)
    return ""
