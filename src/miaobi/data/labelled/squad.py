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
from miaobi.core.language import say
from miaobi.data.encoding import Problem, numbered_lines
from miaobi.data.labelled import STRICT, ReadOptions, texts


def read(
    path: str, pack: str, options: ReadOptions = STRICT
) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield (location, {"question", "context", "answers"}). Reports an article that is
    not SQuAD's, and leaves it out.
    """
    file = storage.local(path)
    articles = None
    if path and file.suffix == ".json" and file.is_file():
        articles = _articles(file, options)
    if articles is None:
        yield from texts.texts(path, pack, options)
        return
    for article in articles:
        try:
            questions = list(_questions(file, article))
        except (KeyError, TypeError, AttributeError) as error:
            options.report(_no_article(file, error))
            continue
        yield from questions


def _no_article(file: Path, error: Exception) -> Problem:
    return Problem(
        file,
        0,
        say(
            f"not SQuAD's JSON: {error!r}.",
            f"不是 SQuAD 格式的 JSON：{error!r}。",
        ),
        '{"data": [{"paragraphs": [{"context": "...", "qas": [{"id": "1", '
        '"question": "...", "answers": [{"text": "...", "answer_start": '
        "0}]}]}]}]}",
    )


def _articles(file: Path, options: ReadOptions) -> list[Any] | None:
    """The articles of a SQuAD file; None for any other."""
    lines = numbered_lines(file, options.report, encoding=options.encoding)
    try:
        content = json.loads("".join(line for _, line in lines))
    except (ValueError, RecursionError):
        return None
    if isinstance(content, list) and all(map(_is_of_cmrc, content)):
        return [{"paragraphs": [_paragraph(item) for item in content]}]
    articles = content.get("data") if isinstance(content, dict) else None
    is_squad = isinstance(articles, list) and any(
        isinstance(article, dict) and "paragraphs" in article for article in articles
    )
    return articles if is_squad else None


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


def _questions(file: Path, article: Any) -> Iterator[tuple[str, Mapping[str, Any]]]:
    for paragraph in article["paragraphs"]:
        for item in paragraph["qas"]:
            record = {
                "question": item["question"],
                "context": paragraph["context"],
                "answers": item.get("answers", []),
            }
            yield f"{file}#{item.get('id', '')}", record
