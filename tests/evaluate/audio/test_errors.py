"""Errors of speech are the fewest edits, and stand beside the recordings' own."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as some
from tests.evaluate.audio.sounds import subject

from miaobi.evaluate.audio import errors


def recursion(one: str, other: str) -> int:
    """Levenshtein's distance, as it is defined."""
    if not one or not other:
        return len(one) + len(other)
    return min(
        recursion(one[1:], other[1:]) + (one[0] != other[0]),
        recursion(one[1:], other) + 1,
        recursion(one, other[1:]) + 1,
    )


@given(some.text("abc", max_size=5), some.text("abcd", max_size=5))
def test_edits_are_the_fewest(one: str, other: str) -> None:
    assert errors.edits(one, other) == recursion(one, other)


@pytest.mark.parametrize(
    ("text", "heard", "characters", "words"),
    [
        ("Hello, World!", "hello world", (0, 10), (0, 2)),
        ("It's 5 o’clock.", "its 5 oclock", (0, 10), (0, 3)),
        ("今天天气很好。", "今天天气好", (1, 6), (1, 1)),
        ("ＡＢＣ", "abc", (0, 3), (0, 1)),
        ("one two three", "", (11, 11), (3, 3)),
        ("one", "one two", (3, 3), (1, 1)),
    ],
)
def test_what_does_not_sound_does_not_count(
    text: str, heard: str, characters: tuple[int, int], words: tuple[int, int]
) -> None:
    assert errors.character_errors(text, heard) == characters
    assert errors.word_errors(text, heard) == words


def test_the_recordings_are_the_ceiling() -> None:
    cer, wer = errors.measure(subject())
    assert wer.value == pytest.approx(3 / 6)
    assert cer.name == "cer"
    assert "the recordings themselves: 50.0%" in wer.detail
    chinese = subject(texts=["啊哦", "哦啊", "啊啊"], hear=lambda sound: "啊哦")
    assert [score.name for score in errors.measure(chinese)] == ["cer"]
