"""How much of a reference text an answer shares: chrF, BLEU and ROUGE-L, as sums over
examples.

chrF     Popović 2015 (aclanthology.org/W15-3049): F_β over character n-grams of 1 to 6,
         β = 2, spaces left out
BLEU     Papineni et al. 2002 (aclanthology.org/P02-1040): geometric mean of the n-gram
         precisions of 1 to 4, with brevity penalty
ROUGE-L  Lin 2004 (aclanthology.org/W04-1013): F_1 of the longest common subsequence of
         words, averaged over examples

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

CHRF_ORDERS = range(1, 7)
BLEU_ORDERS = range(1, 5)
BETA = 2
CHINESE = re.compile(
    "(["
    "\u2e80-\u2fff"
    "\u3000-\u303f"
    "\u31a0-\u31bf"
    "\u3400-\u4dbf"
    "\u4e00-\u9fff"
    "\uf900-\ufaff"
    "\uff00-\uffef"
    "\U00020000-\U0003ffff"
    "])"
)
ENTITIES = {"&quot;": '"', "&amp;": "&", "&lt;": "<", "&gt;": ">"}
MARKS = (
    (re.compile(r"([\{-\~\[-\` -\&\(-\+\:-\@\/])"), r" \1 "),
    (re.compile(r"([^0-9])([\.,])"), r"\1 \2 "),
    (re.compile(r"([\.,])([^0-9])"), r" \1 \2"),
    (re.compile(r"([0-9])(-)"), r"\1 \2 "),
)


def words(text: str) -> list[str]:
    """Return the words and marks of a text, each Chinese character by itself."""
    for entity, character in ENTITIES.items():
        text = text.replace(entity, character)
    text = " " + CHINESE.sub(r" \1 ", text) + " "
    for pattern, replacement in MARKS:
        text = pattern.sub(replacement, text)
    return text.split()


def _ngrams(sequence: Sequence[str], order: int) -> Counter[tuple[str, ...]]:
    starts = range(len(sequence) - order + 1)
    return Counter(tuple(sequence[start : start + order]) for start in starts)


def _ngram_counts(
    answer: Sequence[str], reference: Sequence[str], order: int
) -> tuple[int, int, int]:
    """Return the n-grams of the answer, of the reference, and those in both.

    Those in both count as often as in the rarer side.
    """
    of_answer = _ngrams(answer, order)
    of_reference = _ngrams(reference, order)
    of_both = of_answer & of_reference
    return (
        of_answer.total(),
        of_reference.total(),
        of_both.total(),
    )


def _quotient(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    """Return numerator / denominator, 0 where the denominator is not above 0."""
    result = np.zeros_like(numerator)
    np.divide(numerator, denominator, out=result, where=denominator > 0)
    return result


def chrf_counts(answer: str, reference: str) -> np.ndarray:
    """Return for n of 1 to 6 the n-grams of the answer, of the reference, and of both.

    Float64 [18].
    """
    answer = "".join(answer.split())
    reference = "".join(reference.split())
    counts = list[int]()
    for order in CHRF_ORDERS:
        counts += _ngram_counts(answer, reference, order)
    return np.array(counts, dtype=np.float64)


def chrf(counts: np.ndarray) -> np.ndarray:
    """Return chrF [...] of counts [..., 18].

    Orders that one side is too short for are left out of the mean.
    """
    answer = counts[..., 0::3]
    reference = counts[..., 1::3]
    both = counts[..., 2::3]
    usable = (answer > 0) & (reference > 0)
    orders = np.maximum(usable.sum(-1), 1)
    usable_both = np.where(usable, both, 0.0)
    precision = _quotient(usable_both, answer).sum(-1) / orders
    recall = _quotient(usable_both, reference).sum(-1) / orders
    weight = BETA**2
    numerator = (1 + weight) * precision * recall
    denominator = weight * precision + recall
    return 100 * _quotient(numerator, denominator)


def bleu_counts(answer: str, reference: str) -> np.ndarray:
    """Return the words of the answer and of the reference, then for n of 1 to 4 the
    n-grams of the answer, then those also in the reference.

    Float64 [10].
    """
    answer_words = words(answer)
    reference_words = words(reference)
    total = list[int]()
    both = list[int]()
    for order in BLEU_ORDERS:
        of_answer, _, of_both = _ngram_counts(answer_words, reference_words, order)
        total.append(of_answer)
        both.append(of_both)
    lengths = [len(answer_words), len(reference_words)]
    return np.array([*lengths, *total, *both], dtype=np.float64)


def bleu(counts: np.ndarray) -> np.ndarray:
    """Return BLEU [...] of counts [..., 10]."""
    answer_words = counts[..., 0]
    reference_words = counts[..., 1]
    total = counts[..., 2:6]
    both = counts[..., 6:]
    missed = (both == 0) & (total > 0)
    smoothed = np.where(missed, 0.5 ** np.cumsum(missed, -1), both)
    precision = _quotient(smoothed, total)
    positive = precision > 0
    usable = positive.all(-1) & (both[..., 0] > 0)
    logarithms = np.log(np.where(positive, precision, 1))
    mean = np.exp(logarithms.mean(-1))
    ones = np.ones_like(answer_words)
    ratio = np.divide(reference_words, answer_words, out=ones, where=answer_words > 0)
    brevity = np.exp(np.minimum(0, 1 - ratio))
    return np.where(usable, 100 * brevity * mean, 0.0)


def rouge_l_counts(answer: str, reference: str) -> np.ndarray:
    """Return the example's F_1 in [0, 1], and 1. Float64 [2]."""
    answer_words = words(answer.casefold())
    reference_words = words(reference.casefold())
    common = longest_common_subsequence(answer_words, reference_words)
    f1 = 0.0
    if common:
        f1 = 2 * common / (len(answer_words) + len(reference_words))
    return np.array([f1, 1.0])


def rouge_l(counts: np.ndarray) -> np.ndarray:
    """Return ROUGE-L [...] of counts [..., 2]."""
    mean: np.ndarray = 100 * counts[..., 0] / counts[..., 1]
    return mean


def longest_common_subsequence(one: Sequence[str], other: Sequence[str]) -> int:
    """Return its length."""
    row = [0] * (len(other) + 1)
    """By prefix of `other`, the length for the words of `one` so far."""
    for left in one:
        diagonal = 0
        for column, right in enumerate(other, 1):
            above = row[column]
            if left == right:
                row[column] = diagonal + 1
            else:
                row[column] = max(above, row[column - 1])
            diagonal = above
    return row[-1]


COUNTS = {"chrf": chrf_counts, "bleu": bleu_counts, "rouge_l": rouge_l_counts}
METRICS = {
    "chrf": Metric("chrf", chrf, "higher", ("chrF", "chrF")),
    "bleu": Metric("bleu", bleu, "higher", ("BLEU", "BLEU")),
    "rouge_l": Metric("rouge_l", rouge_l, "higher", ("ROUGE-L", "ROUGE-L")),
}


def counts(answer: str, reference: str) -> dict[str, np.ndarray]:
    """Return what one example adds to each of METRICS."""
    return {name: count(answer, reference) for name, count in COUNTS.items()}
