"""A run has all threads, or one where that is quicker; what was chosen is kept."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from tests.train.toys import PointGAN, Points

from miaobi.core import config
from miaobi.core.errors import BadInput
from miaobi.data.dataset import Dataset
from miaobi.train import checkpoint, estimate, loop, threads, timing
from miaobi.train.config import TrainConfig
from miaobi.train.run import Run
from miaobi.train.threads import Threads

CONFIG = TrainConfig(max_steps=8, batch_size=8, device="cpu", trackers=[])
IDLE = {1: 0.09, 2: 0.05}
BUSY = {1: 0.1, 2: 5.0}


class Machine:
    """Two cores on which a pass takes as long as a test says, by number of threads."""

    def __init__(self) -> None:
        self.seconds = dict(IDLE)
        self.others_percent = 0.0
        self.passes = 0

    def time_pass(self, state: loop.State, dataset: Dataset, rows: int) -> timing.Pass:
        self.passes += 1
        timing_pass(state, dataset, rows)
        seconds = self.seconds[torch.get_num_threads()]
        return timing.Pass(seconds, min(seconds, 0.08))


timing_pass = timing.time_pass


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Iterator[Machine]:
    machine = Machine()
    monkeypatch.setattr(timing, "time_pass", machine.time_pass)
    monkeypatch.setattr(timing.Load, "percent", lambda load: machine.others_percent)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    with timing.threads(2):
        yield machine


def fresh(**settings: int) -> loop.State:
    torch.manual_seed(0)
    return loop.start(PointGAN(), dataclasses.replace(CONFIG, **settings))


def hook_for(state: loop.State, said: list[str] | None = None) -> Threads:
    return Threads(state, Points(), 2, 2, (said if said is not None else []).append)


@pytest.mark.parametrize(
    ("seconds", "chosen"),
    [(IDLE, 2), (BUSY, 1), ({1: 0.1, 2: 0.102}, 2), ({1: 0.1, 2: 0.2}, 1)],
)
def test_a_run_begins_with_what_is_quicker(
    machine: Machine, tmp_path: Path, seconds: dict[int, float], chosen: int
) -> None:
    machine.seconds = seconds
    machine.others_percent = 90.0 if seconds is BUSY else 0.0
    state = fresh()
    expected = estimate.estimate(state, Points(), tmp_path)
    assert torch.get_num_threads() == 2, "the estimate changes nothing"
    assert expected.threads == chosen
    assert ("1 of 2 threads" in str(expected)) == (chosen == 1)
    run = Run(tmp_path, CONFIG, {}, "train", lambda state, trackers: None)
    with threads.restored():
        run.train(state, Points(), expected, quiet=True)
        assert torch.get_num_threads() == chosen
    assert torch.get_num_threads() == 2
    assert state.threads == [(0, chosen)]


def test_the_estimate_says_what_a_run_would_take_alone(
    machine: Machine, tmp_path: Path
) -> None:
    machine.seconds = {1: 0.2, 2: 5.0}
    state = fresh(max_steps=10_000)
    alone = str(estimate.estimate(state, Points(), tmp_path))
    assert "busy" not in alone
    machine.others_percent = 85.0
    expected = estimate.estimate(state, Points(), tmp_path)
    assert "busy: other programs use 85 %" in str(expected)
    assert "alone, the run would take at most" in str(expected)
    assert expected.seconds_alone == pytest.approx(
        expected.seconds * 0.08 / 0.2, rel=0.1
    )


def test_long_operations_on_an_idle_machine_are_not_tried_with_one_thread(
    machine: Machine,
) -> None:
    machine.seconds = {1: 9.0, 2: 6.0}
    state = fresh()
    assert timing.choose_threads(state, Points(), (2, 1)).threads == 2
    assert machine.passes == 1
    machine.others_percent = 90.0
    machine.seconds = {1: 0.1, 2: 6.0}
    assert timing.choose_threads(state, Points(), (2, 1)).threads == 1


def go_on(state: loop.State, hook: Threads, seconds_a_step: float) -> None:
    """Complete a window of steps."""
    for _ in range(40):
        state.step += 1
        state.seconds += seconds_a_step
        hook(state)


def test_a_run_that_slows_down_looks_again(machine: Machine) -> None:
    state = fresh()
    said = list[str]()
    hook = hook_for(state, said)
    assert state.threads == [(0, 2)]
    go_on(state, hook, 0.2)
    go_on(state, hook, 0.39)
    assert machine.passes == 0, "not half as quick"
    machine.seconds = BUSY
    machine.others_percent = 90.0
    go_on(state, hook, 5.0)
    assert machine.passes > 0
    assert [count for _, count in state.threads] == [2, 1]
    assert torch.get_num_threads() == 1
    (sentence,) = said
    assert "1 instead of 2" in sentence
    assert "50.0 times as quick" in sentence


def test_a_run_with_one_thread_returns_to_all_when_the_machine_is_free(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = fresh()
    hook = Threads(state, Points(), 1, 2, lambda text: None)
    go_on(state, hook, 0.2)
    assert machine.passes == 0
    monkeypatch.setattr(threads, "AGAIN_SECONDS", 0.0)
    go_on(state, hook, 0.2)
    assert [count for _, count in state.threads] == [1, 2]


def test_choosing_may_take_a_small_part_of_the_time_only(machine: Machine) -> None:
    state = fresh()
    hook = hook_for(state)
    go_on(state, hook, 0.2)
    go_on(state, hook, 0.5)
    passes = machine.passes
    assert passes > 0
    assert [count for _, count in state.threads] == [2], "all are still quicker"
    hook.patience = 1e9
    go_on(state, hook, 0.2)
    go_on(state, hook, 0.5)
    assert machine.passes == passes


@pytest.mark.parametrize("settings", [{"threads": 2}, {"threads": 1}])
def test_a_number_fixes_it(
    machine: Machine, tmp_path: Path, settings: dict[str, int]
) -> None:
    machine.seconds = BUSY
    state = fresh(**settings)
    expected = estimate.estimate(state, Points(), tmp_path)
    assert expected.threads == settings["threads"]
    hook = Threads(
        state, Points(), expected.threads, expected.most_threads, lambda text: None
    )
    passes = machine.passes
    go_on(state, hook, 0.2)
    go_on(state, hook, 5.0)
    assert machine.passes == passes
    assert state.threads == [(0, settings["threads"])]


def test_omp_num_threads_is_the_most(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "3,1")
    assert threads.most(dataclasses.replace(CONFIG, threads=8)) == 3
    assert threads.most(CONFIG) == 2, "PyTorch's own number follows it"
    monkeypatch.delenv("OMP_NUM_THREADS")
    assert threads.most(dataclasses.replace(CONFIG, threads=8)) == 8
    with pytest.raises(BadInput, match="train.threads is -1"):
        config.make(TrainConfig, {"train.threads": -1}, "train.")


def test_a_resumed_run_begins_with_the_last(machine: Machine, tmp_path: Path) -> None:
    state = fresh()
    state.threads = [(0, 2), (3, 1)]
    state.step = 5
    state.pace = 0.25
    path = checkpoint.write(state, tmp_path / "checkpoint")
    resumed = fresh()
    checkpoint.restore(resumed, path)
    assert resumed.threads == [(0, 2), (3, 1)]
    assert resumed.pace == 0.25
    expected = estimate.estimate(resumed, Points(), tmp_path)
    assert expected.threads == 1
    Threads(resumed, Points(), 2, 2, lambda text: None)
    assert torch.get_num_threads() == 1
    assert resumed.threads == [(0, 2), (3, 1)]


def test_looking_again_leaves_the_run_as_it_was(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the number of threads stays, so do the bits."""
    plain = fresh()
    watched = fresh()
    torch.manual_seed(3)
    loop.run(plain, Points(), [])
    torch.manual_seed(3)
    monkeypatch.setattr(threads, "WINDOW_STEPS", 1)
    monkeypatch.setattr(threads, "WINDOW_SECONDS", 0.0)
    monkeypatch.setattr(threads, "SLOWER", 0.0)
    hook = hook_for(watched)

    def look_again(state: loop.State) -> None:
        hook.patience = 0.0
        hook(state)

    loop.run(watched, Points(), [(1, look_again)])
    assert machine.passes > 0
    assert watched.threads == [(0, 2)]
    weights = watched.objective.state_dict()
    for name, weight in plain.objective.state_dict().items():
        assert torch.equal(weights[name], weight), name
