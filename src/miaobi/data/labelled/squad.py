"""The `squad` reader: SQuAD's nested JSON ({"data": [{"paragraphs": [{"context",
"qas"}]}]}), CMRC 2018's ([{"context_text", "qas"}]), beside everything the `texts`
reader opens.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from miaobi.core import storage
from miaobi.core.errors import BadInput
from miaobi.core.language import say
from miaobi.data.labelled import texts


def read(path: str, pack: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield (location, {"question", "context", "answers"}). Raises BadInput."""
    file = storage.local(path)
    articles = None
    if path and file.suffix == ".json" and file.is_file():
        articles = _articles(file)
    if articles is None:
        yield from texts.texts(path, pack)
        return
    try:
        yield from _questions(file, articles)
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


def _articles(file: Path) -> list[Any] | None:
    """The articles of a SQuAD file; None for any other."""
    try:
        content = json.loads(file.read_text(encoding="utf-8-sig"))
    except (UnicodeDecodeError, ValueError):
        return None
    if isinstance(content, list) and all(map(_is_of_cmrc, content)):
        return [{"paragraphs": [_paragraph(item) for item in content]}]
    articles = content.get("data") if isinstance(content, dict) else None
    return articles if isinstance(articles, list) else None


def _is_of_cmrc(item: Any) -> bool:
    return isinstance(item, dict) and {"context_text", "qas"} <= item.keys()


def _paragraph(item: Mapping[str, Any]) -> dict[str, Any]:
    """A text of CMRC 2018 with its questions, as SQuAD would name them."""
    questions = [
        {
            "id": question.get("query_id", ""),
            "question": question.get("query_text"),
            "answers": question.get("answers", []),
        }
        for question in item["qas"]
    ]
    return {"context": item["context_text"], "qas": questions}


def _questions(
    file: Path, articles: list[Any]
) -> Iterator[tuple[str, Mapping[str, Any]]]:
    for article in articles:
        for paragraph in article["paragraphs"]:
            for item in paragraph["qas"]:
                record = {
                    "question": item["question"],
                    "context": paragraph["context"],
                    "answers": item.get("answers", []),
                }
                yield f"{file}#{item.get('id', '')}", record
