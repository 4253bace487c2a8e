"""Frozen weights cost nothing, and a step whose loss is not finite changes nothing."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tests.train.toys import Points, Ragged
from torch import nn

from miaobi.core.errors import BadInput, Damaged
from miaobi.data.dataset import Located
from miaobi.nn.objective import Batch, Loss, Objective, Phase
from miaobi.train import checkpoint, estimate, loop, optimizers, timing
from miaobi.train.config import TrainConfig

CONFIG = TrainConfig(
    max_steps=20, batch_size=8, learning_rate=1e-2, device="cpu", ema=0.2
)


class Frozen(Objective):
    """A large frozen layer, a dropout, and a small head that learns."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Linear(2, 500), nn.Tanh(), nn.Dropout(0.1), nn.Linear(500, 1)
        )
        self.net[0].requires_grad_(False)

    def phases(self) -> list[Phase]:
        return [Phase("model", self.net, self.loss)]

    def loss(self, batch: Batch) -> Loss:
        error = self.net(batch["x"]).squeeze(1) - batch["x"].sum(1)
        return Loss(error.square().sum(), len(error))


def fresh(config: TrainConfig = CONFIG) -> loop.State:
    torch.manual_seed(0)
    return loop.start(Frozen(), config)


def test_checkpoints_averages_and_optimisers_hold_only_what_trains(
    tmp_path: Path,
) -> None:
    state = fresh()
    loop.run(state, Points(), [])
    path = checkpoint.save(state, tmp_path, keep=1)
    tensors = load_file(path / "tensors.safetensors")
    names = {name for name in tensors if name.startswith("objective.")}
    assert names == {"objective.net.3.weight", "objective.net.3.bias"}
    assert set(state.average) == {"net.3.weight", "net.3.bias"}
    (optimizer,) = state.optimizers["model"]
    parameters = [item for group in optimizer.param_groups for item in group["params"]]
    assert sum(item.numel() for item in parameters) == 501


def finish(state: loop.State) -> None:
    """A hook that ends the run."""
    state.finished = True


def resumed_at(step: int, folder: Path) -> list[torch.Tensor]:
    """The weights of a run that was stopped and resumed at this step."""
    torch.manual_seed(5)
    state = fresh()
    loop.run(state, Points(), [(step, finish)])
    path = checkpoint.save(state, folder / str(step), keep=1)
    torch.manual_seed(99)
    resumed = fresh()
    checkpoint.restore(resumed, path)
    resumed.finished = False
    loop.run(resumed, Points(), [])
    return [*resumed.objective.state_dict().values(), *resumed.average.values()]


def test_a_frozen_run_resumes_to_the_bit_at_any_step(tmp_path: Path) -> None:
    whole = resumed_at(20, tmp_path)
    for step in (1, 7, 8, 19):
        assert equal(whole, resumed_at(step, tmp_path))


def equal(first: Iterable[torch.Tensor], second: Iterable[torch.Tensor]) -> bool:
    return all(
        torch.equal(one, other) for one, other in zip(first, second, strict=True)
    )


def test_a_checkpoint_of_other_frozen_layers_is_refused(tmp_path: Path) -> None:
    state = fresh()
    path = checkpoint.save(state, tmp_path, keep=1)
    torch.manual_seed(0)
    other = Frozen()
    other.net[0].requires_grad_(True)
    with pytest.raises(Damaged, match=r"net\.0"):
        checkpoint.restore(loop.start(other, CONFIG), path)


def test_averaged_weights_are_used_for_a_while() -> None:
    state = fresh()
    loop.run(state, Points(), [])
    head = state.objective.net[3].weight
    before = head.detach().clone()
    with loop.averaged(state):
        assert torch.equal(head, state.average["net.3.weight"])
        assert not torch.equal(head, before)
    assert torch.equal(head, before)


def test_the_estimate_counts_what_moves(tmp_path: Path) -> None:
    expected = estimate.estimate(fresh(), Points(), tmp_path)
    assert expected.parameters == 2001
    assert expected.trained == 501
    checkpoints = 501 * 3 * (CONFIG.keep + 1)
    assert expected.disk == 4 * (checkpoints + 2 * 2001)
    assert "trained" in str(expected)
    assert "trained" not in str(dataclasses.replace(expected, trained=2001))


def test_a_slow_step_is_timed_on_a_part_of_its_batch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a clock by which a row takes two seconds, 64 rows are never run, and the
    estimate is right all the same.
    """
    rows = list[int]()

    class Slow(Frozen):
        def loss(self, batch: Batch) -> Loss:
            rows.append(len(batch["x"]))
            return super().loss(batch)

    monkeypatch.setattr(timing.time, "perf_counter", lambda: 2.0 * sum(rows))
    state = loop.start(Slow(), dataclasses.replace(CONFIG, batch_size=64, max_steps=1))
    expected = estimate.estimate(state, Points(), tmp_path)
    assert sum(rows) <= 8
    # A step of 64 rows, and the batches of its validation.
    assert 128 <= expected.seconds <= 128 * 8


class Poisoned(Points):
    """Points that record their locations, with a value that is not finite in one batch."""

    def batch(self, split: str, index: int, size: int, seed: int) -> Batch:
        batch = super().batch(split, index, size, seed)
        if index == 7:
            batch["x"][3] = float("nan")
        return batch

    def locations(self, split: str, index: int, size: int, seed: int) -> list[str]:
        return [f"points.jsonl:{index * size + row}" for row in range(size)]


def test_a_loss_that_is_not_finite_stops_at_once_and_names_the_batch() -> None:
    config = dataclasses.replace(CONFIG, batch_size=4, microbatches=2, log_every=1000)
    state = fresh(config)
    weights = dict[int, list[torch.Tensor]]()

    def copy_weights(state: loop.State) -> None:
        values = state.objective.state_dict().values()
        weights[state.step] = [value.clone() for value in values]

    with pytest.raises(BadInput) as caught:
        loop.run(state, Poisoned(), [(1, copy_weights)])
    assert list(weights) == [1, 2, 3], "batch 7 is the second half of step 4"
    assert state.step == 3
    assert equal(weights[3], state.objective.state_dict().values())
    message = str(caught.value)
    assert "Step 4" in message
    assert "batch 7" in message
    assert all(f"points.jsonl:{row}" in message for row in (28, 29, 30, 31))
    assert "points.jsonl:27" not in message


@pytest.mark.parametrize("clip", [0.0, 1.0])
def test_a_gradient_that_overflows_stops_too(clip: float) -> None:
    class Overflows(Ragged):
        def loss(self, batch: Batch) -> Loss:
            weight = self.net.weight
            zero = (weight - weight.detach()).abs()
            return Loss(zero.sqrt().sum(), 1)  # 0, with an infinite slope

    state = loop.start(Overflows(), dataclasses.replace(CONFIG, clip=clip, ema=0.0))
    before = state.objective.net.weight.detach().clone()
    with pytest.raises(BadInput, match="gradient"):
        loop.run(state, Points(), [])
    assert torch.equal(state.objective.net.weight, before)


@pytest.mark.parametrize("kind", ["adamw", "sgd", "muon"])
def test_single_parameters_can_have_their_own_rate(kind: str) -> None:
    module = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    phase = Phase(
        "model",
        module,
        lambda batch: Loss(torch.zeros(()), 1),
        rates={"0.weight": 0.5, "0.bias": 0.25},
    )
    config = dataclasses.replace(
        CONFIG,
        optimizer=kind,  # type: ignore[arg-type]
        learning_rate=0.1,
        matrix_learning_rate=0.2,
    )
    rates = dict[nn.Parameter, float]()
    for optimizer in optimizers.optimizers_for(phase, config):
        for group in optimizer.param_groups:
            rates |= dict.fromkeys(group["params"], group["initial_lr"])
    matrix_rate = 0.2 if kind == "muon" else 0.1
    expected = [matrix_rate / 2, 0.025, matrix_rate, 0.1]
    assert [rates[item] for item in module.parameters()] == pytest.approx(expected)


def test_locations_are_optional() -> None:
    assert isinstance(Poisoned(), Located)
    assert not isinstance(Points(), Located)
