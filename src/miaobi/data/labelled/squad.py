"""The `squad` reader: SQuAD's nested JSON ({"data": [{"paragraphs": [{"context",
"qas"}]}]}), beside everything the `texts` reader opens.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from miaobi.core.errors import BadInput
from miaobi.core.language import say
from miaobi.data.labelled import texts


def read(path: str, pack: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """(place, {"question", "context", "answers"}). Raises BadInput."""
    file = Path(path).expanduser()
    nested = (
        _nested(file) if path and file.suffix == ".json" and file.is_file() else None
    )
    if nested is None:
        yield from texts.texts(path, pack)
        return
    try:
        for article in nested:
            for paragraph in article["paragraphs"]:
                for item in paragraph["qas"]:
                    yield (
                        f"{file}#{item.get('id', '')}",
                        {
                            "question": item["question"],
                            "context": paragraph["context"],
                            "answers": item.get("answers", []),
                        },
                    )
    except (KeyError, TypeError, AttributeError) as error:
        raise BadInput(
            say(
                f"{file} is not SQuAD's JSON: {error!r}.",
                f"{file} 不是 SQuAD 格式的 JSON：{error!r}。",
            ),
            '{"data": [{"paragraphs": [{"context": "...", "qas": [{"id": "1", '
            '"question": "...", "answers": [{"text": "...", "answer_start": '
            "0}]}]}]}]}",
        ) from None


def _nested(file: Path) -> list[Any] | None:
    """The articles of a SQuAD file; None for any other."""
    try:
        found = json.loads(file.read_text(encoding="utf-8-sig"))
    except (UnicodeDecodeError, ValueError):
        return None
    return (
        found["data"]
        if isinstance(found, dict) and isinstance(found.get("data"), list)
        else None
    )
