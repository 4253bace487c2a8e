"""What a text holds beside words: pauses, and words with their sounds."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from miaobi.core.errors import BadInput
from miaobi.core.language import say

LONGEST_PAUSE = 60.0
"""Seconds of one pause."""
FIRST_PLACEHOLDER, COUNT = 0xE000, 6400
"""The characters that Unicode leaves to private use."""
PLACEHOLDERS = re.compile("([\ue000-\uf8ff])")
MARKUP = re.compile(
    r"\[pause:\s*(?P<pause>\d+(?:\.\d+)?)\s*(?P<unit>ms|s)?\s*\]"
    r"|<break\s+time=[\"'](?P<time>\d+(?:\.\d+)?)(?P<time_unit>ms|s)[\"']\s*/?>"
    r"|\[(?P<word>[^\]\n]+)\]\(/(?P<sounds>[^)\n]*)/\)",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Words:
    """A part of the text, as it is written.

    A word with its sounds is one character of PLACEHOLDERS, which leads to them.
    """

    text: str
    sounds: Mapping[str, str]


@dataclass(frozen=True)
class Pause:
    seconds: float


def parts(text: str) -> Iterator[Words | Pause]:
    """Yield what a text holds, in order. Raises BadInput for a pause that is too long,
    and for more words with sounds than there are placeholders.
    """
    position = 0
    written = ""
    sounds = dict[str, str]()
    for match in MARKUP.finditer(text):
        written += text[position : match.start()]
        position = match.end()
        if match["word"]:
            placeholder = _placeholder(len(sounds))
            sounds[placeholder] = match["sounds"].strip()
            written += placeholder
            continue
        yield Words(written, sounds)
        written, sounds = "", {}
        yield Pause(_seconds(match))
    yield Words(written + text[position:], sounds)


def _placeholder(number: int) -> str:
    if number >= COUNT:
        raise BadInput(
            say(
                f"The text has more than {COUNT:,} words with their sounds.",
                f"文本中带音标的词超过 {COUNT:,} 个。",
            ),
            say("Read it in parts.", "请分段朗读。"),
            field="prompt",
        )
    return chr(FIRST_PLACEHOLDER + number)


def _seconds(match: re.Match[str]) -> float:
    number = float(match["pause"] or match["time"])
    unit = (match["unit"] or match["time_unit"] or "s").lower()
    seconds = number / 1000 if unit == "ms" else number
    if seconds > LONGEST_PAUSE:
        raise BadInput(
            say(
                f"{match.group()} is longer than {LONGEST_PAUSE:g} seconds.",
                f"{match.group()} 超过 {LONGEST_PAUSE:g} 秒。",
            ),
            say("Give a shorter pause.", "请缩短停顿。"),
            field="prompt",
        )
    return seconds
