"""What every registered metric keeps: a value inside its interval, the sample size, the
same again with the same seed.
"""

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.evaluate import image_models
from tests.evaluate.audio import sounds
from tests.evaluate.text_models import Lengths, unigram

from miaobi.core.config import plain
from miaobi.evaluate import metrics
from miaobi.evaluate.fills import FillSubject, Hidden
from miaobi.evaluate.pairs import Pair, PairSubject
from miaobi.evaluate.subject import (
    BOUND,
    CLASSES,
    FILLS,
    HEARING,
    HELD_OUT,
    LIKELIHOOD,
    RECONSTRUCTION,
    REFERENCE,
    SAMPLES,
    TRAINING,
    VOICE,
)
from miaobi.evaluate.text.subject import Completer, TextSubject

TEXTS = [
    "the cat sat on the mat",
    "a dog ran over the hill",
    "rain falls on the old roof",
    "春眠不觉晓处处闻啼鸟",
    "no one is awake to hear it",
    "he said that she had gone",
    "the sea was calm that day",
    "we walked home in the dark",
    "and then it was night",
    "cat = the(dog)",
]
ONLY_SAMPLES: dict[str, dict[str, Any]] = {
    "text": {"score": None, "held_out": (), "training": None, "net": None},
    "image": {"net": None, "held_out": None, "training": None},
    "fills": {},
    "pairs": {},
    "audio": {"recorded": None, "voice": None, "hear": None},
}
"""Changes that leave a subject nothing but its samples."""


def text_subject(folder: Path) -> TextSubject:
    training = folder / "training.txt"
    training.write_text("the cat sat on the hill\nthe sea was dark", encoding="utf-8")
    letters = sorted(set("".join(TEXTS)))
    return replace(
        unigram({letter: 1 / len(letters) for letter in letters}),
        held_out=TEXTS,
        net=Lengths(),
        training=training,
        count=9,
        max_new_tokens=30,
        completer=Completer(
            lambda before, behind: "cat",
            np.array(list(map(ord, TEXTS[0]))),
            lambda text: list(map(ord, text)),
            lambda ids: "".join(map(chr, ids)),
        ),
    )


def fill_subject(folder: Path) -> FillSubject:
    """Numbers that count upwards, by a model that is right about the even ones."""
    questions = [Hidden(list(range(n, n + 6)), 2, n) for n in range(9)]
    return FillSubject(
        name="counting",
        questions=questions,
        rank=lambda question: question.document % 2,
        training=np.arange(40),
    )


def pair_subject(folder: Path) -> PairSubject:
    """A model that repeats what it is given."""
    training = [Pair(text, text.title()) for text in TEXTS]
    return PairSubject(
        name="echo",
        write=lambda source: source,
        held_out=training[:5],
        training=training,
        translates=False,
    )


SUBJECTS: dict[str, Callable[[Path], Any]] = {
    "text": text_subject,
    "image": lambda folder: image_models.subject(),
    "fills": fill_subject,
    "pairs": pair_subject,
    "audio": lambda folder: sounds.subject(),
}
"""A subject that lacks nothing, by modality."""


@pytest.fixture(params=metrics.names())
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def subject(name: str, tmp_path: Path) -> Any:
    return SUBJECTS[metrics.get(name).MODALITY](tmp_path)


def test_scores_are_whole(name: str, subject: Any) -> None:
    scores = metrics.get(name).measure(subject)
    assert scores
    for score in scores:
        assert math.isfinite(score.value)
        assert score.low <= score.value <= score.high
        assert score.n > 0
        assert score.label
        assert score.detail
        assert json.loads(json.dumps(plain(score)))["name"] == score.name
    assert len({score.name for score in scores}) == len(scores)


def test_same_seed_same_scores(name: str, subject: Any) -> None:
    metric = metrics.get(name)
    assert metric.measure(replace(subject)) == metric.measure(replace(subject))


def test_it_names_its_needs_and_is_skipped_without(name: str, subject: Any) -> None:
    metric = metrics.get(name)
    assert metric.NEEDS <= {
        LIKELIHOOD,
        HELD_OUT,
        TRAINING,
        SAMPLES,
        REFERENCE,
        BOUND,
        RECONSTRUCTION,
        CLASSES,
        FILLS,
        VOICE,
        HEARING,
    }
    assert not subject.lacks(metric.NEEDS)
    bare = replace(subject, **ONLY_SAMPLES[metric.MODALITY])
    assert bool(bare.lacks(metric.NEEDS)) == bool(metric.NEEDS - {SAMPLES})


def test_no_two_metrics_of_a_modality_share_a_name(tmp_path: Path) -> None:
    for modality, subject_of in SUBJECTS.items():
        whole = subject_of(tmp_path)
        names = [
            score.name
            for name in metrics.names()
            if metrics.get(name).MODALITY == modality
            for score in metrics.get(name).measure(whole)
        ]
        assert len(set(names)) == len(names)
