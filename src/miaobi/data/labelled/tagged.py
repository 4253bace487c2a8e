"""The `tagged` reader: CoNLL files, beside everything the `texts` reader opens.

A CoNLL file has a word a line, its tag in the last column, and a blank line after each
sentence (Tjong Kim Sang and De Meulder 2003).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

from miaobi.core import storage
from miaobi.core.language import say
from miaobi.data.encoding import Problem, numbered_lines
from miaobi.data.labelled import STRICT, ReadOptions, texts

ENDINGS = (".conll", ".conllu", ".bio", ".iob", ".bmes", ".txt")
COMMENTS = ("-DOCSTART-", "# ")
TAG = re.compile(r"O|[BIESMLU][-_]\S+")
"""A tag that says where a word stands in a name."""
LOOKED_AT = 1000
"""Lines in which a .txt file has a tag, if it is no prose."""


def read(
    path: str, pack: str, options: ReadOptions = STRICT
) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield (location, {"tokens", "tags"}) of CoNLL files, by their endings, and by their
    tags where it is .txt; other records as they are. Reports a word without a tag, and leaves its sentence out.
    """
    files = [] if pack else _files(storage.local(path), path, options)
    if not files:
        yield from texts.texts(path, pack, options)
        return
    for file in files:
        yield from _sentences(file, options)


def _files(path: Path, name: str, options: ReadOptions) -> list[Path]:
    """The CoNLL files that a path is or holds; `name` is the path as it was written."""
    files = sorted(path.rglob("*")) if path.is_dir() and name else [path]
    return [
        file
        for file in files
        if file.suffix in ENDINGS
        and (file.suffix != ".txt" or _has_tags(file, options))
    ]


def _has_tags(file: Path, options: ReadOptions) -> bool:
    """Whether a line has a word and a tag: prose has the same ending."""
    lines = numbered_lines(file, _pass_over, encoding=options.encoding)
    for _, line in islice(lines, LOOKED_AT):
        columns = line.split()
        if len(columns) > 1 and TAG.fullmatch(columns[-1]):
            return True
    return False


def _pass_over(problem: Problem) -> None:
    """Pass over what cannot be read: reading the file in full says so."""


def _sentences(
    file: Path, options: ReadOptions
) -> Iterator[tuple[str, Mapping[str, Any]]]:
    tokens, tags, first = list[str](), list[str](), 1
    is_whole = True
    for number, line in numbered_lines(file, options.report, encoding=options.encoding):
        columns = line.split()
        if not columns or line.startswith(COMMENTS):
            if tokens and is_whole:
                yield f"{file}:{first}", {"tokens": tokens, "tags": tags}
            tokens, tags, is_whole = [], [], True
        elif len(columns) < 2:
            options.report(_without_tag(file, number, line))
            is_whole = False
        else:
            if not tokens:
                first = number
            tokens.append(columns[0])
            tags.append(columns[-1])
    if tokens and is_whole:
        yield f"{file}:{first}", {"tokens": tokens, "tags": tags}


def _without_tag(file: Path, number: int, line: str) -> Problem:
    return Problem(
        file,
        number,
        say(
            f"a word without a tag: {line.strip()!r}.",
            f"词没有标签：{line.strip()!r}。",
        ),
        say(
            "A line is a word and its tag, with a blank or a tab between.",
            "每行应为一个词与其标签，以空格或制表符分隔。",
        ),
    )
