"""Texts as they are read aloud: "3.5 km" becomes "three point five kilometers", 3.5千米
becomes 三点五千米.

Chinese and English, also mixed in one sentence: a number is read in the language of the
words around it. Every piece of the result knows which characters it was written as, so
that times of spoken words lead back to the text as it was written.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from miaobi.data.audio.spoken.patterns import matches

Language = Literal["en", "zh"]


@dataclass(frozen=True)
class Piece:
    """What `text`, as it is spoken, was in the written text: [start, end)."""

    text: str
    start: int
    end: int


@dataclass(frozen=True)
class Spoken:
    """A text as it is read aloud; the pieces follow each other and leave nothing out."""

    written: str
    pieces: tuple[Piece, ...]

    @property
    def text(self) -> str:
        return "".join(piece.text for piece in self.pieces)

    def written_span(self, start: int, end: int) -> tuple[int, int]:
        """Return which characters were written for [start, end) of the spoken text.

        A piece that was rewritten is taken whole.
        """
        position = 0
        spans = list[tuple[int, int]]()
        for piece in self.pieces:
            next_position = position + len(piece.text)
            if position < end and start < next_position:
                spans.append(_part(piece, start - position, end - position))
            position = next_position
        if not spans:
            return (len(self.written), len(self.written))
        return (spans[0][0], spans[-1][1])

    def slice(self, start: int, end: int) -> str:
        """Return the written text behind [start, end) of the spoken one."""
        first, last = self.written_span(start, end)
        return self.written[first:last]


def _part(piece: Piece, start: int, end: int) -> tuple[int, int]:
    if len(piece.text) != piece.end - piece.start:
        return (piece.start, piece.end)
    first = max(start, 0)
    last = min(end, len(piece.text))
    return (piece.start + first, piece.start + last)


def spoken(text: str, language: Language = "en") -> Spoken:
    """Return a text as it is read aloud.

    Args:
        text: As it is written.
        language: Of numbers and signs that have no words around them.
    """
    pieces = list[Piece]()
    position = 0
    for start, end, words in matches(text, language):
        if start > position:
            pieces.append(Piece(text[position:start], position, start))
        pieces.append(Piece(words, start, end))
        position = end
    if position < len(text):
        pieces.append(Piece(text[position:], position, len(text)))
    return Spoken(text, tuple(pieces))
