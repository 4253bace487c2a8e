"""Perplexity and bits per byte against answers worked out by hand."""

import math
import random
from collections.abc import Callable
from dataclasses import replace

import pytest
from tests.evaluate.text_models import by_character, unigram

from miaobi.core.artifacts import TokenLogprob
from miaobi.evaluate.score import Score
from miaobi.evaluate.text import likelihood
from miaobi.evaluate.text.subject import TextSubject

ALPHABET = "abcdefgh"


def scored(subject: TextSubject) -> dict[str, Score]:
    return {score.name: score for score in likelihood.measure(subject)}


def texts(*lengths: int) -> list[str]:
    draw = random.Random(0)
    return ["".join(draw.choices(ALPHABET, k=length)) for length in lengths]


@pytest.mark.parametrize("start", ["", "§"])
def test_a_uniform_model_is_as_perplexed_as_its_vocabulary_is_large(start: str) -> None:
    subject = replace(
        unigram({letter: 1 / 8 for letter in ALPHABET}, start),
        held_out=texts(30, 200, 7, 41),
    )
    found = scored(subject)
    assert found["perplexity"].value == pytest.approx(8)
    assert (found["perplexity"].low, found["perplexity"].high) == (
        pytest.approx(8),
        pytest.approx(8),
    )
    assert found["bits_per_byte"].value == pytest.approx(3)
    assert found["perplexity"].n == 4 and "characters" in found["perplexity"].detail


def test_bits_per_byte_counts_utf8_bytes() -> None:
    subject = replace(
        unigram({"春": 0.25, "秋": 0.75}, "§"), held_out=["春秋春春", "秋"]
    )
    nats = -(3 * math.log(0.25) + 2 * math.log(0.75))
    assert scored(subject)["bits_per_byte"].value == pytest.approx(
        nats / math.log(2) / 15
    )
    assert scored(subject)["perplexity"].value == pytest.approx(math.exp(nats / 5))


@pytest.mark.parametrize("start", ["", "§"])
@pytest.mark.parametrize("length", [1, 2, 19, 20, 39, 40, 41, 59, 60, 61, 400])
def test_every_token_is_scored_once_however_the_windows_fall(
    start: str, length: int
) -> None:
    subject = unigram({letter: 1 / 8 for letter in ALPHABET}, start)
    [text] = texts(length)
    fresh = [count for _, count, _ in likelihood.windows(subject, text)]
    assert sum(fresh) == length - (not start)
    assert sum(size for _, _, size in likelihood.windows(subject, text)) == length - (
        not start
    )
    assert all(
        len(piece) <= subject.context_length
        for piece, _, _ in likelihood.windows(subject, text)
    )


def test_later_windows_bring_half_a_context_with_them() -> None:
    subject = unigram({letter: 1 / 8 for letter in ALPHABET}, "§")
    [text] = texts(200)
    for piece, fresh, _ in list(likelihood.windows(subject, text))[1:]:
        assert len(piece) - fresh >= subject.context_length // 2 - 1


def test_cuts_fall_where_the_tokens_stay_the_same() -> None:
    """A tokenizer of whole words: no window may begin or end inside one."""

    def words(text: str) -> list[tuple[int, int, int]]:
        marks, at = [], 0
        for word in text.split(" "):
            for place in range(
                0, len(word), 3
            ):  # a long word is several tokens, which depend on where it begins
                piece = word[place : place + 3]
                marks.append((hash((word, place)), at + place, at + place + len(piece)))
            at += len(word) + 1
        return marks

    subject = replace(unigram({"a": 1.0}, ""), encode=words, context_length=12)
    text = " ".join("abcdefghijk"[: 1 + place % 9] for place in range(60))
    known = {token for token, _, _ in words(text)}
    for piece, _, _ in likelihood.windows(subject, text):
        assert {token for token, _, _ in words(piece)} <= known


def test_a_model_that_looks_back_is_rewarded_for_it() -> None:
    """A model that copies the character two places back, on text of period two: certain
    after the second.
    """

    def score(text: str) -> list[TokenLogprob]:
        return [
            TokenLogprob(text[at], math.log(0.5) if at < 2 else 0.0)
            for at in range(1, len(text))
        ]

    subject = replace(
        unigram({"a": 1.0}), score=score, encode=by_character, held_out=["abababab"]
    )
    assert scored(subject)["perplexity"].value == pytest.approx(
        math.exp(math.log(2) / 7)
    )


def test_progress_reaches_the_end() -> None:
    heard: list[float] = []
    listen: Callable[[float], None] = heard.append
    likelihood.measure(
        replace(
            unigram({letter: 1 / 8 for letter in ALPHABET}),
            held_out=texts(5, 5, 5),
            listeners=[listen],
        )
    )
    assert heard[-1] == 1
