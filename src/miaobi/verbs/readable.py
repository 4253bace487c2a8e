"""Values of labelled examples as people read them, for reports and pages."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from miaobi.core.config import plain
from miaobi.tune.learner import Example

CELL_CHARACTERS = 600
"""Longest text of a table cell; what is longer is cut."""
PICTURE_FACTS = ("digest", "width", "height")
"""Columns beside a picture's path that say nothing to a reader."""


def answer_of(example: Example) -> Any:
    """Return the columns of the answer; the value alone where there is one column."""
    columns = dict[str, Any]()
    for key, value in example.columns.items():
        question = example.parts.get(key)
        answer = _after(question, value)
        if answer != question and answer != []:
            columns[key] = answer
    if len(columns) == 1:
        return next(iter(columns.values()))
    return columns


def _after(question: Any, value: Any) -> Any:
    """Return a dialogue's turns after those of the question; other values as they are."""
    if not isinstance(value, list) or not isinstance(question, list):
        return value
    if value[: len(question)] != question:
        return value
    return value[len(question) :]


def readable(value: Any) -> str:
    """Return a value as text of at most CELL_CHARACTERS characters.

    Text stays as it is, one column stands without its name, a dialogue has a line for
    each turn, everything else is JSON.
    """
    if isinstance(value, Mapping):
        value = _only_column(value)
    if _is_dialogue(value):
        value = _dialogue(value)
    if value is None:
        text = "–"
    elif isinstance(value, str):
        text = value
    else:
        text = json.dumps(plain(value), ensure_ascii=False)
    if len(text) <= CELL_CHARACTERS:
        return text
    return text[:CELL_CHARACTERS] + " …"


def _only_column(columns: Mapping[str, Any]) -> Any:
    """Return the one column that says something, or all of them."""
    informative = {
        key: item for key, item in columns.items() if key not in PICTURE_FACTS
    }
    if set(informative) == {"image"}:
        return Path(str(informative["image"])).name
    if len(informative) == 1:
        return next(iter(informative.values()))
    return informative


def _is_dialogue(value: Any) -> bool:
    if not isinstance(value, list) or not value:
        return False
    return all(isinstance(turn, Mapping) and "role" in turn for turn in value)


def _dialogue(turns: list[Mapping[str, Any]]) -> str:
    """Return a line for each turn; the text alone where there is one turn."""
    texts = [str(turn.get("content") or "") for turn in turns]
    if len(texts) == 1:
        return texts[0]
    return "\n".join(
        f"{turn['role']}: {text}" for turn, text in zip(turns, texts, strict=True)
    )
