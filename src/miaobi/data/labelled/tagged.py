"""The `tagged` reader: CoNLL files, beside everything the `texts` reader opens.

A CoNLL file has a word a line, its tag in the last column, and a blank line after each
sentence (Tjong Kim Sang and De Meulder 2003).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from miaobi.core import storage
from miaobi.core.errors import BadInput
from miaobi.core.language import say
from miaobi.data.encoding import numbered_lines
from miaobi.data.labelled import texts

ENDINGS = (".conll", ".conllu", ".bio", ".iob", ".bmes", ".txt")
COMMENTS = ("-DOCSTART-", "# ")


def read(path: str, pack: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield (location, {"tokens", "tags"}) of CoNLL files, by their endings; other
    records as they are. Raises BadInput.
    """
    files = [] if pack else _files(storage.local(path), path)
    if not files:
        yield from texts.texts(path, pack)
        return
    for file in files:
        yield from _sentences(file)


def _files(path: Path, name: str) -> list[Path]:
    """The CoNLL files that a path is or holds; `name` is the path as it was written."""
    if path.is_dir() and name:
        return sorted(file for file in path.rglob("*") if file.suffix in ENDINGS)
    return [path] if path.suffix in ENDINGS else []


def _sentences(file: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    tokens, tags, first = list[str](), list[str](), 1
    for number, line in numbered_lines(file):
        columns = line.split()
        if columns and not line.startswith(COMMENTS):
            if len(columns) < 2:
                raise _without_tag(file, number, line)
            if not tokens:
                first = number
            tokens.append(columns[0])
            tags.append(columns[-1])
        elif tokens:
            yield f"{file}:{first}", {"tokens": tokens, "tags": tags}
            tokens, tags = [], []
    if tokens:
        yield f"{file}:{first}", {"tokens": tokens, "tags": tags}


def _without_tag(file: Path, number: int, line: str) -> BadInput:
    return BadInput(
        say(
            f"{file}:{number}: a word without a tag: {line.strip()!r}.",
            f"{file}:{number}：词没有标签：{line.strip()!r}。",
        ),
        say(
            "A line is a word and its tag, with a blank or a tab between.",
            "每行应为一个词与其标签，以空格或制表符分隔。",
        ),
    )
