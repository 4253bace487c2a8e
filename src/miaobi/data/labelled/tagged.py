"""The `tagged` reader: CoNLL files, beside everything the `texts` reader opens.

A CoNLL file has a word a line, its tag in the last column, and a blank line after each
sentence (Tjong Kim Sang and De Meulder 2003).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from miaobi.core.errors import BadInput
from miaobi.core.language import say
from miaobi.data.encoding import numbered_lines
from miaobi.data.labelled import texts

ENDINGS = (".conll", ".conllu", ".bio", ".iob", ".bmes", ".txt")


def read(path: str, pack: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """(place, {"tokens", "tags"}) of CoNLL files, by their endings; other records as
    they are. Raises BadInput.
    """
    place = Path(path).expanduser()
    files = (
        sorted(file for file in place.rglob("*") if file.suffix in ENDINGS)
        if place.is_dir() and path
        else [place]
        if place.suffix in ENDINGS
        else []
    )
    if pack or not files:
        yield from texts.texts(path, pack)
        return
    for file in files:
        yield from _sentences(file)


def _sentences(file: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    tokens, tags, first = list[str](), list[str](), 1
    for number, line in numbered_lines(file):
        parts = line.split()
        if parts and not line.startswith(("-DOCSTART-", "# ")):
            if len(parts) < 2:
                raise BadInput(
                    say(
                        f"{file}:{number}: a word without a tag: {line.strip()!r}.",
                        f"{file}:{number}：词没有标签：{line.strip()!r}。",
                    ),
                    say(
                        "A line is a word and its tag, with a blank or a tab between.",
                        "每行应为一个词与其标签，以空格或制表符分隔。",
                    ),
                )
            first = number if not tokens else first
            tokens.append(parts[0])
            tags.append(parts[-1])
        elif tokens:
            yield f"{file}:{first}", {"tokens": tokens, "tags": tags}
            tokens, tags = [], []
    if tokens:
        yield f"{file}:{first}", {"tokens": tokens, "tags": tags}
