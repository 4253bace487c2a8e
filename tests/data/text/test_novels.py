"""Novels of an R package: read from its own file format, cut in chapters and sentences."""

from __future__ import annotations

import zlib
from pathlib import Path

import pytest

from miaobi.core.errors import Damaged
from miaobi.data.text import novels

CHAPTER = [
    "It was a _fine_ day, and Mr. Knightley came",
    'to see them. "Where is she?" said he. "Gone."',
    "",
    "Nobody answered him at once; he waited for some time, as he had often done before now, and went.",
    "",
] * 8
NOVEL = ["EMMA", "", "By Jane Austen", "", "CHAPTER I", "", *CHAPTER, "CHAPTER II", ""]


def number(value: int) -> bytes:
    return value.to_bytes(4, signed=True)


def object_of(lines: list[str]) -> bytes:
    """A character vector as R writes it into a lazy-load database."""
    strings = b"".join(
        number(9) + number(len(line.encode())) + line.encode() for line in lines
    )
    header = b"X\n" + number(3) + number(0) + number(0) + number(5) + b"UTF-8"
    plain = header + number(16) + number(len(lines)) + strings
    return number(len(plain)) + zlib.compress(plain)


def package(folder: Path, content: bytes) -> Path:
    file = folder / "usr/lib/R/site-library/novels/data/Rdata.rdb"
    file.parent.mkdir(parents=True)
    file.write_bytes(content)
    return folder


def test_chapters_are_paragraphs_a_line(tmp_path: Path) -> None:
    folder = package(tmp_path, object_of(NOVEL) + object_of([*NOVEL, *CHAPTER]))
    chapters = list(novels.chapters(folder))
    assert [chapter.meta["title"] for chapter in chapters] == ["Emma"] * 3
    first = chapters[0].text.split("\n")
    assert len(first) == 16
    assert first[0].startswith("It was a fine day, and Mr. Knightley came to see")


def test_sentences_end_at_full_stops_that_end_them(tmp_path: Path) -> None:
    folder = package(tmp_path, object_of(NOVEL))
    sentences = {sentence.text for sentence in novels.sentences(folder)}
    assert sentences == {
        "It was a fine day, and Mr. Knightley came to see them.",
        "Where is she? said he.",
    }, "the third has too many words, and Gone too few"


@pytest.mark.parametrize(
    "content", [b"1234nothing", number(9) + zlib.compress(b"A\n" + bytes(60))]
)
def test_another_file_is_damaged(tmp_path: Path, content: bytes) -> None:
    with pytest.raises(Damaged, match="Rdata.rdb"):
        list(novels.chapters(package(tmp_path, content)))
