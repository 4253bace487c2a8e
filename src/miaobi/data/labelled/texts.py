"""The `texts` reader: records of text files and of text packs."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from miaobi.core import storage
from miaobi.core.language import say
from miaobi.core.storage import Location
from miaobi.data.encoding import Problem
from miaobi.data.labelled import STRICT, ReadOptions
from miaobi.data.text import loaders
from miaobi.data.text.documents import Document
from miaobi.data.text.files import (
    EXCERPT,
    files_in,
    format_of,
    read_file,
    records,
)


def texts(
    path: str, pack: str, options: ReadOptions = STRICT
) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield (location, record) of JSONL, JSON, CSV, Parquet files, or of a text pack. A
    plain text file is a record of its text; a very long one, of each part.

    Reports what cannot be read and what is no record. Raises NotFound, Damaged.
    """
    if pack:
        for number, document in enumerate(loaders.read(pack), 1):
            yield f"{pack}:{number}", _record(document)
        return
    for file in files_in(storage.location(path)):
        for line, record in _values(file, options):
            if isinstance(record, Mapping):
                yield f"{file}:{line}", record
            else:
                options.report(no_record(file, line, record))


def _values(file: Location, options: ReadOptions) -> Iterator[tuple[int, Any]]:
    """Yield (line, value) of a file; of plain text, {"text"}."""
    if format_of(file, options.encoding) != "text":
        yield from records(file, options.report, options.encoding)
        return
    parts = read_file(file, report=options.report, encoding=options.encoding)
    for part in parts:
        yield part.meta["line"], {"text": part.text}


def no_record(file: Location, line: int, value: Any) -> Problem:
    """Return the problem of a value that is no object."""
    written = json.dumps(value, ensure_ascii=False)
    if len(written) > EXCERPT:
        written = written[:EXCERPT] + " …"
    return Problem(
        file,
        line,
        say(
            f"{written} is no record: it has no keys.",
            f"{written} 不是记录：没有键。",
        ),
        say(
            'Write each example as an object, such as {"text": "...", "label": "..."}.',
            '请把每个样本写成对象，例如 {"text": "...", "label": "..."}。',
        ),
    )


def _record(document: Document) -> Mapping[str, Any]:
    """A document's columns, as a file would have them."""
    record: dict[str, Any] = {"text": document.text}
    if document.prompt:
        record["prompt"] = document.prompt
        record["completion"] = document.text
    if document.messages:
        record["messages"] = [message._asdict() for message in document.messages]
    return {**record, **document.meta}
