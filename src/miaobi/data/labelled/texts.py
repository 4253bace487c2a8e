"""The `texts` reader: records of text files and of text packs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from miaobi.core import storage
from miaobi.data.text import loaders
from miaobi.data.text.documents import Document
from miaobi.data.text.files import files_in, records


def texts(path: str, pack: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield (location, record) of JSONL, JSON, CSV, Parquet files, or of a text pack.

    Raises BadInput at the first line that cannot be read.
    """
    if pack:
        for number, document in enumerate(loaders.read(pack), 1):
            yield f"{pack}:{number}", _record(document)
        return
    for file in files_in(storage.location(path)):
        for line, record in records(file):
            yield f"{file}:{line}", record


def _record(document: Document) -> Mapping[str, Any]:
    """A document's columns, as a file would have them."""
    record: dict[str, Any] = {"text": document.text}
    if document.prompt:
        record["prompt"] = document.prompt
        record["completion"] = document.text
    if document.messages:
        record["messages"] = [message._asdict() for message in document.messages]
    return {**record, **document.meta}
