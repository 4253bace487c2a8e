"""Novels as R packages carry them, in chapters and in sentences.

A folder data/ of an R package holds the file Rdata.rdb: objects one after the other,
each 4 bytes of length and zlib's stream of R's serialisation (R Internals, 1.8). A
novel is a character vector in it, a string for each printed line.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterator
from pathlib import Path

from miaobi.core.errors import Damaged
from miaobi.core.language import say
from miaobi.data.text.documents import Document

MAGIC = b"X\n"
"""Of R's binary serialisation, big-endian."""
ENCODING_AT = 14
"""Where version 3 says how long the name of its encoding is."""
STRINGS = 16
"""R's type of a character vector."""
INTEGER = 4
"""Bytes."""
HEADING = re.compile(r"(?:chapter|volume)\b.*|finis|the end", re.I)
SENTENCE_END = re.compile(r"(?<=[.!?])[\"')]*\s+(?=[\"'(]*[A-Z])")
TITLES = re.compile(r"\b(?:Mr|Mrs|Dr|St|Esq|Capt|Col|No|&c|[A-Z])\.$")
"""What a full stop follows that ends no sentence."""
SHORTEST_CHAPTER = 1000
"""Characters; what is shorter stands before or behind a novel."""
FEWEST_WORDS, MOST_WORDS = 4, 18
"""Of the sentences that are taken alone."""


def chapters(folder: Path) -> Iterator[Document]:
    """Yield each chapter of the novels, a paragraph a line, with the novel as `title`."""
    for novel in _novels(folder):
        title = novel[0].title()
        chapter = list[str]()
        for paragraph in [*_paragraphs(novel), ""]:
            if paragraph and not HEADING.fullmatch(paragraph):
                chapter.append(paragraph)
                continue
            text = "\n".join(chapter)
            if len(text) >= SHORTEST_CHAPTER:
                yield Document(text, meta={"title": title})
            chapter = []


def sentences(folder: Path) -> Iterator[Document]:
    """Yield the sentences of the novels that have 4 to 18 words, without quotation marks."""
    for chapter in chapters(folder):
        for paragraph in chapter.text.split("\n"):
            for sentence in _sentences(paragraph):
                if FEWEST_WORDS <= sentence.count(" ") + 1 <= MOST_WORDS:
                    yield Document(sentence, meta=chapter.meta)


def _sentences(paragraph: str) -> Iterator[str]:
    sentence = ""
    for part in SENTENCE_END.split(paragraph.replace('"', "")):
        sentence = f"{sentence} {part}".strip()
        if not TITLES.search(sentence):
            yield sentence
            sentence = ""


def _paragraphs(lines: list[str]) -> Iterator[str]:
    """The paragraphs of printed lines, each without line ends and marks of italics."""
    paragraph = list[str]()
    for line in [*lines, ""]:
        if line.strip():
            paragraph.append(line.strip())
        elif paragraph:
            yield " ".join(paragraph).replace("_", "")
            paragraph = []


def _novels(folder: Path) -> Iterator[list[str]]:
    """The lines of each novel. Raises Damaged for a file of another form."""
    for file in sorted(folder.rglob("data/Rdata.rdb")):
        packed = file.read_bytes()
        while packed:
            stream = zlib.decompressobj()
            try:
                plain = stream.decompress(packed[INTEGER:])
            except zlib.error as error:
                raise _damaged(file) from error
            packed = stream.unused_data
            yield _strings(plain, file)


def _strings(plain: bytes, file: Path) -> list[str]:
    """The strings of a serialised character vector."""
    if not plain.startswith(MAGIC):
        raise _damaged(file)

    def integer(at: int) -> int:
        return int.from_bytes(plain[at : at + INTEGER], signed=True)

    at = ENCODING_AT + INTEGER + integer(ENCODING_AT)
    if integer(at) != STRINGS:
        raise _damaged(file)
    count = integer(at + INTEGER)
    at += 2 * INTEGER
    strings = list[str]()
    for _ in range(count):
        at += INTEGER  # the flags of a string
        length = integer(at)
        at += INTEGER
        strings.append(plain[at : at + length].decode())
        at += length
    return strings


def _damaged(file: Path) -> Damaged:
    return Damaged(
        say(
            f"{file.name} is not R's file of character vectors.",
            f"{file.name} 不是 R 的字符向量文件。",
        ),
        say("Fetch the pack again.", "请重新获取该资源包。"),
    )
