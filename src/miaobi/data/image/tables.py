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
from miaobi.data.image.folders import SPLITS, visible
from miaobi.data.image.record import Picture

SOURCES = ("source", "input", "conditioning_image", "input_image", "original_image")
LABELS = ("label", "labels", "class", "fine_label")
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


def read(path: Path, report: Report) -> Iterator[Picture]:
    """The pictures of a Parquet or Arrow file, or of all of a folder."""
    import pyarrow

    for file in files_in(path):
        try:
            yield from _rows(path, file, report)
        except (pyarrow.ArrowInvalid, OSError) as error:
            report(
                Problem(
                    file,
                    0,
                    say(
                        f"not a whole Parquet or Arrow file: {str(error).splitlines()[0]}.",
                        f"不是完整的 Parquet 或 Arrow 文件：{str(error).splitlines()[0]}。",
                    ),
                    say("Copy or export it again.", "请重新复制或导出。"),
                )
            )


def files_in(path: Path) -> list[Path]:
    """The tables of a folder, sorted; of a data set that `datasets` saved, those that
    its state.json names.
    """
    if path.is_file():
        return [path]
    found = [
        file
        for file in visible(path)
        if file.suffix in (".parquet", ".arrow")
        and not file.name.startswith(("cache-", "metadata."))
    ]
    named = {
        file.parent: {
            item["filename"]
            for item in json.loads(file.read_text(encoding="utf-8")).get(
                "_data_files", ()
            )
        }
        for file in visible(path)
        if file.name == "state.json"
    }
    return [
        file
        for file in found
        if file.parent not in named or file.name in named[file.parent]
    ]


def columns_of(file: Path) -> Columns | None:
    """What the columns mean; None where none holds pictures. Raises ArrowInvalid or
    OSError for a damaged file.
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
    source = next(
        (name for name in SOURCES if name in pictures and len(pictures) > 1), None
    )
    label = next(
        (
            name
            for name, feature in features.items()
            if feature.get("_type") == "ClassLabel"
        ),
        None,
    )
    label = label or next((name for name in LABELS if name in schema.names), None)
    texts = [
        field.name
        for field in schema
        if str(field.type) in ("string", "large_string", "string_view")
        and field.name != label
    ]
    return Columns(
        next(name for name in pictures if name != source),
        source,
        label,
        tuple(features.get(label or "", {}).get("names", ())),
        tuple(texts),
    )


def _features(schema: Any) -> Mapping[str, Any]:
    """What `datasets` wrote about each column."""
    try:
        known = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))
        features: Mapping[str, Any] = known.get("info", {}).get("features", {})
    except ValueError:
        return {}
    return features


def _is_picture(kind: Any, feature: Mapping[str, Any]) -> bool:
    import pyarrow

    if (
        feature.get("_type") == "Image"
        or pyarrow.types.is_binary(kind)
        or pyarrow.types.is_large_binary(kind)
    ):
        return True
    return pyarrow.types.is_struct(kind) and {"bytes", "path"} == {
        kind.field(place).name for place in range(kind.num_fields)
    }


def _open(file: Path) -> tuple[Any, Iterator[Any]]:
    """(schema, record batches), told by content."""
    import pyarrow
    from pyarrow import ipc, parquet

    with file.open("rb") as handle:
        start = handle.read(6)
    if start.startswith(b"PAR1"):
        table = parquet.ParquetFile(file)
        return table.schema_arrow, table.iter_batches(batch_size=ROWS)
    mapped = pyarrow.memory_map(str(file))
    if start == b"ARROW1":
        reader = ipc.open_file(mapped)
        return reader.schema, (
            reader.get_batch(place) for place in range(reader.num_record_batches)
        )
    stream = ipc.open_stream(mapped)
    return stream.schema, iter(stream)


def _rows(path: Path, file: Path, report: Report) -> Iterator[Picture]:
    columns = columns_of(file)
    if columns is None:
        raise BadInput(
            say(f"{file} has no column with pictures.", f"{file} 中没有图片列。"),
            say(
                'A picture column is binary, or {"bytes", "path"}.',
                '图片列应为二进制，或 {"bytes", "path"}。',
            ),
        )
    wanted = [
        name
        for name in (columns.picture, columns.source, columns.label, *columns.texts)
        if name
    ]
    name, split, line = (
        file.relative_to(path).as_posix() if path.is_dir() else file.name,
        _split(file, path),
        0,
    )
    for batch in _open(file)[1]:
        for start in range(0, batch.num_rows, ROWS):
            for row in batch.select(wanted).slice(start, ROWS).to_pylist():
                line += 1
                content, source = (
                    _content(row[columns.picture], file),
                    _content(row[columns.source], file) if columns.source else None,
                )
                if content is None or (columns.source and source is None):
                    report(
                        Problem(
                            file,
                            line,
                            say("this row has no picture.", "该行没有图片。"),
                            say("Leave the row out.", "请去掉该行。"),
                        )
                    )
                    continue
                label = row[columns.label] if columns.label else None
                yield Picture(
                    f"{name}:{line}",
                    content,
                    file,
                    line,
                    source,
                    None
                    if label is None or (columns.classes and label == -1)
                    else label,
                    columns.classes,
                    {text: row[text] for text in columns.texts if row[text]},
                    split,
                )


def _content(value: Any, file: Path) -> Path | bytes | None:
    """The bytes of a cell, or the file that it names beside the table."""
    if isinstance(value, Mapping):
        path = value.get("path")
        return value.get("bytes") or (file.parent / Path(path) if path else None)
    return bytes(value) if value else None


def _split(file: Path, path: Path) -> str:
    """The split that a file's folder or name tells: train/data-00000-of-00001.arrow,
    test-00000-of-00001.parquet, name-train.arrow.
    """
    inside = file.relative_to(path).parts if path.is_dir() else (file.name,)
    words = [*inside[:-1], *re.split(r"[-_.]", inside[-1])]
    return next((SPLITS[word.lower()] for word in words if word.lower() in SPLITS), "")
