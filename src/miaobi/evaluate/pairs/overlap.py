"""How much of the reference a written target shares, beside what costs no model.

A memory answers with the target of the training source that is most alike: the cosine
of their counts of character trigrams, and within a language that is wanted. Where
source and target are one language, lead-1 answers with the first sentence.
chrF, ROUGE-L and the F1 of words are those of tune/text.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from typing import NamedTuple
from zlib import crc32

import numpy as np

from miaobi.core.language import say
from miaobi.data.text.pairs.languages import TAG
from miaobi.evaluate.pairs import Pair, PairSubject
from miaobi.evaluate.score import Score, bootstrap
from miaobi.tune.text.metrics import mean
from miaobi.tune.text.overlap import (
    chrf,
    chrf_counts,
    rouge_l,
    rouge_l_counts,
    words,
)

MODALITY = "pairs"
NEEDS = frozenset[str]()
SENTENCE = re.compile(r"(?<=[.!?。！？])\s*")
FEATURES = 1 << 14
"""Columns that character trigrams are hashed to."""


class Overlap(NamedTuple):
    """A metric of one answer and its reference."""

    name: str
    statistics: Callable[[str, str], np.ndarray]
    combine: Callable[[np.ndarray], np.ndarray]


def word_f1_counts(answer: str, reference: str) -> np.ndarray:
    """Return F1 of the words in [0, 1], and 1 (SQuAD, arXiv:1606.05250)."""
    ours, theirs = (
        Counter(words(answer.casefold())),
        Counter(words(reference.casefold())),
    )
    shared = (ours & theirs).total()
    return np.array([2 * shared / max(ours.total() + theirs.total(), 1), 1.0])


def exact_counts(answer: str, reference: str) -> np.ndarray:
    """Return 1 where the two are the same, and 1."""
    return np.array([float(answer.strip() == reference.strip()), 1.0])


OVERLAPS = (
    Overlap("chrf", chrf_counts, chrf),
    Overlap("rouge_l", rouge_l_counts, rouge_l),
    Overlap("token_f1", word_f1_counts, mean),
    Overlap("exact_match", exact_counts, mean),
)


def measure(subject: PairSubject) -> list[Score]:
    sources = [pair.source for pair in subject.held_out]
    references = [pair.target for pair in subject.held_out]
    writers = {
        "": (subject.answers, ""),
        "_memory": (
            remembered(subject.training, sources),
            say(", a memory", "（翻译记忆）"),
        ),
    }
    if not subject.translates:
        writers["_lead"] = (
            [lead(text) for text in sources],
            say(", lead-1", "（首句）"),
        )
    return [
        _score(overlap, suffix, label, answers, references, subject.seed)
        for overlap in OVERLAPS
        for suffix, (answers, label) in writers.items()
    ]


def _score(
    overlap: Overlap,
    suffix: str,
    label: str,
    answers: Sequence[str],
    references: Sequence[str],
    seed: int,
) -> Score:
    counts = np.stack(
        [
            overlap.statistics(answer, reference)
            for answer, reference in zip(answers, references, strict=True)
        ]
    )
    value = float(overlap.combine(counts.sum(0)))
    low, high = bootstrap(
        lambda rows: overlap.combine(counts[rows].sum(1)), len(counts), seed
    )
    return Score(
        overlap.name + suffix,
        value,
        min(low, value),
        max(high, value),
        n=len(counts),
        better="higher",
        detail=say(
            f"{len(counts)} held-out pairs, resampled",
            f"{len(counts)} 对留出文本，按对重采样",
        ),
        label=overlap.name + label,
    )


def lead(text: str) -> str:
    """Return the first sentence of a text."""
    return SENTENCE.split(text.strip(), maxsplit=1)[0]


def remembered(training: Sequence[Pair], sources: Sequence[str]) -> list[str]:
    """Return the target of the training source that is most alike, for each source."""
    tags = np.array([tag_of(pair.source) for pair in training])
    known = [trigrams(pair.source) for pair in training]
    rows = np.repeat(np.arange(len(known)), [len(columns) for columns in known])
    columns = np.concatenate(known)
    norms = np.array([np.linalg.norm(np.bincount(row)) for row in known])
    answers = list[str]()
    for source in sources:
        weights = np.bincount(trigrams(source), minlength=FEATURES)
        products = np.bincount(rows, weights[columns], minlength=len(known))
        likeness = np.where(tags == tag_of(source), products / norms, -1.0)
        answers.append(training[int(likeness.argmax())].target)
    return answers


def trigrams(text: str) -> np.ndarray:
    """Return the column of every trigram of characters, int64 [n]."""
    padded = f"  {TAG.sub('', text, count=1).casefold()} "
    pieces = [padded[start : start + 3] for start in range(len(padded) - 2)]
    return np.array([crc32(piece.encode()) % FEATURES for piece in pieces])


def tag_of(source: str) -> str:
    """Return the language that a source asks for; empty without one."""
    tag = TAG.match(source)
    return tag[1] if tag else ""
