"""How often a hidden token is found, beside what its two neighbours alone say.

The trigram answers with the token that stood most often between these two neighbours
in the training text; where they never met, behind the one in front; else the commonest.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import numpy as np

from miaobi.core.language import say
from miaobi.evaluate.fills import FillSubject, Hidden
from miaobi.evaluate.score import Score, ratio_interval

MODALITY = "fills"
NEEDS = frozenset[str]()
TOP = 5


def measure(subject: FillSubject) -> list[Score]:
    ranks = list[int]()
    for number, question in enumerate(subject.questions, 1):
        ranks.append(subject.rank(question))
        subject.progress(number / len(subject.questions))
    found = np.array(ranks)
    guesses = trigram(subject.training, subject.questions)
    truth = [question.ids[question.position] for question in subject.questions]
    right = np.array(guesses) == np.array(truth)
    rows = {
        "masked_accuracy": (found == 0, say("Hidden words found", "填对的词")),
        "masked_top5": (
            found < TOP,
            say("Hidden words among the first five", "前五名中有正确的词"),
        ),
        "masked_accuracy_trigram": (
            right,
            say("The same, a trigram", "三元模型的同一指标"),
        ),
    }
    detail = say(
        f"{len(truth):,} words of held-out texts, hidden one at a time; documents resampled",
        f"留出文本中的 {len(truth):,} 个词，每次遮盖一个；按文档重采样",
    )
    return [
        _score(name, values, label, detail, subject)
        for name, (values, label) in rows.items()
    ]


def _score(
    name: str, right: np.ndarray, label: str, detail: str, subject: FillSubject
) -> Score:
    sums = defaultdict[int, float](float)
    counts = defaultdict[int, float](float)
    for question, value in zip(subject.questions, right.tolist(), strict=True):
        sums[question.document] += value
        counts[question.document] += 1
    interval = ratio_interval(list(sums.values()), list(counts.values()), subject.seed)
    return Score(
        name,
        *interval,
        n=len(sums),
        better="higher",
        detail=detail,
        label=label,
    )


def trigram(training: np.ndarray, questions: Sequence[Hidden]) -> list[int]:
    """Return what the neighbours of each hidden token say."""
    left, middle, right = training[:-2], training[1:-1], training[2:]
    commonest = int(np.bincount(training).argmax())
    guesses = list[int]()
    for question in questions:
        before, after = (question.ids[question.position + step] for step in (-1, 1))
        behind = left == before
        between = middle[behind & (right == after)]
        if not len(between):
            between = middle[behind]
        guesses.append(
            int(np.bincount(between).argmax()) if len(between) else commonest
        )
    return guesses
