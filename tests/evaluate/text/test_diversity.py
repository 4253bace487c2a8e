"""Distinct-n and repetition on texts counted by hand."""

from dataclasses import replace
from typing import Any

import pytest
from tests.evaluate.text_models import unigram

from miaobi.evaluate.score import Score
from miaobi.evaluate.text import diversity
from miaobi.evaluate.text.subject import spaced


def measure(*texts: str, held_out: tuple[str, ...] = ()) -> dict[str, Score]:
    """Return the scores of a model that writes these texts."""
    remaining = iter(texts)
    subject = replace(
        unigram({"a": 1.0}),
        generate=lambda prompt, **controls: [next(remaining)],
        count=len(texts),
        held_out=held_out,
    )
    return {score.name: score for score in diversity.measure(subject)}


def test_distinct_counts_different_ngrams_over_all_samples() -> None:
    scores = measure("the cat sat", "the cat ran")
    # the cat sat ran
    assert scores["distinct_1"].value == pytest.approx(4 / 6)
    # the-cat, cat-sat, cat-ran
    assert scores["distinct_2"].value == pytest.approx(3 / 4)
    assert scores["distinct_3"].value == pytest.approx(2 / 2)
    assert "words" in scores["distinct_1"].detail


def test_chinese_is_counted_by_character() -> None:
    scores = measure("春眠不觉晓", "春江潮水连")
    assert scores["distinct_1"].value == pytest.approx(9 / 10)
    assert scores["distinct_2"].value == 1
    assert "characters" in scores["distinct_2"].detail


def test_the_same_text_again_and_again_is_not_diverse() -> None:
    score = measure(*["one two three four five"] * 10)["distinct_2"]
    assert score.value == pytest.approx(4 / 40)
    assert score.low <= 0.1 <= score.high


def test_repetition_is_within_a_sample() -> None:
    assert diversity.repetition("abcdefg") == 0
    assert diversity.repetition("a" * 14) == pytest.approx(1 - 1 / 11)
    scores = measure("a b c d e f", "x x x x x x x")
    assert scores["repetition"].value == pytest.approx((0 + 3 / 4) / 2)


def test_short_samples_do_not_spoil_it() -> None:
    assert "repetition" not in measure("a b", "")
    assert measure("", "")["distinct_1"].value == 0


def test_held_out_text_of_the_same_size_is_measured_too() -> None:
    scores = measure("a b c d e f", held_out=("x y z x y z x y z",))
    # Three of its first six differ.
    assert "0.500" in scores["distinct_1"].detail


def test_what_counts_as_spaced() -> None:
    assert spaced("hello world")
    assert not spaced("春眠不觉晓，处处闻啼鸟。")
    assert not spaced("これは日本語です")


def test_the_samples_are_generated_once() -> None:
    prompts = list[str]()

    def generate(prompt: str, **controls: Any) -> list[str]:
        prompts.append(prompt)
        return ["text"]

    subject = replace(
        unigram({"a": 1.0}), count=3, held_out=["abc def ghi"], generate=generate
    )
    assert subject.samples is subject.samples
    assert len(prompts) == 3
