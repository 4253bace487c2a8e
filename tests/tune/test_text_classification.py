"""Text classification: the loss is Transformers' own, metrics are sklearn's, and what
cannot teach is refused.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import pearsonr
from sklearn.metrics import f1_score
from tests.engines.small import small_bundle
from tests.tune.encoders import base, examples, fit, make, metrics_of
from torch.nn import functional as F

from miaobi.core.errors import BadInput, Unsupported
from miaobi.data.text.shapes import Unusable
from miaobi.models.base import Base, open_base
from miaobi.tune.tasks import text_classification as task
from miaobi.tune.text import metrics
from miaobi.tune.text.heads import grouped

SINGLE = [
    {"text": f"the {noun} was {word}", "label": label}
    for noun in ("room", "price", "staff", "food")
    for word, label in (("good", "yes"), ("bad", "no"), ("very fine and nice", "yes"))
]
MULTI = [
    {"text": f"{first} and {second}", "label": [first, second]}
    for first, second in (("red", "blue"), ("blue", "green"), ("red", "green"))
] + [{"text": "not", "label": []}]
NUMBERS = [
    {"text": f"{word} room", "label": number}
    for word, number in (
        ("awful", 1),
        ("bad", 2.0),
        ("poor", "2.5"),
        ("fine", 4),
        ("good", 5),
    )
]


@pytest.fixture(params=["bert", "llama", "gpt"])
def origin(request: pytest.FixtureRequest, tmp_path: Path) -> Base:
    return (
        open_base(str(small_bundle(tmp_path / "gpt")))
        if request.param == "gpt"
        else base(tmp_path / request.param, request.param)
    )


def config(**settings: Any) -> task.Config:
    return task.Config(**{"dropout": 0.0, **settings})


def test_it_learns_on_any_base_and_answers(origin: Base) -> None:
    learner = make(task, config(), origin, SINGLE)
    fit(learner, task, config(), SINGLE)
    assert metrics_of(learner, task, config(), SINGLE)["accuracy"] == 1.0
    answer = learner.answer({"text": "the staff was bad"})
    assert answer["label"] == "no" and answer["score"] > 0.5
    assert sum(answer["scores"].values()) == pytest.approx(1, abs=1e-5)


def test_several_labels(tmp_path: Path) -> None:
    settings = config(problem="multi")
    learner = make(task, settings, base(tmp_path / "b"), MULTI)
    fit(learner, task, settings, MULTI)
    assert metrics_of(learner, task, settings, MULTI) == pytest.approx(
        {"f1": 1, "macro_f1": 1, "exact": 1, "f1/blue": 1, "f1/green": 1, "f1/red": 1}
    )
    assert learner.answer({"text": "red and blue"})["labels"] in (
        ["red", "blue"],
        ["blue", "red"],
    )
    assert learner.answer({"text": "not"})["labels"] == []


def test_numbers(tmp_path: Path) -> None:
    settings = config(problem="regression")
    learner = make(task, settings, base(tmp_path / "b"), NUMBERS)
    fit(learner, task, settings, NUMBERS, steps=150)
    assert metrics_of(learner, task, settings, NUMBERS)["mae"] < 0.3
    assert learner.answer({"text": "good room"})["value"] == pytest.approx(5, abs=0.6)


def test_pairs_differ_by_their_order(tmp_path: Path) -> None:
    pairs = [
        {
            "text": first,
            "text_pair": second,
            "label": "first" if first == "good" else "second",
        }
        for first, second in (("good", "bad"), ("bad", "good"))
    ]
    for kind in ("bert", "llama"):
        learner = make(task, config(), base(tmp_path / kind, kind), pairs)
        ids = learner.encode(task.columns(pairs[0], config()), 0)["ids"]
        expected = "[CLS] good [SEP] bad [SEP]" if kind == "bert" else "good\nbad"
        assert "".join(learner.tokenizer.decode(ids).split()) == "".join(
            expected.split()
        )
        fit(learner, task, config(), pairs)
        assert metrics_of(learner, task, config(), pairs)["accuracy"] == 1.0


@pytest.mark.parametrize("kind", ["bert", "llama"])
def test_the_loss_and_its_gradients_are_those_of_the_whole_batch(
    kind: str, tmp_path: Path
) -> None:
    """Groups of similar length change nothing: Transformers' model on the padded batch,
    mean loss, gives the same.
    """
    settings = config(label_smoothing=0.1)
    learner = make(task, settings, base(tmp_path / kind, kind), SINGLE).eval()
    batch = learner.collate(
        [learner.encode(task.columns(record, settings), 0) for record in SINGLE]
    )
    loss = learner.loss(batch)
    (loss.total / loss.count).backward()
    mine = {
        name: weight.grad.clone()
        for name, weight in learner.net.named_parameters()
        if weight.grad is not None
    }
    learner.zero_grad()
    logits = learner.net(input_ids=batch["ids"], attention_mask=batch["mask"]).logits
    reference = F.cross_entropy(logits, batch["label"], label_smoothing=0.1)
    reference.backward()
    assert loss.total.item() / loss.count == pytest.approx(reference.item(), rel=1e-5)
    for name, weight in learner.net.named_parameters():
        if weight.grad is not None:
            torch.testing.assert_close(mine[name], weight.grad, rtol=1e-3, atol=1e-6)
    assert learner.validate(batch).total.item() == pytest.approx(
        F.cross_entropy(logits, batch["label"], reduction="sum").item(), rel=1e-4
    )


def test_balanced_weights_make_labels_count_alike(tmp_path: Path) -> None:
    uneven = [
        *[{"text": "good room", "label": "yes"}] * 9,
        {"text": "bad room", "label": "no"},
    ]
    learner = make(task, config(class_weights="balanced"), base(tmp_path / "b"), uneven)
    weights = dict(zip(learner.labels, learner.weights.tolist()))
    assert 9 * weights["yes"] == pytest.approx(weights["no"])
    assert 9 * weights["yes"] + weights["no"] == pytest.approx(10)
    weighted = make(
        task, config(class_weights={"no": 3.0}), base(tmp_path / "c"), uneven
    )
    ratio = dict(zip(weighted.labels, weighted.weights.tolist()))
    assert ratio["no"] / ratio["yes"] == pytest.approx(3.0)
    batch = weighted.collate(
        [weighted.encode(task.columns(record, config()), 0) for record in uneven]
    )
    expected = F.cross_entropy(
        weighted.logits(batch), batch["label"], weight=weighted.weights, reduction="sum"
    )
    assert weighted.loss(batch).total.item() == pytest.approx(expected.item(), rel=1e-5)


def test_metrics_are_those_of_the_textbook() -> None:
    draw = np.random.default_rng(0)
    wanted, weighted = draw.integers(0, 3, 200), draw.integers(0, 3, 200)
    table = np.array(
        [
            [
                ((weighted == k) & (wanted == k)).sum(),
                ((weighted == k) & (wanted != k)).sum(),
                ((weighted != k) & (wanted == k)).sum(),
            ]
            for k in range(3)
        ]
    )
    assert metrics.macro_f1(table.reshape(-1).astype(float)) == pytest.approx(
        f1_score(wanted, weighted, average="macro")
    )
    assert metrics.f1(table[1].astype(float)) == pytest.approx(
        f1_score(wanted == 1, weighted == 1)
    )
    x, y = draw.normal(size=50), draw.normal(size=50)
    sums = np.array([50, x.sum(), y.sum(), (x * x).sum(), (y * y).sum(), (x * y).sum()])
    assert metrics.pearson(sums) == pytest.approx(pearsonr(x, y).statistic)
    assert metrics.pearson(np.array([5.0, 5, 5, 5, 5, 5])) == 0.0


def test_dropout_reaches_heads_that_have_none(tmp_path: Path) -> None:
    learner = make(
        task, task.Config(dropout=0.5), base(tmp_path / "l", "llama"), SINGLE
    )
    batch = learner.collate(
        [learner.encode(task.columns(record, config()), 0) for record in SINGLE]
    )
    learner.train()
    assert not torch.equal(learner.logits(batch), learner.logits(batch))
    learner.eval()
    assert torch.equal(learner.logits(batch), learner.logits(batch))


@pytest.mark.parametrize(
    ("record", "settings", "what"),
    [
        ({"text": "good"}, {}, "no label"),
        ({"text": "", "label": "x"}, {}, "no text"),
        ({"text": "good", "label": ["a"]}, {}, "not one label"),
        ({"text": "good", "label": "a"}, {"problem": "multi"}, "not a list"),
        ({"text": "good", "label": "many"}, {"problem": "regression"}, "not a number"),
        (
            {"text": "good", "label": float("nan")},
            {"problem": "regression"},
            "no label",
        ),
    ],
)
def test_records_that_cannot_be_used(
    record: dict[str, Any], settings: dict[str, Any], what: str
) -> None:
    with pytest.raises(Unusable, match=what):
        task.columns(record, config(**settings))


def test_data_that_cannot_teach(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="Every example has the label 'yes'"):
        task.survey(
            examples(
                task,
                config(),
                [{"text": "good", "label": "yes"}, {"text": "bad", "label": "yes"}],
            ),
            config(),
        )
    with pytest.raises(BadInput, match="Every example has the number 3"):
        task.survey(
            examples(
                task, config(problem="regression"), [{"text": "good", "label": 3}] * 2
            ),
            config(problem="regression"),
        )
    with pytest.raises(BadInput, match="No label distinguishes"):
        task.survey(
            examples(
                task, config(problem="multi"), [{"text": "good", "label": ["x"]}] * 2
            ),
            config(problem="multi"),
        )
    spec = task.survey(examples(task, config(), SINGLE), config())
    with pytest.raises(
        Unusable, match="'yess' does not occur in the training data"
    ) as error:
        task.check(
            examples(task, config(), [{"text": "good", "label": "yess"}])[0],
            spec,
            config(),
        )
    assert "Did you mean yes?" in error.value.remedy
    with pytest.raises(BadInput, match="class_weights names 'ye'"):
        task.survey(examples(task, config(), SINGLE), config(class_weights={"ye": 2.0}))
    with pytest.raises(BadInput, match="class_weights is 'even'"):
        task.Config(class_weights="even")
    (tmp_path / "part").write_bytes(b"x")
    with pytest.raises(Unsupported, match="not a text model"):
        task.learner(
            Base(base(tmp_path / "b").weights, tmp_path / "part"), spec, config()
        )


def test_a_long_text_is_cut_and_an_empty_row_is_still_a_row(tmp_path: Path) -> None:
    learner = make(task, config(), base(tmp_path / "b", positions=16), SINGLE)
    long = {"text": "good " * 60, "label": "yes"}
    assert learner.length(long) == 62
    assert len(learner.encode(long, 8)["ids"]) == 8
    assert learner.answer(long)["label"] in ("yes", "no")
    llama = make(task, config(), base(tmp_path / "l", "llama"), SINGLE)
    assert len(llama.encode({"text": ""}, 0)["ids"]) == 1


def test_groups_are_the_cheapest() -> None:
    assert sorted(
        index for group in grouped([5, 200, 7, 190, 6]) for index in group
    ) == [0, 1, 2, 3, 4]
    assert grouped([5, 200, 7, 190, 6]) == [[0, 4, 2], [3, 1]]
    assert grouped([8, 8, 8, 8]) == [[0, 1, 2, 3]]
    assert grouped([100, 1, 1], call_cost=1000) == [[1, 2, 0]]
