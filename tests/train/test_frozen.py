"""What is frozen costs nothing, and a step whose loss is no number leaves nothing behind."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tests.train.toys import Points, Ragged
from torch import nn

from miaobi.core.errors import BadInput, Damaged
from miaobi.data.dataset import Located
from miaobi.nn.objective import Batch, Loss, Objective, Phase
from miaobi.train import checkpoint, estimate, loop, optimizers
from miaobi.train.config import TrainConfig

CONFIG = TrainConfig(
    max_steps=20, batch_size=8, learning_rate=1e-2, device="cpu", ema=0.2
)


class Frozen(Objective):
    """A large layer that stands still, a dropout, and a small head that learns."""

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
    held = load_file(path / "tensors.safetensors")
    assert {name for name in held if name.startswith("objective.")} == {
        "objective.net.3.weight",
        "objective.net.3.bias",
    }
    assert set(state.average) == {"net.3.weight", "net.3.bias"}
    assert (
        sum(
            item.numel()
            for group in state.optimizers["model"][0].param_groups
            for item in group["params"]
        )
        == 501
    )


def test_a_frozen_run_resumes_to_the_bit_at_any_step(tmp_path: Path) -> None:
    def restart(step: int) -> list[torch.Tensor]:
        torch.manual_seed(5)
        state = fresh()
        loop.run(
            state, Points(), [(step, lambda state: setattr(state, "finished", True))]
        )
        checkpoint.save(state, tmp_path / str(step), keep=1)
        torch.manual_seed(99)
        resumed = fresh()
        checkpoint.restore(
            resumed, checkpoint.list_checkpoints(tmp_path / str(step))[-1]
        )
        resumed.finished = False
        loop.run(resumed, Points(), [])
        return [*resumed.objective.state_dict().values(), *resumed.average.values()]

    whole = restart(20)
    for step in (1, 7, 8, 19):
        assert all(
            torch.equal(one, other)
            for one, other in zip(whole, restart(step), strict=True)
        )


def test_a_checkpoint_of_other_frozen_layers_is_refused(tmp_path: Path) -> None:
    state = fresh()
    path = checkpoint.save(state, tmp_path, keep=1)
    torch.manual_seed(0)
    other = Frozen()
    other.net[0].requires_grad_(True)
    with pytest.raises(Damaged, match=r"net\.0"):
        checkpoint.restore(loop.start(other, CONFIG), path)


def test_averaged_weights_are_used_and_taken_back() -> None:
    state = fresh()
    loop.run(state, Points(), [])
    head, before = (
        state.objective.net[3].weight,
        state.objective.net[3].weight.detach().clone(),
    )
    with loop.averaged(state):
        assert torch.equal(head, state.average["net.3.weight"])
        assert not torch.equal(head, before)
    assert torch.equal(head, before)


def test_the_estimate_counts_what_moves(tmp_path: Path) -> None:
    known = estimate.estimate(fresh(), Points(), tmp_path)
    assert (known.parameters, known.trained) == (2001, 501)
    assert known.disk == 4 * (501 * 3 * (CONFIG.keep + 1) + 2 * 2001)
    assert "trained" in str(known)
    assert "trained" not in str(dataclasses.replace(known, trained=2001))


def test_a_slow_step_is_timed_on_a_part_of_its_batch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A clock on which a row takes two seconds: 64 rows are never run, and the figure
    is right all the same.
    """
    asked, now = list[int](), [0.0]

    class Slow(Frozen):
        def loss(self, batch: Batch) -> Loss:
            asked.append(len(batch["x"]))
            now[0] += 2.0 * len(batch["x"])
            return super().loss(batch)

    monkeypatch.setattr(estimate.time, "perf_counter", lambda: now[0])
    state = loop.start(Slow(), dataclasses.replace(CONFIG, batch_size=64, max_steps=1))
    known = estimate.estimate(state, Points(), tmp_path)
    assert sum(asked) <= 8
    assert (
        128 <= known.seconds <= 128 * 8
    )  # a step of 64 rows, and the validation's glances


class Poisoned(Points):
    """Points that can tell where they were written, with a value that is no number in one batch."""

    def batch(self, split: str, index: int, size: int, seed: int) -> Batch:
        found = dict(super().batch(split, index, size, seed))
        if index == 7:
            found["x"] = found["x"].clone()
            found["x"][3] = float("nan")
        return found

    def locations(self, split: str, index: int, size: int, seed: int) -> list[str]:
        return [f"points.jsonl:{index * size + row}" for row in range(size)]


def test_a_loss_that_is_no_number_stops_at_once_and_names_the_batch() -> None:
    config = dataclasses.replace(CONFIG, batch_size=4, accumulation=2, log_every=1000)
    state, steps = fresh(config), list[int]()
    before = dict[int, list[torch.Tensor]]()

    def note(state: loop.State) -> None:
        steps.append(state.step)
        before[state.step] = [
            value.clone() for value in state.objective.state_dict().values()
        ]

    with pytest.raises(BadInput) as caught:
        loop.run(state, Poisoned(), [(1, note)])
    assert steps == [1, 2, 3], "batch 7 is the second half of step 4"
    assert state.step == 3
    assert all(
        torch.equal(one, other)
        for one, other in zip(
            before[3], state.objective.state_dict().values(), strict=True
        )
    )
    message = str(caught.value)
    assert "Step 4" in message
    assert "batch 7" in message
    assert all(f"points.jsonl:{row}" in message for row in (28, 29, 30, 31))
    assert "points.jsonl:27" not in message


@pytest.mark.parametrize("clip", [0.0, 1.0])
def test_a_gradient_that_overflows_stops_too(clip: float) -> None:
    class Overflows(Ragged):
        def loss(self, batch: Batch) -> Loss:
            total = (
                (self.net.weight - self.net.weight.detach()).abs().sqrt().sum()
            )  # 0, with an infinite slope
            return Loss(total, 1)

    state = loop.start(Overflows(), dataclasses.replace(CONFIG, clip=clip, ema=0.0))
    before = state.objective.net.weight.detach().clone()
    with pytest.raises(BadInput, match="gradient"):
        loop.run(state, Points(), [])
    assert torch.equal(state.objective.net.weight, before)


@pytest.mark.parametrize("kind", ["adamw", "sgd", "muon"])
def test_single_parameters_can_have_their_own_pace(kind: str) -> None:
    """With plain SGD a parameter at half the pace moves half as far; the others' groups
    carry the rate they were given.
    """
    module = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    phase = Phase(
        "model",
        module,
        lambda batch: Loss(torch.zeros(()), 1),
        rates={"0.weight": 0.5, "0.bias": 0.25},
    )
    config = dataclasses.replace(
        CONFIG, optimizer=kind, learning_rate=0.1, matrix_learning_rate=0.2
    )  # type: ignore[arg-type]
    found = {
        id(item): group["initial_lr"]
        for optimizer in optimizers.optimizers_for(phase, config)
        for group in optimizer.param_groups
        for item in group["params"]
    }
    matrices = 0.2 if kind == "muon" else 0.1
    assert [found[id(item)] for item in module.parameters()] == pytest.approx(
        [matrices / 2, 0.025, matrices, 0.1]
    )


def test_only_data_that_can_tell_its_places_is_asked() -> None:
    assert isinstance(Poisoned(), Located)
    assert not isinstance(Points(), Located)
