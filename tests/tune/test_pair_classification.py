"""Pair classification: both texts are read, and the public sets' records as they are."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tests.tune.encoders import base, fit, make, metrics_of

from miaobi.data.text.shapes import Unusable
from miaobi.tune.guess import guess
from miaobi.tune.tasks import pair_classification as task

CONFIG = task.Config()
PAIRS = [
    {
        "text": first,
        "text_pair": second,
        "label": "same" if first == second else "other",
    }
    for first in ("good room", "red cat", "the dog")
    for second in ("good room", "red cat", "the dog")
]


@pytest.mark.parametrize("kind", ["bert", "llama"])
def test_both_texts_are_read(tmp_path: Path, kind: str) -> None:
    learner = make(task, CONFIG, base(tmp_path / kind, kind), PAIRS)
    fit(learner, task, CONFIG, PAIRS, steps=150)
    metrics = metrics_of(learner, task, CONFIG, PAIRS)
    assert metrics["accuracy"] == metrics["f1"] == 1.0
    answer = learner.answer({"text": "red cat", "text_pair": "the dog"})
    assert answer["label"] == "other"


@pytest.mark.parametrize(
    ("record", "columns"),
    [
        (  # AFQMC
            {"sentence1": "还款期是什么时候", "sentence2": "几号还款", "label": "1"},
            ("还款期是什么时候", "几号还款", "1"),
        ),
        (  # OCNLI
            {
                "level": "medium",
                "sentence1": "身上裹一件工厂发的棉大衣",
                "sentence2": "身上至少一件衣服",
                "label": "entailment",
                "label0": "entailment",
                "genre": "lit",
                "id": 0,
            },
            ("身上裹一件工厂发的棉大衣", "身上至少一件衣服", "entailment"),
        ),
        (  # SNLI
            {"premise": "A man eats.", "hypothesis": "He sleeps.", "label": 2},
            ("A man eats.", "He sleeps.", "2"),
        ),
        (  # QQP
            {"question1": "How?", "question2": "Why?", "label": 0},
            ("How?", "Why?", "0"),
        ),
    ],
)
def test_records_of_public_sets(
    tmp_path: Path, record: dict[str, Any], columns: tuple[str, str, str]
) -> None:
    result = task.columns(record, CONFIG)
    assert (result["text"], result["text_pair"], result["label"]) == columns
    path = tmp_path / "train.json"
    path.write_text("\n".join([json.dumps(record)] * 3), encoding="utf-8")
    assert guess(str(path), "").task == "pair-classification"


@pytest.mark.parametrize(
    ("record", "problem"),
    [
        ({"text": "a", "label": "x"}, "no second text"),
        ({"text_pair": "a", "label": "x"}, "no first text"),
        ({"text": " ", "text_pair": "a", "label": "x"}, "no first text"),
        ({"text": "a", "text_pair": "b"}, "no label"),
        ({"sentence1": "a", "sentence2": "b", "label": "-"}, "no label"),
    ],
)
def test_records_that_cannot_be_used(record: dict[str, Any], problem: str) -> None:
    with pytest.raises(Unusable, match=problem):
        task.columns(record, CONFIG)
