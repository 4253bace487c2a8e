"""Readers of labelled examples: (place, record) pairs, in the names people gave the columns."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from miaobi.data import packs
from miaobi.data.text.files import files_in, records


def texts(path: str, pack: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Records of JSONL, JSON, CSV, Parquet files, or of a text pack. Raises BadInput at
    the first line that cannot be read.
    """
    if pack:
        for number, document in enumerate(packs.read(pack), 1):
            messages = (
                {
                    "messages": [
                        {"role": role, "content": content}
                        for role, content in document.messages
                    ]
                }
                if document.messages
                else {}
            )
            prompt = (
                {"prompt": document.prompt, "completion": document.text}
                if document.prompt
                else {}
            )
            yield (
                f"{pack}:{number}",
                {"text": document.text, **prompt, **messages, **document.meta},
            )
        return
    for file in files_in(Path(path).expanduser()):
        for line, record in records(file):
            yield f"{file}:{line}", record
