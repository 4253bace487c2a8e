"""Embeddings: the loss and the ranks are those worked out by hand, pooling looks at no
padding, and pairs are learned on any base.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.engines.small import small_bundle
from tests.tune.encoders import base, examples, fit, make, metrics_of
from torch.nn import functional as F

from miaobi.core import config
from miaobi.core.errors import BadInput
from miaobi.data.text.shapes import Unusable
from miaobi.models.base import Base, open_base
from miaobi.tune.tasks import embedding as task

PAIRS = [
    {"text": f"what is {word} ?", "positive": f"the {other} room"}
    for word, other in (
        ("good", "red"),
        ("bad", "blue"),
        ("fine", "green"),
        ("poor", "nice"),
    )
]
CONFIG = task.Config()


@pytest.fixture(params=["bert", "llama", "gpt"])
def origin(request: pytest.FixtureRequest, tmp_path: Path) -> Base:
    return (
        open_base(str(small_bundle(tmp_path / "gpt")))
        if request.param == "gpt"
        else base(tmp_path / request.param, request.param)
    )


def test_it_learns_on_any_base_and_gives_unit_vectors(origin: Base) -> None:
    learner = make(task, CONFIG, origin, PAIRS)
    fit(learner, task, CONFIG, PAIRS)
    assert metrics_of(learner, task, CONFIG, PAIRS) == {
        "recall@1": 1.0,
        "recall@10": 1.0,
        "mrr": 1.0,
    }
    vector = learner.answer({"text": "what is good ?"})
    assert sum(value * value for value in vector) == pytest.approx(1, abs=1e-5)
    own, other = (
        sum(a * b for a, b in zip(vector, learner.answer({"text": text})))
        for text in ("the red room", "the blue room")
    )
    assert own > other


@pytest.mark.parametrize(
    ("kind", "pooling"),
    [("bert", "mean"), ("bert", "first"), ("llama", "last"), ("bert", "pooler")],
)
def test_a_text_alone_and_among_longer_ones_is_the_same(
    kind: str, pooling: Any, tmp_path: Path
) -> None:
    learner = make(
        task, task.Config(pooling=pooling), base(tmp_path / "b", kind), PAIRS
    ).eval()
    alone = learner.vectors(learner.collate([learner.encode({"text": "good room"}, 0)]))
    among = learner.vectors(
        learner.collate(
            [
                learner.encode({"text": text}, 0)
                for text in ("good room", "what is the good red room in Paris ? " * 3)
            ]
        )
    )
    torch.testing.assert_close(alone[0], among[0], rtol=1e-4, atol=1e-5)


def test_pooling_is_what_its_name_says(tmp_path: Path) -> None:
    origin = base(tmp_path / "b", "llama")
    learner = make(task, CONFIG, origin, PAIRS).eval()
    assert learner.pooling == "last"  # a causal model's last token has seen the others
    features = learner.encode({"text": "good room"}, 0)
    hidden = learner.net(
        input_ids=torch.from_numpy(features["ids"])[None]
    ).last_hidden_state[0]
    torch.testing.assert_close(
        learner.vectors(learner.collate([features]))[0],
        F.normalize(hidden[-1], dim=0),
        rtol=1e-4,
        atol=1e-5,
    )
    assert make(task, CONFIG, base(tmp_path / "c"), PAIRS).pooling == "mean"


def test_the_loss_by_hand_with_wrong_partners_and_twins(tmp_path: Path) -> None:
    records = [
        {"text": "good", "positive": "red room", "negative": "blue room"},
        {"text": "bad", "positive": "green room", "negatives": ["red", "cat dog"]},
        {"text": "fine", "positive": "red  room"},
    ]  # the same text as the first one's partner
    learner = make(task, CONFIG, base(tmp_path / "b"), records).eval()
    batch = learner.collate(
        [learner.encode(task.columns(record, CONFIG), 0) for record in records]
    )
    vectors = learner.vectors(batch).detach()
    texts, candidates = vectors[:3], vectors[3:]
    assert len(candidates) == 6
    barred = {(0, 2), (2, 0)}
    total = 0.0
    for i in range(3):
        scores = [
            float(texts[i] @ candidates[j]) / 0.05
            for j in range(6)
            if (i, j) not in barred
        ]
        total += (
            math.log(sum(map(math.exp, scores)))
            - float(texts[i] @ candidates[i]) / 0.05
        )
    loss = learner.loss(batch)
    assert loss.count == 3 and loss.total.item() == pytest.approx(total, rel=1e-4)


def test_ranks_are_over_the_whole_set_whatever_the_batches(tmp_path: Path) -> None:
    records = [*PAIRS, {"text": "what is awful ?", "positive": "the red room"}]
    learner = make(task, CONFIG, base(tmp_path / "b"), records).eval()
    features = [learner.encode(task.columns(record, CONFIG), 0) for record in records]
    with torch.no_grad():
        one = learner.evaluate_all([learner.collate(features)])
        several = learner.evaluate_all(
            [
                learner.collate(features[at : at + 2])
                for at in range(0, len(features), 2)
            ]
        )
        u = learner.vectors(learner.collate(features))[:5].numpy()
        v = learner.vectors(learner.collate(features))[
            5:9
        ].numpy()  # the four different partners
    right = [0, 1, 2, 3, 0]
    expected = [
        1 + int((u[i] @ v.T > u[i] @ v[right[i]] + 1e-7).sum()) for i in range(5)
    ]
    assert (
        [item.answer["rank"] for item in one]
        == [item.answer["rank"] for item in several]
        == expected
    )
    np.testing.assert_allclose(
        [item.loss for item in one], [item.loss for item in several], rtol=1e-4
    )
    assert [item.counts["mrr"][0] for item in one] == pytest.approx(
        [1 / rank for rank in expected]
    )


@pytest.mark.parametrize(
    ("record", "what"),
    [
        ({"text": "x"}, "no positive"),
        ({"positive": "x"}, "no text"),
        ({"text": "x", "positive": 3}, "no positive"),
    ],
)
def test_records_that_cannot_be_used(record: dict[str, Any], what: str) -> None:
    with pytest.raises(Unusable, match=what):
        task.columns(record, CONFIG)


def test_names_people_use_and_data_that_cannot_teach() -> None:
    assert task.columns({"query": "a", "answer": "b", "negatives": ["c"]}, CONFIG) == {
        "text": "a",
        "positive": "b",
        "negatives": ["c"],
    }
    with pytest.raises(BadInput, match="Every text has the same partner"):
        task.survey(
            examples(
                task,
                CONFIG,
                [{"text": "a", "positive": "x"}, {"text": "b", "positive": "x"}],
            ),
            CONFIG,
        )
    with pytest.raises(BadInput, match="temperature is 0"):
        config.make(task.Config, {"head.temperature": 0}, "head.")
