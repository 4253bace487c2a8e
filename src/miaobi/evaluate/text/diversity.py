"""How varied the samples are, and how much each repeats itself.

    distinct-n = different n-grams / all n-grams, over all samples together   (Li et al. 2016, arXiv:1510.03055)
    repetition = 1 - different 4-grams / all 4-grams, inside one sample       (Welleck et al. 2020, arXiv:1908.04319)

An n-gram consists of words where spaces separate them, of characters in Chinese and
Japanese. distinct-n falls as text grows, so held-out text of the same size is measured
as well: the nearer, the better.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from miaobi.core.language import say
from miaobi.evaluate.score import Score, jackknife, mean_interval
from miaobi.evaluate.subject import SAMPLES
from miaobi.evaluate.text.subject import TextSubject, spaced

MODALITY = "text"
NEEDS = frozenset({SAMPLES})
REPETITION_SIZE = 4
"""Items of the n-grams that repetition counts."""


def measure(subject: TextSubject) -> list[Score]:
    texts = [sample.text for sample in subject.samples]
    by_word = spaced("".join(texts))
    samples = [pieces(text, by_word) for text in texts]
    held_out = baseline(subject, [len(items) for items in samples], by_word)
    scores = [_distinct_score(samples, held_out, n, by_word) for n in (1, 2, 3)]
    if any(len(items) >= REPETITION_SIZE for items in samples):
        scores.append(_repetition_score(samples, held_out, by_word, subject.seed))
    return scores


def pieces(text: str, by_word: bool) -> list[str]:
    """Return words and punctuation marks, or characters without white space."""
    if by_word:
        return re.findall(r"\w+|[^\w\s]", text.lower())
    return [character for character in text if not character.isspace()]


def ngrams(items: Sequence[str], n: int) -> list[tuple[str, ...]]:
    """Return all runs of `n` items, in order."""
    return [tuple(items[start : start + n]) for start in range(len(items) - n + 1)]


def distinct(samples: Sequence[Sequence[str]], n: int) -> float:
    """Return distinct-n over all samples; 0 where there is no n-gram."""
    grams = [gram for items in samples for gram in ngrams(items, n)]
    return len(set(grams)) / len(grams) if grams else 0.0


def repetition(items: Sequence[str]) -> float:
    """Return the repetition of a sample of at least four items."""
    grams = ngrams(items, REPETITION_SIZE)
    return 1 - len(set(grams)) / len(grams)


def baseline(
    subject: TextSubject, sizes: Sequence[int], by_word: bool
) -> list[list[str]]:
    """Return held-out passages cut to the samples' sizes; as many as there are."""
    return [
        pieces(text, by_word)[:size]
        for text, size in zip(subject.held_out, sizes, strict=False)
    ]


def _distinct_score(
    samples: Sequence[Sequence[str]],
    held_out: Sequence[Sequence[str]],
    n: int,
    by_word: bool,
) -> Score:
    def statistic(indices: list[int]) -> float:
        return distinct([samples[index] for index in indices], n)

    natural = distinct(held_out, n) if len(held_out) == len(samples) else None
    return Score(
        f"distinct_{n}",
        *jackknife(statistic, len(samples)),
        n=len(samples),
        better="higher",
        detail=_held_out_detail(natural)
        + _unit(by_word)
        + say("; leave-one-out interval", "；留一法区间"),
        label=say(f"Distinct {n}-grams", f"不同的 {n} 元组占比"),
    )


def _repetition_score(
    samples: Sequence[Sequence[str]],
    held_out: Sequence[Sequence[str]],
    by_word: bool,
    seed: int,
) -> Score:
    values = _repetitions(samples)
    natural = _repetitions(held_out)
    natural_mean = sum(natural) / len(natural) if natural else None
    return Score(
        "repetition",
        *mean_interval(values, seed),
        n=len(values),
        better="lower",
        detail=_held_out_detail(natural_mean)
        + _unit(by_word)
        + say(
            ", share of repeated 4-grams; samples resampled",
            "，重复的四元组占比；按样本重采样",
        ),
        label=say("Repetition within a sample", "样本内重复"),
    )


def _repetitions(samples: Sequence[Sequence[str]]) -> list[float]:
    return [repetition(items) for items in samples if len(items) >= REPETITION_SIZE]


def _held_out_detail(value: float | None) -> str:
    if value is None:
        return ""
    return say(
        f"held-out text of the same size: {value:.3f}; ",
        f"同样长度的留出文本：{value:.3f}；",
    )


def _unit(by_word: bool) -> str:
    return say("of words", "按词") if by_word else say("of characters", "按字")
