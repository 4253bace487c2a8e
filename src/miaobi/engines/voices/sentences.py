"""Texts and phonemes cut where a voice pauses."""

from __future__ import annotations

import re

SENTENCE = re.compile(
    r".+?(?:[.!?…]+[\"”’)]*(?=\s|$)|[。！？]+[”’」』）]*|\n+|$)", re.DOTALL
)
CLAUSE_MARKS = ";:,—"


def sentences(text: str) -> list[str]:
    """Return the sentences of a text in which every number and abbreviation is written
    in words, so that a full stop ends a sentence.
    """
    matches = (match.strip() for match in SENTENCE.findall(text))
    return [sentence for sentence in matches if sentence]


def cut(phonemes: str, longest: int) -> list[str]:
    """Return phonemes in pieces of at most `longest`: cut after the last clause mark that
    leaves no piece short, else at a space, else anywhere.
    """
    pieces = list[str]()
    while len(phonemes) > longest:
        at = _cut_position(phonemes, longest)
        pieces.append(phonemes[:at].strip())
        phonemes = phonemes[at:].strip()
    return [piece for piece in (*pieces, phonemes) if piece]


def cut_first(phonemes: str, longest: int) -> list[str]:
    """Return phonemes that are longer than this in two, cut after a clause mark; whole
    where none is in reach.
    """
    head = phonemes[:longest]
    last_mark = max(head.rfind(mark) for mark in CLAUSE_MARKS)
    if len(phonemes) <= longest or last_mark < longest // 4:
        return [phonemes]
    at = last_mark + 1
    return [phonemes[:at].strip(), phonemes[at:].strip()]


def _cut_position(phonemes: str, longest: int) -> int:
    head = phonemes[:longest]
    marks = [head.rfind(mark) for mark in CLAUSE_MARKS]
    last_mark = max(marks)
    if last_mark > longest // 3:
        return last_mark + 1
    space = head.rfind(" ")
    return space + 1 if space > 0 else longest
