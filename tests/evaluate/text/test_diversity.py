"""Distinct-n and repetition on texts counted by hand."""

from dataclasses import replace

import pytest
from tests.evaluate.text_models import unigram

from miaobi.evaluate.score import Score
from miaobi.evaluate.text import diversity
from miaobi.evaluate.text.subject import TextSubject, spaced


def judged(*texts: str, held_out: tuple[str, ...] = ()) -> dict[str, Score]:
    written = iter(texts)
    subject = replace(
        unigram({"a": 1.0}),
        generate=lambda prompt, **controls: [next(written)],
        count=len(texts),
        held_out=held_out,
    )
    return {score.name: score for score in diversity.measure(subject)}


def test_distinct_counts_different_ngrams_over_all_samples() -> None:
    found = judged("the cat sat", "the cat ran")
    assert found["distinct_1"].value == pytest.approx(4 / 6)  # the cat sat ran
    assert found["distinct_2"].value == pytest.approx(
        3 / 4
    )  # the-cat, cat-sat, cat-ran
    assert found["distinct_3"].value == pytest.approx(2 / 2)
    assert "words" in found["distinct_1"].detail


def test_chinese_is_counted_by_character() -> None:
    found = judged("春眠不觉晓", "春江潮水连")
    assert found["distinct_1"].value == pytest.approx(9 / 10)
    assert found["distinct_2"].value == 1
    assert "characters" in found["distinct_2"].detail


def test_the_same_text_again_and_again_is_not_diverse() -> None:
    found = judged(*["one two three four five"] * 10)
    assert found["distinct_2"].value == pytest.approx(4 / 40)
    assert found["distinct_2"].low <= 0.1 <= found["distinct_2"].high


def test_repetition_is_within_a_sample() -> None:
    assert diversity.repetition("abcdefg") == 0
    assert diversity.repetition("a" * 14) == pytest.approx(1 - 1 / 11)
    found = judged("a b c d e f", "x x x x x x x")
    assert found["repetition"].value == pytest.approx((0 + 3 / 4) / 2)


def test_short_samples_do_not_spoil_it() -> None:
    assert "repetition" not in judged("a b", "")
    assert judged("", "")["distinct_1"].value == 0


def test_held_out_text_of_the_same_size_stands_beside() -> None:
    held = "x y z x y z x y z"
    assert (
        "0.500" in judged("a b c d e f", held_out=(held,))["distinct_1"].detail
    )  # three of its first six differ


def test_what_counts_as_spaced() -> None:
    assert (
        spaced("hello world")
        and not spaced("春眠不觉晓，处处闻啼鸟。")
        and not spaced("これは日本語です")
    )


def test_the_samples_are_made_once() -> None:
    asked: list[str] = []
    subject: TextSubject = replace(
        unigram({"a": 1.0}),
        count=3,
        held_out=["abc def ghi"],
        generate=lambda prompt, **controls: asked.append(prompt) or ["text"],
    )
    assert subject.samples is subject.samples and len(asked) == 3
