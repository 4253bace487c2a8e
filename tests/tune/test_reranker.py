"""Reranking: ranks are those worked out by hand, the order is learned, and both shapes
of records are read.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.tune.encoders import base, examples, fit, make, metrics_of

from miaobi.core.errors import BadInput
from miaobi.data.text.shapes import Unusable
from miaobi.tune.guess import guess
from miaobi.tune.tasks import reranker as task

CONFIG = task.Config()
COLOURS = ("red", "blue", "green", "good")
LISTS = [
    {
        "query": f"where is the {word} ?",
        "positive": [f"the {word} room"],
        "negative": [f"the {other} room" for other in COLOURS if other != word],
    }
    for word in COLOURS
]
PAIRS = [
    {"query": row["query"], "passage": passage, "relevance": relevance}
    for row in LISTS
    for relevance, passages in ((1, row["positive"]), (0, row["negative"]))
    for passage in passages
]


@pytest.mark.parametrize("kind", ["bert", "llama"])
def test_the_order_is_learned(tmp_path: Path, kind: str) -> None:
    learner = make(task, CONFIG, base(tmp_path / kind, kind), LISTS)
    fit(learner, task, CONFIG, LISTS, steps=150)
    assert metrics_of(learner, task, CONFIG, LISTS) == {"ndcg@10": 1.0, "mrr": 1.0}
    passages = ["the blue room", "the red room", "the green room"]
    answer = learner.answer({"query": "where is the red ?", "passages": passages})
    assert answer["order"][0] == 1
    assert answer["scores"][1] == max(answer["scores"]) > 0.5


def test_lists_and_pairs_are_ranked_alike(tmp_path: Path) -> None:
    origin = base(tmp_path / "bert")
    by_lists = make(task, CONFIG, origin, LISTS)
    by_pairs = make(task, CONFIG, origin, PAIRS)
    assert metrics_of(by_pairs, task, CONFIG, PAIRS) == pytest.approx(
        metrics_of(by_lists, task, CONFIG, LISTS)
    )


def test_ranks_by_hand() -> None:
    scores = np.array([0.9, 0.8, 0.1, 0.5])
    relevance = np.array([0.0, 1.0, 2.0, 0.0])
    counts = task.ranking(scores, relevance)
    assert counts["mrr"].tolist() == [1 / 2, 1]
    gained = 1 / math.log2(3) + 3 / math.log2(5)
    best = 3 / math.log2(2) + 1 / math.log2(3)
    assert counts["ndcg@10"][0] == pytest.approx(gained / best)
    # Equal scores say nothing: the relevant passage comes last.
    equal = task.ranking(np.zeros(4), np.array([1.0, 0.0, 0.0, 0.0]))
    assert equal["mrr"].tolist() == [1 / 4, 1]
    # One kind of passages only cannot be ranked.
    assert task.ranking(scores, np.ones(4))["mrr"].tolist() == [0, 0]


def test_graded_relevance_is_scaled(tmp_path: Path) -> None:
    rows = [
        {"query": "red", "passage": f"the {word}", "relevance": grade}
        for grade, word in enumerate(COLOURS)
    ]
    learner = make(task, CONFIG, base(tmp_path / "bert"), rows)
    assert learner.largest == 3
    batch = learner.collate(
        [learner.encode(task.columns(row, CONFIG), 0) for row in rows]
    )
    assert batch["relevance"].tolist() == [0, 1, 2, 3]
    logits = learner.logits(batch).detach()
    target = batch["relevance"] / 3
    expected = -(
        target * logits.sigmoid().log() + (1 - target) * (-logits).sigmoid().log()
    )
    assert learner.loss(batch).total.item() == pytest.approx(
        float(expected.sum()), rel=1e-5
    )


@pytest.mark.parametrize("rows", [LISTS, PAIRS], ids=["lists", "pairs"])
def test_the_task_is_recognised(tmp_path: Path, rows: list[dict[str, Any]]) -> None:
    path = tmp_path / "ranking.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    assert guess(str(path), "").task == "reranker"


@pytest.mark.parametrize(
    ("record", "problem"),
    [
        ({"passage": "a", "relevance": 1}, "no query"),
        ({"query": "a", "negative": ["b"]}, "no relevant passage"),
        ({"query": "a", "passage": "b"}, "relevance is None"),
        ({"query": "a", "passage": "b", "relevance": -1}, "relevance is -1"),
        ({"query": "a", "passage": "b", "relevance": "much"}, "relevance is 'much'"),
    ],
)
def test_records_that_cannot_be_used(record: dict[str, Any], problem: str) -> None:
    with pytest.raises(Unusable, match=problem):
        task.columns(record, CONFIG)


def test_nothing_to_rank() -> None:
    rows = [{"query": "a", "positive": ["b"]}, {"query": "c", "positive": ["d"]}]
    with pytest.raises(BadInput, match="nothing to rank"):
        task.survey(examples(task, CONFIG, rows), CONFIG)
