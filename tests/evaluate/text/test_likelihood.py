"""Perplexity and bits per byte against answers worked out by hand."""

import math
import random
from dataclasses import replace

import pytest
from tests.evaluate.text_models import by_character, unigram

from miaobi.core.artifacts import TokenLogprob
from miaobi.evaluate.score import Score
from miaobi.evaluate.text import likelihood
from miaobi.evaluate.text.subject import TextSubject, TokenSpan

ALPHABET = "abcdefgh"


def measure(subject: TextSubject) -> dict[str, Score]:
    return {score.name: score for score in likelihood.measure(subject)}


def uniform(start: str = "") -> TextSubject:
    """Return a model to which all eight letters are as likely."""
    return unigram({letter: 1 / 8 for letter in ALPHABET}, start)


def texts(*lengths: int) -> list[str]:
    draw = random.Random(0)
    return ["".join(draw.choices(ALPHABET, k=length)) for length in lengths]


@pytest.mark.parametrize("start", ["", "§"])
def test_a_uniform_model_is_as_perplexed_as_its_vocabulary_is_large(start: str) -> None:
    scores = measure(replace(uniform(start), held_out=texts(30, 200, 7, 41)))
    perplexity = scores["perplexity"]
    assert perplexity.value == pytest.approx(8)
    assert perplexity.low == pytest.approx(8)
    assert perplexity.high == pytest.approx(8)
    assert perplexity.n == 4
    assert "characters" in perplexity.detail
    assert scores["bits_per_byte"].value == pytest.approx(3)


def test_bits_per_byte_counts_utf8_bytes() -> None:
    model = unigram({"春": 0.25, "秋": 0.75}, "§")
    scores = measure(replace(model, held_out=["春秋春春", "秋"]))
    nats = -(3 * math.log(0.25) + 2 * math.log(0.75))
    bits = nats / math.log(2)
    assert scores["bits_per_byte"].value == pytest.approx(bits / 15)
    assert scores["perplexity"].value == pytest.approx(math.exp(nats / 5))


@pytest.mark.parametrize("start", ["", "§"])
@pytest.mark.parametrize("length", [1, 2, 19, 20, 39, 40, 41, 59, 60, 61, 400])
def test_every_token_is_scored_once_however_the_windows_fall(
    start: str, length: int
) -> None:
    subject = uniform(start)
    [text] = texts(length)
    windows = list(likelihood.windows(subject, text))
    scored = length if start else length - 1
    assert sum(window.new_tokens for window in windows) == scored
    assert sum(window.new_bytes for window in windows) == scored
    assert all(len(window.text) <= subject.context_length for window in windows)


def test_later_windows_bring_half_a_context_with_them() -> None:
    subject = uniform("§")
    [text] = texts(200)
    _, *later = likelihood.windows(subject, text)
    for window in later:
        context = len(window.text) - window.new_tokens
        assert context >= subject.context_length // 2 - 1


def by_word(text: str) -> list[TokenSpan]:
    """Return tokens of three letters, which depend on where their word begins."""
    tokens = list[TokenSpan]()
    start = 0
    for word in text.split(" "):
        for offset in range(0, len(word), 3):
            end = min(offset + 3, len(word))
            token = hash((word, offset))
            tokens.append(TokenSpan(token, start + offset, start + end))
        start += len(word) + 1
    return tokens


def test_windows_end_where_the_tokens_stay_the_same() -> None:
    """A tokenizer of whole words: no window may begin or end inside one."""
    subject = replace(unigram({"a": 1.0}), encode=by_word, context_length=12)
    text = " ".join("abcdefghijk"[: 1 + index % 9] for index in range(60))
    tokens = {span.token for span in by_word(text)}
    for window in likelihood.windows(subject, text):
        assert {span.token for span in by_word(window.text)} <= tokens


def test_a_model_that_looks_back_is_rewarded_for_it() -> None:
    """A model that copies the character two positions back, on text of period two:
    certain after the second.
    """

    def score(text: str) -> list[TokenLogprob]:
        certain = [TokenLogprob(character, 0.0) for character in text[2:]]
        return [TokenLogprob(text[1], math.log(0.5)), *certain]

    subject = replace(
        unigram({"a": 1.0}), score=score, encode=by_character, held_out=["abababab"]
    )
    expected = math.exp(math.log(2) / 7)
    assert measure(subject)["perplexity"].value == pytest.approx(expected)


def test_progress_reaches_the_end() -> None:
    shares = list[float]()
    subject = replace(uniform(), held_out=texts(5, 5, 5), listeners=[shares.append])
    likelihood.measure(subject)
    assert shares[-1] == 1
