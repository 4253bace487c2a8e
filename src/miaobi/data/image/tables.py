"""The `tables` source: pictures inside Parquet or Arrow files, as the Hugging Face hub
and `datasets` store them.

A picture is {"bytes", "path"} or plain binary. Classes have their names from the
metadata that `datasets` writes (ClassLabel); every column of text may serve as the
caption. Two picture columns are a pair. The package `datasets` is not needed.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from miaobi.core.errors import BadInput
from miaobi.core.language import say
from miaobi.data.encoding import Problem, Report
from miaobi.data.image.layout import SPLITS
from miaobi.data.image.listing import visible
from miaobi.data.image.record import Picture

SOURCES = ("source", "input", "conditioning_image", "input_image", "original_image")
LABELS = ("label", "labels", "class", "fine_label")
TEXT_TYPES = ("string", "large_string", "string_view")
NO_LABEL = -1
"""What `datasets` writes for a missing ClassLabel."""
ROWS = 64
"""Rows in memory at once."""


@dataclass(frozen=True)
class Columns:
    """What the columns of a table mean."""

    picture: str
    source: str | None
    label: str | None
    classes: tuple[str, ...]
    texts: tuple[str, ...]

    @property
    def names(self) -> list[str]:
        names = (self.picture, self.source, self.label, *self.texts)
        return [name for name in names if name]


def read(path: Path, report: Report) -> Iterator[Picture]:
    """Yield the pictures of a Parquet or Arrow file, or of all of a folder."""
    import pyarrow

    for file in files_in(path):
        try:
            yield from _pictures(path, file, report)
        except (pyarrow.ArrowInvalid, OSError) as error:
            reason = str(error).splitlines()[0]
            what = say(
                f"not a whole Parquet or Arrow file: {reason}.",
                f"不是完整的 Parquet 或 Arrow 文件：{reason}。",
            )
            remedy = say("Copy or export it again.", "请重新复制或导出。")
            report(Problem(file, 0, what, remedy))


def files_in(path: Path) -> list[Path]:
    """Return the tables of a folder, sorted; of a data set that `datasets` saved, those
    that its state.json names.
    """
    if path.is_file():
        return [path]
    files = visible(path)
    named = {
        file.parent: _named_by(file) for file in files if file.name == "state.json"
    }
    return [
        file
        for file in files
        if _is_table(file)
        and (file.parent not in named or file.name in named[file.parent])
    ]


def _is_table(file: Path) -> bool:
    is_data = not file.name.startswith(("cache-", "metadata."))
    return is_data and file.suffix in (".parquet", ".arrow")


def _named_by(state: Path) -> set[str]:
    """The names of the data files of a data set that `datasets` saved."""
    content = json.loads(state.read_text(encoding="utf-8"))
    return {item["filename"] for item in content.get("_data_files", ())}


def columns_of(file: Path) -> Columns | None:
    """Return what the columns mean; None where none holds pictures.

    Raises ArrowInvalid or OSError for a damaged file.
    """
    schema, _ = _open(file)
    features = _features(schema)
    pictures = [
        field.name
        for field in schema
        if _is_picture(field.type, features.get(field.name, {}))
    ]
    if not pictures:
        return None
    source = None
    if len(pictures) > 1:
        source = next((name for name in SOURCES if name in pictures), None)
    label = _label_column(schema, features)
    texts = [
        field.name
        for field in schema
        if str(field.type) in TEXT_TYPES and field.name != label
    ]
    return Columns(
        picture=next(name for name in pictures if name != source),
        source=source,
        label=label,
        classes=tuple(features.get(label or "", {}).get("names", ())),
        texts=tuple(texts),
    )


def _label_column(schema: Any, features: Mapping[str, Any]) -> str | None:
    for name, feature in features.items():
        if feature.get("_type") == "ClassLabel":
            return name
    return next((name for name in LABELS if name in schema.names), None)


def _features(schema: Any) -> Mapping[str, Any]:
    """What `datasets` wrote about each column."""
    try:
        metadata = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))
    except ValueError:
        return {}
    features: Mapping[str, Any] = metadata.get("info", {}).get("features", {})
    return features


def _is_picture(kind: Any, feature: Mapping[str, Any]) -> bool:
    from pyarrow import types

    if feature.get("_type") == "Image":
        return True
    if types.is_binary(kind) or types.is_large_binary(kind):
        return True
    if not types.is_struct(kind):
        return False
    names = {kind.field(number).name for number in range(kind.num_fields)}
    return names == {"bytes", "path"}


def _open(file: Path) -> tuple[Any, Iterator[Any]]:
    """(schema, record batches), of the kind that the content shows."""
    import pyarrow
    from pyarrow import ipc, parquet

    with file.open("rb") as handle:
        magic = handle.read(6)
    if magic.startswith(b"PAR1"):
        table = parquet.ParquetFile(file)
        return table.schema_arrow, table.iter_batches(batch_size=ROWS)
    mapped = pyarrow.memory_map(str(file))
    if magic == b"ARROW1":
        reader = ipc.open_file(mapped)
        numbers = range(reader.num_record_batches)
        return reader.schema, map(reader.get_batch, numbers)
    stream = ipc.open_stream(mapped)
    return stream.schema, iter(stream)


def _pictures(path: Path, file: Path, report: Report) -> Iterator[Picture]:
    """The pictures of one table; `path` is that table, or the folder it is in."""
    columns = columns_of(file)
    if columns is None:
        raise BadInput(
            say(f"{file} has no column with pictures.", f"{file} 中没有图片列。"),
            say(
                'A picture column is binary, or {"bytes", "path"}.',
                '图片列应为二进制，或 {"bytes", "path"}。',
            ),
        )
    name = file.relative_to(path).as_posix() if path.is_dir() else file.name
    split = _split(file, path)
    for line, row in enumerate(_rows(file, columns), 1):
        content = _content(row[columns.picture], file)
        source = _content(row[columns.source], file) if columns.source else None
        if content is None or (columns.source and source is None):
            report(_without_picture(file, line))
            continue
        yield Picture(
            f"{name}:{line}",
            content,
            file,
            line,
            source,
            _label(row, columns),
            columns.classes,
            {text: row[text] for text in columns.texts if row[text]},
            split,
        )


def _rows(file: Path, columns: Columns) -> Iterator[dict[str, Any]]:
    _, batches = _open(file)
    for batch in batches:
        for first in range(0, batch.num_rows, ROWS):
            yield from batch.select(columns.names).slice(first, ROWS).to_pylist()


def _without_picture(file: Path, line: int) -> Problem:
    return Problem(
        file,
        line,
        say("this row has no picture.", "该行没有图片。"),
        say("Leave the row out.", "请去掉该行。"),
    )


def _label(row: Mapping[str, Any], columns: Columns) -> str | int | None:
    if columns.label is None:
        return None
    label: str | int | None = row[columns.label]
    return None if columns.classes and label == NO_LABEL else label


def _content(value: Any, file: Path) -> Path | bytes | None:
    """The bytes of a cell, or the file that it names beside the table."""
    if not isinstance(value, Mapping):
        return bytes(value) if value else None
    content: bytes | None = value.get("bytes")
    if content:
        return content
    path = value.get("path")
    return file.parent / Path(path) if path else None


def _split(file: Path, path: Path) -> str:
    """The split in the name of a file's folder or of the file: train/data-00000-of-00001.arrow,
    test-00000-of-00001.parquet, name-train.arrow.
    """
    parts = file.relative_to(path).parts if path.is_dir() else (file.name,)
    for part in (*parts[:-1], *re.split(r"[-_.]", parts[-1])):
        if part.lower() in SPLITS:
            return SPLITS[part.lower()]
    return ""
