"""Where a voice pauses: markup, sentences, pieces that are not too long."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from miaobi.core.errors import BadInput
from miaobi.engines.voices.markup import Pause, Words, parts
from miaobi.engines.voices.sentences import cut, cut_first, sentences


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("One. Two! Three?", ["One.", "Two!", "Three?"]),
        ("今天。明天！“后天？”好", ["今天。", "明天！", "“后天？”", "好"]),
        ("今天很好。Hello there.", ["今天很好。", "Hello there."]),
        ("no mark", ["no mark"]),
        ("line one\nline two", ["line one", "line two"]),
        ('He said "go." Then left.', ['He said "go."', "Then left."]),
        ("Wait... what", ["Wait...", "what"]),
        ("", []),
    ],
)
def test_sentences(text: str, expected: list[str]) -> None:
    assert sentences(text) == expected


@pytest.mark.parametrize(
    ("tag", "seconds"),
    [
        ("[pause:1.5s]", 1.5),
        ("[pause:200ms]", 0.2),
        ("[pause:2]", 2.0),
        ('<break time="500ms"/>', 0.5),
        ("<break time='1s' />", 1.0),
    ],
)
def test_pauses(tag: str, seconds: float) -> None:
    before, pause, after = parts(f"one{tag}two")
    assert pause == Pause(seconds)
    assert isinstance(before, Words) and before.text == "one"
    assert isinstance(after, Words) and after.text == "two"


def test_a_pause_of_a_day_is_refused() -> None:
    with pytest.raises(BadInput, match="longer than 60 seconds"):
        list(parts("[pause:86400s]"))


def test_a_word_with_its_sounds() -> None:
    (words,) = parts("I say [Kokoro](/kˈOkəɹO/) now")
    assert isinstance(words, Words)
    ((placeholder, sounds),) = words.sounds.items()
    assert words.text == f"I say {placeholder} now"
    assert sounds == "kˈOkəɹO"


@given(st.text("ab ,.;", max_size=200), st.integers(4, 50))
def test_pieces_are_short_enough_and_lose_nothing(text: str, longest: int) -> None:
    pieces = cut(text, longest)
    assert all(0 < len(piece) <= longest for piece in pieces)
    assert "".join(pieces).replace(" ", "") == text.replace(" ", "")


def test_a_long_text_is_cut_at_its_clauses() -> None:
    assert cut("aaaa aaaa, bbbb bbbb", 14) == ["aaaa aaaa,", "bbbb bbbb"]
    assert cut("aaaa aaaa aaaa", 10) == ["aaaa aaaa", "aaaa"]
    assert cut("a" * 12, 5) == ["aaaaa", "aaaaa", "aa"]


def test_a_first_sentence_is_cut_at_a_clause_or_not_at_all() -> None:
    assert cut_first("aaaa aaaa, bbbb bbbb", 14) == ["aaaa aaaa,", "bbbb bbbb"]
    assert cut_first("aaaa aaaa bbbb bbbb", 14) == ["aaaa aaaa bbbb bbbb"]
