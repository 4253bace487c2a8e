"""Preferences: each loss against its formula computed directly, the base as reference,
and what is learned.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.tune.bases import base
from tests.tune.metric_values import metric_values
from torch.nn import functional as F

from miaobi.core import config
from miaobi.core.errors import BadInput
from miaobi.data.text.shapes import Unusable
from miaobi.nn.objective import prepared
from miaobi.tune import methods
from miaobi.tune.config import TuneConfig
from miaobi.tune.learner import Example
from miaobi.tune.tasks.preference import (
    Config,
    PreferenceLearner,
    columns,
    learner,
    question,
    survey,
)

PAIRS = [
    {"prompt": "Say hello.", "chosen": "hello there", "rejected": "no"},
    {"prompt": "And you?", "chosen": "fine", "rejected": "go away now"},
    {"prompt": "Bye.", "chosen": "see you", "rejected": "what"},
]
THUMBS = [
    {"prompt": "Say hello.", "completion": "hello there", "label": True},
    {"prompt": "And you?", "completion": "go away", "label": False},
    {"prompt": "Bye.", "completion": "see you", "label": True},
]
BOTH = {"pairs": 3, "up": 0, "down": 0}
UP_DOWN = {"pairs": 0, "up": 2, "down": 1}


def tuned(
    folder: Path,
    config: Config,
    spec: Any = BOTH,
    method: str = "lora",
    moved: float = 0.3,
    chats: bool = True,
) -> PreferenceLearner:
    """A learner whose trained weights have moved away from the base."""
    task = learner(base(folder / "base", chats=chats), spec, config)
    methods.apply(task, TuneConfig(method=method))
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in task.net.parameters():
            if parameter.requires_grad:
                parameter.add_(moved * torch.randn_like(parameter))
    return task


def batch_of(task: PreferenceLearner, records: list[dict[str, Any]]) -> Any:
    return prepared(task, task.collate([task.encode(record, 64) for record in records]))


@torch.no_grad()
def likelihood(
    net: Any, task: PreferenceLearner, prompt: str, answer: str
) -> tuple[float, int]:
    """(log π(answer | prompt), its tokens), one sequence at a time, from the model's own logits."""
    question_ids, answer_ids = (
        task.prompt_format.question(prompt),
        task.prompt_format.answer(prompt, answer),
    )
    logits = (
        net(input_ids=torch.tensor([question_ids + answer_ids]))
        .logits[0]
        .log_softmax(-1)
    )
    return float(
        sum(
            logits[len(question_ids) + index - 1, token]
            for index, token in enumerate(answer_ids)
        )
    ), len(answer_ids)


def base_net(folder: Path) -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder / "base").eval()


@pytest.mark.parametrize("smooth", [0.0, 0.2])
@pytest.mark.parametrize(("method", "chats"), [("lora", True), ("full", False)])
def test_dpo_is_its_formula(
    tmp_path: Path, method: str, chats: bool, smooth: float
) -> None:
    task = tuned(
        tmp_path,
        Config(beta=0.2, label_smoothing=smooth),
        method=method,
        moved=0.1,
        chats=chats,
    )
    reference = base_net(tmp_path)
    expected = list[float]()
    for pair in PAIRS:
        gains = [
            likelihood(task.net, task, pair["prompt"], pair[name])[0]
            - likelihood(reference, task, pair["prompt"], pair[name])[0]
            for name in ("chosen", "rejected")
        ]
        delta = torch.tensor(0.2 * (gains[0] - gains[1]))
        expected.append(
            float(-(1 - smooth) * F.logsigmoid(delta) - smooth * F.logsigmoid(-delta))
        )
    loss = task.loss(batch_of(task, PAIRS))
    assert loss.count == 3
    assert float(loss.total.detach()) == pytest.approx(sum(expected), rel=1e-4)
    assert (
        max(abs(value - math.log(2)) for value in expected) > 0.05
    )  # the adapters did move something


def test_orpo_is_its_formula(tmp_path: Path) -> None:
    task = tuned(tmp_path, Config(loss="orpo", beta=0.3))
    expected = 0.0
    for pair in PAIRS:
        (won, lost) = (
            likelihood(task.net, task, pair["prompt"], pair[name])
            for name in ("chosen", "rejected")
        )
        p, q = (
            torch.tensor(total / count, dtype=torch.float64)
            for total, count in (won, lost)
        )
        # As TRL writes it: the log of the odds' ratio.
        ratio = (p - q) - (torch.log1p(-p.exp()) - torch.log1p(-q.exp()))
        expected += float(-p - 0.3 * F.logsigmoid(ratio))
    assert float(task.loss(batch_of(task, PAIRS)).total.detach()) == pytest.approx(
        expected, rel=1e-4
    )
    assert [metric.name for metric in task.metrics()] == ["preference_accuracy", "loss"]


@pytest.mark.parametrize("paired", [False, True])
def test_kto_is_its_formula(tmp_path: Path, paired: bool) -> None:
    config = Config(loss="kto", beta=0.5, desirable_weight=1.2, undesirable_weight=0.7)
    task = tuned(tmp_path, config, BOTH if paired else UP_DOWN, moved=0.1)
    reference = base_net(tmp_path)

    def gain(prompt: str, answer: str) -> float:
        return (
            likelihood(task.net, task, prompt, answer)[0]
            - likelihood(reference, task, prompt, answer)[0]
        )

    records = PAIRS if paired else THUMBS
    first = "chosen" if paired else "completion"
    drift = max(
        0.0,
        float(
            np.mean(
                [
                    gain(record["prompt"], records[(index + 1) % 3][first])
                    for index, record in enumerate(records)
                ]
            )
        ),
    )
    answers = [
        (record["prompt"], record[first], record.get("label", True))
        for record in records
    ]
    answers += [
        (record["prompt"], record["rejected"], False) for record in records if paired
    ]
    expected = 0.0
    for prompt, answer, label in answers:
        value = 0.5 * (gain(prompt, answer) - drift)
        expected += (
            1.2 * (1 - 1 / (1 + math.exp(-value)))
            if label
            else 0.7 * (1 - 1 / (1 + math.exp(value)))
        )
    assert float(task.loss(batch_of(task, records)).total.detach()) == pytest.approx(
        expected, rel=1e-4
    )


def test_the_base_itself_has_margin_nought(tmp_path: Path) -> None:
    task = tuned(tmp_path, Config(), moved=0.0)
    task.eval()
    with torch.no_grad():
        evaluations = task.evaluate(batch_of(task, PAIRS))
    values = metric_values(task, evaluations)
    assert values["loss"] == pytest.approx(math.log(2), abs=1e-6)
    assert (
        values["margin"] == pytest.approx(0, abs=1e-5)
        and values["reward_accuracy"] == 0.5
    )
    reference = base_net(tmp_path)
    means = [
        [
            total / count
            for total, count in (
                likelihood(reference, task, pair["prompt"], pair[name])
                for name in ("chosen", "rejected")
            )
        ]
        for pair in PAIRS
    ]
    assert values["preference_accuracy"] == pytest.approx(
        np.mean([chosen > rejected for chosen, rejected in means])
    )


@pytest.mark.parametrize("method", ["dora", "ia3", "prompt", "prefix", "bottleneck"])
def test_the_reference_is_the_base_whatever_the_method(
    tmp_path: Path, method: str
) -> None:
    task = tuned(tmp_path, Config(), method=method)
    reference = base_net(tmp_path)
    sums = batch_of(task, PAIRS)["reference"].tolist()
    assert sums == pytest.approx(
        [
            likelihood(reference, task, pair["prompt"], pair[name])[0]
            for name in ("chosen", "rejected")
            for pair in PAIRS
        ],
        rel=1e-4,
    )
    with torch.no_grad():
        assert float(task.loss(batch_of(task, PAIRS)).total) != pytest.approx(
            3 * math.log(2), abs=1e-4
        )
    assert isinstance(task.answer({"prompt": "Say hello."}), str)


def test_the_base_reads_a_row_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = tuned(tmp_path, Config())
    readings = list[int]()
    whole = task.reference
    monkeypatch.setattr(task, "reference", lambda: readings.append(1) or whole())
    first = batch_of(task, PAIRS)["reference"]
    again = batch_of(task, PAIRS[::-1])["reference"]
    assert len(readings) == 1
    assert again.tolist() == first.reshape(2, 3).flip(1).flatten().tolist()


@pytest.mark.parametrize(
    ("loss", "records", "spec"),
    [
        ("dpo", PAIRS, BOTH),
        ("orpo", PAIRS, BOTH),
        ("kto", PAIRS, BOTH),
        ("kto", THUMBS, UP_DOWN),
    ],
)
def test_preferences_are_learned(
    tmp_path: Path, loss: Any, records: list[dict[str, Any]], spec: Any
) -> None:
    task = tuned(tmp_path, Config(loss=loss, beta=0.1), spec, moved=0.0)
    task.train()
    batch = batch_of(task, records)
    optimizer = torch.optim.Adam(
        [parameter for parameter in task.net.parameters() if parameter.requires_grad],
        lr=1e-2,
    )
    losses = list[float]()
    for _ in range(60):
        output = task.loss(batch)
        optimizer.zero_grad()
        (output.total / output.count).backward()
        optimizer.step()
        losses.append(float(output.total.detach()))
    task.eval()
    with torch.no_grad():
        evaluations = task.evaluate(batch_of(task, records))
    assert losses[-1] < 0.9 * losses[0]
    values = metric_values(task, evaluations)
    assert values[task.metrics()[0].name] == 1.0
    assert loss == "orpo" or (values["reward_accuracy"] == 1.0 and values["margin"] > 0)


def test_kto_needs_others_to_compare_with(tmp_path: Path) -> None:
    task = tuned(tmp_path, Config(loss="kto"), UP_DOWN)
    batch = batch_of(task, THUMBS[:1])
    task.train()
    with pytest.raises(BadInput, match="a batch holds one"):
        task.loss(batch)
    task.eval()
    assert len(task.evaluate(batch)) == 1


def test_a_pair_keeps_one_question_when_it_is_cut(tmp_path: Path) -> None:
    task = tuned(tmp_path, Config(), chats=False)
    features = task.encode(
        {"prompt": "q" * 100, "chosen": "a" * 60, "rejected": "b"}, 48
    )
    assert (
        len(features["question"]) + len(features["chosen"]) == 48
        and len(features["chosen"]) == 24
    )
    assert task.prompt_format.tokenizer.decode(features["rejected"]) == "b</s>"
    assert (
        task.length({"prompt": "q" * 100, "chosen": "a" * 60, "rejected": "b"}) == 161
    )


def test_columns_of_pairs_thumbs_and_conversations() -> None:
    turns = [{"role": "user", "content": "hi"}]
    record = {
        "prompt": turns,
        "chosen": [{"role": "assistant", "content": "hello"}],
        "rejected": [{"role": "assistant", "content": "no"}],
    }
    assert columns(record, Config()) == {
        "prompt": turns,
        "chosen": "hello",
        "rejected": "no",
    }
    assert question(columns(record, Config())) == {"prompt": turns}
    assert columns({**THUMBS[0], "label": "down"}, Config(loss="kto"))["label"] is False
    with pytest.raises(Unusable, match="dpo learns from pairs") as caught:
        columns(THUMBS[0], Config())
    assert caught.value.remedy == "--head.loss kto"
    with pytest.raises(Unusable, match="chosen and rejected are the same"):
        columns({"prompt": "a", "chosen": "b", "rejected": "b "}, Config())
    with pytest.raises(
        Unusable, match="neither a pair nor a thumb; the columns are: prompt, text"
    ):
        columns({"prompt": "a", "text": "b"}, Config())
    with pytest.raises(Unusable, match="no prompt"):
        columns({"chosen": "a", "rejected": "b"}, Config())
    with pytest.raises(Unusable, match="label is 'maybe'"):
        columns({**THUMBS[0], "label": "maybe"}, Config(loss="kto"))


def test_thumbs_of_one_kind_and_settings_of_another_loss_are_refused() -> None:
    with pytest.raises(BadInput, match="All 1 thumbs are up"):
        survey([Example(THUMBS[0], "x:1")], Config(loss="kto"))
    with pytest.raises(BadInput, match="belongs to dpo, not to kto"):
        Config(loss="kto", label_smoothing=0.1)
    with pytest.raises(BadInput, match="belong to kto, not to dpo"):
        Config(desirable_weight=2.0)
    with pytest.raises(BadInput, match="beta is 0"):
        config.make(Config, {"head.beta": 0}, "head.")


def test_the_copy_of_the_base_is_not_saved(tmp_path: Path) -> None:
    task = tuned(tmp_path, Config(), method="full", moved=0.1)
    before = {name for name, _ in task.named_parameters()}
    batch_of(task, PAIRS)
    assert {name for name, _ in task.named_parameters()} == before
