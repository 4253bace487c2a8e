"""How varied the samples are, and how much each repeats itself.

    distinct-n = different n-grams / all n-grams, over all samples together   (Li et al. 2016, arXiv:1510.03055)
    repetition = 1 - different 4-grams / all 4-grams, inside one sample       (Welleck et al. 2020, arXiv:1908.04319)

An n-gram is of words where spaces part them, of characters in Chinese and Japanese.
distinct-n falls as text grows, so held-out text of the same size stands beside it: the
nearer, the better.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from miaobi.core.language import say
from miaobi.evaluate.score import Score, jackknife, mean_interval
from miaobi.evaluate.text.subject import SAMPLES, Subject, spaced

MODALITY = "text"
NEEDS = frozenset({SAMPLES})
REPEATED = 4


def measure(subject: Subject) -> list[Score]:
    texts = [sample.text for sample in subject.samples]
    by_word = spaced("".join(texts))
    written = [pieces(text, by_word) for text in texts]
    held = yardstick(subject, [len(item) for item in written], by_word)
    scores = [_distinct(written, held, size, by_word) for size in (1, 2, 3)]
    long_enough = [item for item in written if len(item) >= REPEATED]
    if long_enough:
        value, low, high = mean_interval(
            [repetition(item) for item in long_enough], subject.seed
        )
        scores.append(
            Score(
                "repetition",
                value,
                low,
                high,
                len(long_enough),
                "",
                "lower",
                _beside(_mean_repetition(held))
                + _unit(by_word)
                + say(
                    ", share of repeated 4-grams; samples resampled",
                    "，重复的四元组占比；按样本重采样",
                ),
                say("Repetition within a sample", "样本内重复"),
            )
        )
    return scores


def pieces(text: str, by_word: bool) -> list[str]:
    """Words and punctuation marks, or characters without white space."""
    return (
        re.findall(r"\w+|[^\w\s]", text.lower())
        if by_word
        else [item for item in text if not item.isspace()]
    )


def ngrams(items: Sequence[str], size: int) -> list[tuple[str, ...]]:
    return [tuple(items[at : at + size]) for at in range(len(items) - size + 1)]


def distinct(written: Sequence[Sequence[str]], size: int) -> float:
    grams = [gram for items in written for gram in ngrams(items, size)]
    return len(set(grams)) / len(grams) if grams else 0.0


def repetition(items: Sequence[str]) -> float:
    grams = ngrams(items, REPEATED)
    return 1 - len(set(grams)) / len(grams)


def yardstick(subject: Subject, sizes: Sequence[int], by_word: bool) -> list[list[str]]:
    """Held-out passages cut to the samples' lengths; as many as there are."""
    return [
        pieces(text, by_word)[:size]
        for text, size in zip(subject.held_out, sizes, strict=False)
    ]


def _distinct(
    written: Sequence[Sequence[str]],
    held: Sequence[Sequence[str]],
    size: int,
    by_word: bool,
) -> Score:
    value, low, high = jackknife(
        lambda chosen: distinct([written[place] for place in chosen], size),
        len(written),
    )
    beside = distinct(held, size) if len(held) == len(written) else None
    return Score(
        f"distinct_{size}",
        value,
        low,
        high,
        len(written),
        "",
        "higher",
        _beside(beside)
        + _unit(by_word)
        + say("; leave-one-out interval", "；留一法区间"),
        say(f"Distinct {size}-grams", f"不同的 {size} 元组占比"),
    )


def _mean_repetition(held: Sequence[Sequence[str]]) -> float | None:
    values = [repetition(item) for item in held if len(item) >= REPEATED]
    return sum(values) / len(values) if values else None


def _beside(value: float | None) -> str:
    return (
        ""
        if value is None
        else say(
            f"held-out text of the same size: {value:.3f}; ",
            f"同样长度的留出文本：{value:.3f}；",
        )
    )


def _unit(by_word: bool) -> str:
    return say("of words", "按词") if by_word else say("of characters", "按字")
