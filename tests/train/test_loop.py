from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tests.train.toys import PointGAN, Points, Ragged

from miaobi.core.errors import BadInput, Damaged
from miaobi.nn.objective import Batch, Loss
from miaobi.train import checkpoint, loop
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
    seen = dict[str, set[str]]()
    for phase in state.objective.phases():
        before = {
            name: value.clone() for name, value in state.objective.named_parameters()
        }
        with loop.training_only(state.objective, phase.module):
            loop._step(
                phase,
                [Points().batch("train", 0, 16, 0)],
                state.optimizers[phase.name],
                CONFIG,
                1.0,
            )
        seen[phase.name] = {
            name.split(".")[0]
            for name, value in state.objective.named_parameters()
            if not torch.equal(value, before[name])
        }
    assert seen == {
        "discriminator": {"discriminator"},
        "penalty": {"discriminator"},
        "generator": {"generator"},
    }
    assert all(parameter.requires_grad for parameter in state.objective.parameters())


def test_lazy_phase_runs_on_its_own_steps_and_shares_the_optimizer() -> None:
    state = fresh()
    assert state.optimizers["penalty"] is state.optimizers["discriminator"]
    ran = []
    state.objective.r1 = lambda batch: (
        ran.append(state.step) or PointGAN.r1(state.objective, batch)
    )  # type: ignore[method-assign]
    loop.run(state, Points(), [])
    assert ran == [0, 4, 8, 12, 16, 20]


def test_gan_learns_the_ring() -> None:
    state = fresh(config=dataclasses.replace(CONFIG, max_steps=800, batch_size=64))
    loop.run(state, Points(), [])
    with torch.no_grad(), loop.averaged(state):
        made = state.objective.generator(torch.randn(512, 4))
    radius = made.norm(dim=1)
    assert 0.8 < radius.mean() < 1.2
    assert radius.std() < 0.3
    assert made.mean(0).norm() < 0.4, "points on one side only: the generator collapsed"


@pytest.mark.parametrize("kind", [PointGAN, Ragged])
def test_accumulation_equals_one_large_batch(kind: type) -> None:
    """Four ragged microbatches give the gradient step of the batch that holds them all."""

    class Joined(Points):
        def batch(self, split: str, index: int, size: int, seed: int) -> Batch:
            parts = [
                Points().batch(split, 4 * index + part, size // 4, seed)
                for part in range(4)
            ]
            return {
                name: torch.cat([part[name] for part in parts]) for name in parts[0]
            }

    small, large = (
        fresh(
            kind,
            dataclasses.replace(
                CONFIG, max_steps=3, ema=0.0, batch_size=size, accumulation=parts
            ),
        )
        for size, parts in ((8, 4), (32, 1))
    )
    for state in (small, large):
        state.objective.eval()  # dropout would draw differently
    loop_data = [(small, Points()), (large, Joined())]
    for state, data in loop_data:
        for step in range(3):
            first = step * state.config.accumulation
            loop.train_step(
                state,
                [
                    data.batch("train", first + micro, state.config.batch_size, 0)
                    for micro in range(state.config.accumulation)
                ],
            )
    for one, other in zip(weights(small), weights(large), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)
    assert small.seen == large.seen


@pytest.mark.parametrize("optimizer", ["adamw", "sgd", "muon"])
def test_resume_is_exact_to_the_bit(tmp_path: Path, optimizer: str) -> None:
    config = dataclasses.replace(CONFIG, optimizer=optimizer, accumulation=2)
    whole, half = fresh(config=config), fresh(config=config)
    torch.manual_seed(5)
    loop.run(whole, Points(), [])
    torch.manual_seed(5)
    loop.run(half, Points(), [(11, lambda state: setattr(state, "finished", True))])
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
    state = fresh()
    loop.run(
        state,
        Points(),
        [(4, lambda state: checkpoint.save(state, tmp_path, keep=2) and None)],
    )
    assert [path.name for path in checkpoint.list_checkpoints(tmp_path)] == [
        "step-00000020",
        "step-00000024",
    ]
    tensors = tmp_path / "step-00000024" / "tensors.safetensors"
    tensors.write_bytes(tensors.read_bytes()[:-100])
    with pytest.raises(Damaged, match="cut short"):
        checkpoint.restore(fresh(), tensors.parent)


def test_clipping_is_of_the_mean_gradient() -> None:
    parameter = torch.nn.Parameter(torch.zeros(4))
    parameter.grad = torch.full((4,), 10.0)
    loop.scale_and_clip(
        [parameter], scale=0.1, limit=1.0
    )  # mean gradient 1 each, norm 2, clipped to 1
    torch.testing.assert_close(parameter.grad, torch.full((4,), 0.5))
    parameter.grad = torch.full((4,), 1.0)
    loop.scale_and_clip([parameter], scale=0.1, limit=1.0)
    torch.testing.assert_close(parameter.grad, torch.full((4,), 0.1))


def test_validation_leaves_the_run_as_it_was() -> None:
    plain, watched = fresh(), fresh()
    torch.manual_seed(3)
    loop.run(plain, Points(), [])
    torch.manual_seed(3)
    loop.run(
        watched, Points(), [(5, lambda state: loop.validate(state, Points()) and None)]
    )
    assert same(weights(plain), weights(watched))


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
        max_steps=100, warmup=0.1, schedule=schedule, decay=0.4, final_learning_rate=0.1
    )  # type: ignore[arg-type]
    assert multiplier(config, step) == pytest.approx(expected, abs=1e-9)


def test_a_loss_that_is_no_number_is_named() -> None:
    state = fresh()
    state.last = {"generator": Loss(torch.tensor(float("nan")), 1)}
    with pytest.raises(BadInput, match="learning_rate"):
        loop.check_finite(state)


TWO = """
import json, sys, torch
sys.path.insert(0, {root!r})
from tests.train.toys import PointGAN, Points, Ragged
from miaobi.train import loop, processes
from miaobi.train.config import TrainConfig
config = TrainConfig(max_steps=12, batch_size=8, accumulation={accumulation}, learning_rate=2e-3, device="cpu", log_every=1)
with processes.process_group(torch.device("cpu")):
    for kind in (PointGAN, Ragged):
        torch.manual_seed(processes.rank())   # only the first process's start counts
        objective = kind()
        if kind is PointGAN: objective.noise.p = 0.0
        state = loop.start(objective, config)
        losses = []
        loop.run(state, Points(), [(1, lambda state: losses.append(state.train))])
        if processes.rank() == 0:
            figures = [value for loss in losses for value in loss.values()]
            print(json.dumps([*figures, *(value.detach().double().sum().item() for value in objective.parameters()), state.seen]))
"""


def test_two_processes_equal_one_with_twice_the_accumulation(tmp_path: Path) -> None:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    results = []
    for processes, accumulation in ((2, 1), (1, 2)):
        script = tmp_path / f"run{processes}.py"
        script.write_text(
            TWO.format(root=str(Path(__file__).parents[2]), accumulation=accumulation)
        )
        command = (
            [sys.executable, str(script)]
            if processes == 1
            else [
                sys.executable,
                "-m",
                "torch.distributed.run",
                "--standalone",
                f"--nproc-per-node={processes}",
                str(script),
            ]
        )
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            env=environment,
            timeout=240,
            check=False,
        )
        assert done.returncode == 0, done.stderr[-2000:]
        results.append([json.loads(line) for line in done.stdout.splitlines()])
    for two, one in zip(*results, strict=True):
        assert two == pytest.approx(one, rel=1e-4, abs=2e-4)


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_the_estimate_leaves_the_run_as_it_was(tmp_path: Path, optimizer: str) -> None:
    from miaobi.train.estimate import estimate

    config = dataclasses.replace(CONFIG, optimizer=optimizer)  # type: ignore[arg-type]
    plain, measured = fresh(config=config), fresh(config=config)
    torch.manual_seed(3)
    loop.run(plain, Points(), [])
    torch.manual_seed(3)
    known = estimate(measured, Points(), tmp_path)
    loop.run(measured, Points(), [])
    assert same(weights(plain), weights(measured))
    assert known.parameters == sum(item.numel() for item in weights(plain))
    assert known.seconds > 0
