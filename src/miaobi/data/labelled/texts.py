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
from miaobi.data.text.files import EXCERPT, files_in, records


def texts(
    path: str, pack: str, options: ReadOptions = STRICT
) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield (location, record) of JSONL, JSON, CSV, Parquet files, or of a text pack.

    Reports what cannot be read and what is no record. Raises NotFound, Damaged.
    """
    if pack:
        for number, document in enumerate(loaders.read(pack), 1):
            yield f"{pack}:{number}", _record(document)
        return
    for file in files_in(storage.location(path)):
        for line, record in records(file, options.report, options.encoding):
            if isinstance(record, Mapping):
                yield f"{file}:{line}", record
            else:
                options.report(_no_record(file, line, record))


def _no_record(file: Location, line: int, value: Any) -> Problem:
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
