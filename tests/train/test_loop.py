"""The training loop: phases, microbatches, exact resumes."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from tests.train.toys import PointGAN, Points, Ragged

from miaobi.core.errors import BadInput, Damaged
from miaobi.nn.objective import Batch, Loss
from miaobi.train import checkpoint, loop, timing
from miaobi.train.config import TrainConfig
from miaobi.train.schedules import multiplier

CONFIG = TrainConfig(
    max_steps=24,
    batch_size=16,
    learning_rate=2e-3,
    betas=(0.0, 0.99),
    device="cpu",
    ema=0.1,
)


def fresh(kind: type = PointGAN, config: TrainConfig = CONFIG) -> loop.State:
    torch.manual_seed(config.seed)
    return loop.start(kind(), config)


def weights(state: loop.State) -> list[torch.Tensor]:
    return [value.detach().clone() for value in state.objective.parameters()]


def same(left: list[torch.Tensor], right: list[torch.Tensor]) -> bool:
    return all(torch.equal(one, other) for one, other in zip(left, right, strict=True))


def test_each_phase_moves_its_own_module_only() -> None:
    state = fresh()
    objective = state.objective
    batches = [Points().batch("train", 0, 16, 0)]
    changed = dict[str, set[str]]()
    for phase in objective.phases():
        before = {name: value.clone() for name, value in objective.named_parameters()}
        with loop.training_only(objective, phase.module):
            loop._step(phase, batches, state.optimizers[phase.name], CONFIG, 1.0)
        changed[phase.name] = {
            name.split(".")[0]
            for name, value in objective.named_parameters()
            if not torch.equal(value, before[name])
        }
    assert changed == {
        "discriminator": {"discriminator"},
        "penalty": {"discriminator"},
        "generator": {"generator"},
    }
    assert all(parameter.requires_grad for parameter in objective.parameters())


def test_lazy_phase_runs_on_its_own_steps_and_shares_the_optimizer() -> None:
    state = fresh()
    assert state.optimizers["penalty"] is state.optimizers["discriminator"]
    steps = []

    def r1(batch: Batch) -> Loss:
        steps.append(state.step)
        return PointGAN.r1(state.objective, batch)

    state.objective.r1 = r1
    loop.run(state, Points(), [])
    assert steps == [0, 4, 8, 12, 16, 20]


def test_gan_learns_the_ring() -> None:
    state = fresh(config=dataclasses.replace(CONFIG, max_steps=800, batch_size=64))
    loop.run(state, Points(), [])
    with torch.no_grad(), loop.averaged(state):
        points = state.objective.generator(torch.randn(512, 4))
    radius = points.norm(dim=1)
    assert 0.8 < radius.mean() < 1.2
    assert radius.std() < 0.3
    assert points.mean(0).norm() < 0.4, "a collapsed generator draws on one side only"


class Joined(Points):
    """Every batch is four of `Points`, a quarter as large, one after the other."""

    def batch(self, split: str, index: int, size: int, seed: int) -> Batch:
        parts = [
            super(Joined, self).batch(split, 4 * index + part, size // 4, seed)
            for part in range(4)
        ]
        return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


@pytest.mark.parametrize("kind", [PointGAN, Ragged])
def test_microbatches_equal_one_large_batch(kind: type) -> None:
    """Four ragged microbatches give the gradient step of the batch that holds them all."""
    config = dataclasses.replace(CONFIG, max_steps=3, ema=0.0, batch_size=32)
    large = fresh(kind, config)
    config = dataclasses.replace(config, batch_size=8, microbatches=4)
    small = fresh(kind, config)
    for state, data in ((small, Points()), (large, Joined())):
        state.objective.eval()  # dropout would draw differently
        size, count = state.config.batch_size, state.config.microbatches
        for step in range(3):
            indices = range(step * count, (step + 1) * count)
            batches = [data.batch("train", index, size, 0) for index in indices]
            loop.train_step(state, batches)
    for one, other in zip(weights(small), weights(large), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)
    assert small.seen == large.seen


def finish(state: loop.State) -> None:
    """A hook that ends the run."""
    state.finished = True


@pytest.mark.parametrize("optimizer", ["adamw", "sgd", "muon"])
def test_resume_is_exact_to_the_bit(tmp_path: Path, optimizer: str) -> None:
    config = dataclasses.replace(CONFIG, optimizer=optimizer, microbatches=2)
    whole = fresh(config=config)
    half = fresh(config=config)
    torch.manual_seed(5)
    loop.run(whole, Points(), [])
    torch.manual_seed(5)
    loop.run(half, Points(), [(11, finish)])
    assert half.step == 11
    half.finished = False
    checkpoint.save(half, tmp_path, keep=1)
    torch.manual_seed(99)
    resumed = loop.start(PointGAN(), config)
    checkpoint.restore(resumed, checkpoint.list_checkpoints(tmp_path)[-1])
    loop.run(resumed, Points(), [])
    assert same(weights(whole), weights(resumed))
    assert same(list(whole.average.values()), list(resumed.average.values()))
    assert whole.train == resumed.train


def test_checkpoints_keep_the_newest_and_refuse_a_cut_file(tmp_path: Path) -> None:
    def save(state: loop.State) -> None:
        checkpoint.save(state, tmp_path, keep=2)

    state = fresh()
    loop.run(state, Points(), [(4, save)])
    names = [path.name for path in checkpoint.list_checkpoints(tmp_path)]
    assert names == ["step-00000020", "step-00000024"]
    tensors = tmp_path / "step-00000024" / "tensors.safetensors"
    tensors.write_bytes(tensors.read_bytes()[:-100])
    with pytest.raises(Damaged, match="cut short"):
        checkpoint.restore(fresh(), tensors.parent)


def test_clipping_is_of_the_mean_gradient() -> None:
    parameter = torch.nn.Parameter(torch.zeros(4))
    parameter.grad = torch.full((4,), 10.0)
    # The mean gradient is 1 each; its norm, 2, is clipped to 1.
    loop.scale_and_clip([parameter], scale=0.1, limit=1.0)
    torch.testing.assert_close(parameter.grad, torch.full((4,), 0.5))
    parameter.grad = torch.full((4,), 1.0)
    loop.scale_and_clip([parameter], scale=0.1, limit=1.0)
    torch.testing.assert_close(parameter.grad, torch.full((4,), 0.1))


def test_validation_leaves_the_run_as_it_was() -> None:
    def validate(state: loop.State) -> None:
        loop.validate(state, Points())

    plain = fresh()
    validated = fresh()
    torch.manual_seed(3)
    loop.run(plain, Points(), [])
    torch.manual_seed(3)
    loop.run(validated, Points(), [(5, validate)])
    assert same(weights(plain), weights(validated))


@pytest.mark.parametrize(
    ("schedule", "step", "expected"),
    [
        ("cosine", 0, 0.1),
        ("cosine", 9, 1.0),
        ("cosine", 10, 1.0),
        ("cosine", 55, 0.55),
        ("linear", 55, 0.55),
        ("constant", 90, 1.0),
        ("wsd", 60, 1.0),
        ("wsd", 80, 0.5 * 0.9 + 0.1),
    ],
)
def test_schedules(schedule: str, step: int, expected: float) -> None:
    config = TrainConfig(
        max_steps=100,
        warmup=0.1,
        schedule=schedule,  # type: ignore[arg-type]
        decay=0.4,
        final_learning_rate=0.1,
    )
    assert multiplier(config, step) == pytest.approx(expected, abs=1e-9)


def test_a_metric_that_is_not_finite_is_an_error() -> None:
    state = fresh()
    state.last = {"generator": Loss(torch.tensor(float("nan")), 1)}
    with pytest.raises(BadInput, match="learning_rate"):
        loop.check_finite(state)


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_the_estimate_leaves_the_run_as_it_was(tmp_path: Path, optimizer: str) -> None:
    from miaobi.train.estimate import estimate

    config = dataclasses.replace(CONFIG, optimizer=optimizer)  # type: ignore[arg-type]
    plain = fresh(config=config)
    measured = fresh(config=config)
    torch.manual_seed(3)
    loop.run(plain, Points(), [])
    torch.manual_seed(3)
    expected = estimate(measured, Points(), tmp_path)
    loop.run(measured, Points(), [])
    assert same(weights(plain), weights(measured))
    assert expected.parameters == sum(item.numel() for item in weights(plain))
    assert expected.seconds > 0


class Counted(PointGAN):
    """Counts how often `prepare` sees each batch, and refuses a loss of one it never saw."""

    def __init__(self) -> None:
        super().__init__()
        self.batches: list[Batch] = []

    def prepare(self, batch: Batch) -> Batch:
        assert "prepared" not in batch
        assert not torch.is_grad_enabled()
        self.batches.append(batch)
        return {**batch, "prepared": torch.ones(())}

    def gap(self, batch: Batch) -> torch.Tensor:
        assert "prepared" in batch
        return super().gap(batch)


def test_every_batch_is_prepared_once(tmp_path: Path) -> None:
    config = dataclasses.replace(CONFIG, microbatches=3)
    state = fresh(Counted, config)
    objective = state.objective
    assert isinstance(objective, Counted)
    batches = [Points().batch("train", index, 16, 0) for index in range(3)]
    loop.train_step(state, batches)  # three phases on each
    assert list(map(id, objective.batches)) == list(map(id, batches))
    objective.batches.clear()
    loop.validate(state, Points())
    assert len(objective.batches) == len(list(Points().batches("validation", 16)))
    objective.batches.clear()
    timing.time_step(state, Points(), [1])
    assert len(set(map(id, objective.batches))) == len(objective.batches) > 0
