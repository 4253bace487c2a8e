"""Defaults follow from what there is, say why, leave alone what was set, and keep a run
within the time.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from tests.tune.small import Texts, causal, classifier, values

from miaobi.train.config import TrainConfig
from miaobi.tune import defaults, methods
from miaobi.tune.config import TuneConfig
from miaobi.tune.defaults import Derived, derive
from miaobi.tune.examples import Lengths
from miaobi.tune.methods import METHODS

TRAIN = TrainConfig(device="cpu")
LENGTHS = Lengths(10, 12, 12, 12, 0)


class Many(Texts):
    def __init__(self, count: int) -> None:
        self.many = count

    def count(self, split: str) -> int:
        return self.many


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> dict[str, float]:
    """A machine on which a step takes as long as a test says."""
    machine = {"seconds": 0.001}
    monkeypatch.setattr(
        defaults, "seconds_a_step", lambda train, learner, data: machine["seconds"]
    )
    return machine


def derived(
    count: int = 600,
    explicit: Mapping[str, Any] | None = None,
    lengths: Lengths = LENGTHS,
    method: str = "lora",
    **tune: Any,
) -> dict[str, Derived]:
    config, learner = TuneConfig(method, **tune), causal()
    methods.apply(learner, config)
    train = dataclasses.replace(TRAIN, **dict(explicit or {}))
    items = derive(
        {f"train.{key}" for key in explicit or {}},
        config,
        train,
        learner,
        Many(count),
        lengths,
    )  # type: ignore[arg-type]
    return {item.key: item for item in items}


def test_everything_that_is_derived_is_a_setting_with_a_reason() -> None:
    every = derived()
    assert set(every) <= {field.name for field in dataclasses.fields(TrainConfig)}
    assert {
        "max_steps",
        "batch_size",
        "microbatches",
        "learning_rate",
        "warmup",
        "patience",
        "validate_every",
        "precision",
    } <= set(every)
    assert all(item.reason for item in every.values())
    TrainConfig(**{key: item.value for key, item in every.items()})


def test_what_was_set_stays_and_the_rest_follows_from_it() -> None:
    every = derived(600, {"batch_size": 2, "max_steps": 77})
    assert not {"batch_size", "max_steps"} & set(every)
    assert every["microbatches"].value == 8, "sixteen a step all the same"
    assert every["validate_every"].value == 77 // 5
    assert derived(600, {"microbatches": 4})["batch_size"].value == 4


@pytest.mark.parametrize(
    ("count", "whole", "epochs"),
    [(40, 4, 10), (600, 16, 5), (6000, 32, 3), (200_000, 64, 1)],
)
def test_steps_and_batches_follow_the_amount_of_data(
    count: int, whole: int, epochs: int
) -> None:
    every = derived(count)
    batch = every["batch_size"].value * every["microbatches"].value
    assert batch == whole
    assert every["max_steps"].value == max(-(-count * epochs // batch), 10)


def test_long_examples_come_in_small_parts() -> None:
    every = derived(lengths=Lengths(900, 1000, 1200, 1200, 0))
    assert every["batch_size"].value == 4
    assert every["microbatches"].value == 4
    assert "1000" in every["batch_size"].reason


@pytest.mark.parametrize(
    ("processes", "rows", "microbatches"),
    [(1, 16, 1), (2, 8, 2), (3, 4, 3), (32, 1, 32)],
)
def test_processes_share_the_examples_of_a_step(
    monkeypatch: pytest.MonkeyPatch, processes: int, rows: int, microbatches: int
) -> None:
    monkeypatch.setattr(defaults.processes, "world_size", lambda: processes)
    monkeypatch.setattr(defaults.processes, "broadcast_json", lambda value: value)
    every = derived(600)
    assert every["batch_size"].value == rows
    assert every["microbatches"].value == microbatches


def test_memory_is_half_used_at_most(monkeypatch: pytest.MonkeyPatch) -> None:
    """A token of the tiny Llama needs 4 (3 × 32 × 34 + 3 × 48) bytes; what is free
    holds twice three rows of a thousand.
    """
    token = 4 * (3 * 32 * 34 + 3 * 48)
    monkeypatch.setattr(defaults, "_free_memory", lambda device: 2 * 3 * 1000 * token)
    assert derived(lengths=Lengths(900, 1000, 1200, 1200, 0))["batch_size"].value == 2


def test_a_slow_machine_gets_the_steps_that_fit_with_a_reason(
    quick: dict[str, float],
) -> None:
    quick["seconds"] = 24.0
    limited = derived(6000)["max_steps"]
    assert limited.value == int(1800 / (24 * defaults.OVERHEAD)) == 60
    assert "563" in limited.reason, "how many steps it would take otherwise"
    assert derived(6000, {"max_minutes": 60.0})["max_steps"].value == 120
    quick["seconds"] = 10_000.0
    assert derived(6000)["max_steps"].value == defaults.MIN_STEPS


def test_rates_by_method_and_task() -> None:
    rates = {
        method: derived(
            method=method, **({"freeze_layers": 1} if method == "frozen" else {})
        )["learning_rate"].value
        for method in METHODS
    }
    assert rates["full"] == rates["frozen"] == 1e-4
    assert rates["lora"] == rates["dora"] == rates["rslora"] == 1e-3
    assert rates["prompt"] > rates["ia3"] > rates["lora"]
    learner = classifier()
    learner.learning_rate_factor = 0.1
    methods.apply(learner, TuneConfig("lora"))
    items = derive(set(), TuneConfig("lora"), TRAIN, learner, Many(600), LENGTHS)  # type: ignore[arg-type]
    values = {item.key: item.value for item in items}
    assert values["learning_rate"] == pytest.approx(1e-4)


def test_adapters_are_not_decayed() -> None:
    assert derived(method="lora")["weight_decay"].value == 0.0
    assert derived(method="full")["weight_decay"].value == 0.01


def test_measuring_a_step_leaves_everything_as_it_was(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.undo()
    learner = causal()
    methods.apply(learner, TuneConfig("lora", lora_dropout=0.1))
    before, random = values(learner), torch.get_rng_state()
    seconds = defaults.seconds_a_step(
        dataclasses.replace(TRAIN, batch_size=4, microbatches=2), learner, Texts()
    )  # type: ignore[arg-type]
    assert 0 < seconds < 30
    assert all(
        torch.equal(item, before[name]) for name, item in values(learner).items()
    )
    assert torch.equal(torch.get_rng_state(), random)
    assert all(item.grad is None for item in learner.parameters())
