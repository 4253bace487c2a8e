"""How much of a reference text an answer shares: chrF, BLEU and ROUGE-L, as sums over examples.

chrF     Popović 2015 (aclanthology.org/W15-3049): F_β over character n-grams of 1 to 6, β = 2, spaces left out
BLEU     Papineni et al. 2002 (aclanthology.org/P02-1040): geometric mean of the n-gram precisions of 1 to 4, with brevity penalty
ROUGE-L  Lin 2004 (aclanthology.org/W04-1013): F_1 of the longest common subsequence of words, averaged over examples

chrF and BLEU follow sacreBLEU 2 (Post 2018, arXiv:1804.08771): statistics are added up
over examples first; an n-gram precision of BLEU without a match is smoothed
exponentially. Words are those of its tokenizer 13a, with each Chinese character a word
of its own (its tokenizer zh). All three lie in [0, 100].
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

import numpy as np

from miaobi.tune.learner import Metric

CHARACTERS, WORDS, BETA = 6, 4, 2
CHINESE = re.compile(
    r"([\u2e80-\u2fff\u3000-\u303f\u31a0-\u31bf\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\uff00-\uffef\U00020000-\U0003ffff])"
)
ENTITIES = {"&quot;": '"', "&amp;": "&", "&lt;": "<", "&gt;": ">"}
MARKS = (
    (re.compile(r"([\{-\~\[-\` -\&\(-\+\:-\@\/])"), r" \1 "),
    (re.compile(r"([^0-9])([\.,])"), r"\1 \2 "),
    (re.compile(r"([\.,])([^0-9])"), r" \1 \2"),
    (re.compile(r"([0-9])(-)"), r"\1 \2 "),
)


def words(text: str) -> list[str]:
    """Words and marks of a text, each Chinese character by itself."""
    for written, meant in ENTITIES.items():
        text = text.replace(written, meant)
    text = " " + CHINESE.sub(r" \1 ", text) + " "
    for pattern, spaced in MARKS:
        text = pattern.sub(spaced, text)
    return text.split()


def _shared(
    answer: Sequence[str] | str, reference: Sequence[str] | str, order: int
) -> tuple[int, int, int]:
    """n-grams of the answer, of the reference, and those in both (each as often as in
    the rarer side).
    """
    mine, theirs = (
        Counter(tuple(side[at : at + order]) for at in range(len(side) - order + 1))
        for side in (answer, reference)
    )
    return mine.total(), theirs.total(), (mine & theirs).total()


def chrf_counts(answer: str, reference: str) -> np.ndarray:
    """[18]: for n of 1 to 6 the n-grams of the answer, of the reference, and those in both."""
    answer, reference = "".join(answer.split()), "".join(reference.split())
    return np.array(
        [
            count
            for order in range(1, CHARACTERS + 1)
            for count in _shared(answer, reference, order)
        ],
        dtype=np.float64,
    )


def chrf(counts: np.ndarray) -> np.ndarray:
    """counts [..., 18] -> [...]. Orders that one side is too short for are left out of the mean."""
    answer, reference, both = (counts[..., place::3] for place in range(3))
    there = (answer > 0) & (reference > 0)
    orders = np.maximum(there.sum(-1), 1)
    precision = (
        np.divide(both, answer, out=np.zeros_like(both), where=there).sum(-1) / orders
    )
    recall = (
        np.divide(both, reference, out=np.zeros_like(both), where=there).sum(-1)
        / orders
    )
    below = BETA**2 * precision + recall
    return 100 * np.divide(
        (1 + BETA**2) * precision * recall,
        below,
        out=np.zeros_like(below),
        where=below > 0,
    )


def bleu_counts(answer: str, reference: str) -> np.ndarray:
    """[10]: words of the answer and of the reference; for n of 1 to 4 the n-grams of
    the answer, and those also in the reference.
    """
    mine, theirs = words(answer), words(reference)
    shared = [_shared(mine, theirs, order) for order in range(1, WORDS + 1)]
    return np.array(
        [
            len(mine),
            len(theirs),
            *(all_ for all_, _, _ in shared),
            *(both for _, _, both in shared),
        ],
        dtype=np.float64,
    )


def bleu(counts: np.ndarray) -> np.ndarray:
    """counts [..., 10] -> [...]."""
    mine, theirs, total, both = (
        counts[..., 0],
        counts[..., 1],
        counts[..., 2:6],
        counts[..., 6:],
    )
    missed = (both == 0) & (total > 0)
    smoothed = np.where(missed, 0.5 ** np.cumsum(missed, -1), both)
    precision = np.divide(smoothed, total, out=np.zeros_like(smoothed), where=total > 0)
    usable = (precision > 0).all(-1) & (both[..., 0] > 0)
    mean = np.exp(np.log(np.where(precision > 0, precision, 1)).mean(-1))
    brevity = np.exp(
        np.minimum(
            0, 1 - np.divide(theirs, mine, out=np.ones_like(mine), where=mine > 0)
        )
    )
    return np.where(usable, 100 * brevity * mean, 0.0)


def rouge_l_counts(answer: str, reference: str) -> np.ndarray:
    """[2]: the example's F_1 in [0, 1], and 1."""
    mine, theirs = words(answer.casefold()), words(reference.casefold())
    common = longest_common_subsequence(mine, theirs)
    return np.array([2 * common / (len(mine) + len(theirs)) if common else 0.0, 1.0])


def longest_common_subsequence(one: Sequence[str], other: Sequence[str]) -> int:
    row = [0] * (len(other) + 1)
    for left in one:
        above_left = 0
        for place, right in enumerate(other, 1):
            above_left, row[place] = (
                row[place],
                above_left + 1 if left == right else max(row[place], row[place - 1]),
            )
    return row[-1]


COUNTS = {"chrf": chrf_counts, "bleu": bleu_counts, "rouge_l": rouge_l_counts}
METRICS = {
    "chrf": Metric("chrf", chrf, "higher", ("chrF", "chrF")),
    "bleu": Metric("bleu", bleu, "higher", ("BLEU", "BLEU")),
    "rouge_l": Metric(
        "rouge_l",
        lambda counts: 100 * counts[..., 0] / counts[..., 1],
        "higher",
        ("ROUGE-L", "ROUGE-L"),
    ),
}


def counts(answer: str, reference: str) -> dict[str, np.ndarray]:
    """What one example adds to each of METRICS."""
    return {name: count(answer, reference) for name, count in COUNTS.items()}
