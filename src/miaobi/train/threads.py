"""How many threads a run computes with: all that it may have, or one where that is
quicker, as beside other programs or with a small network (see train/timing.py).

Results differ in their last bits with the number, so the checkpoint keeps what was
chosen and when, and a resumed run begins with the last. `train.threads` fixes it.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

from miaobi.core.language import in_each, say
from miaobi.data.dataset import Dataset
from miaobi.train import processes, timing
from miaobi.train.config import TrainConfig
from miaobi.train.loop import State
from miaobi.train.timing import ThreadChoice

WINDOW_SECONDS = 3.0
WINDOW_STEPS = 4
"""The pace is that of so many steps at least, and seconds in steps."""
SLOWER = 2.0
"""The machine is looked at again when the pace has fallen by this factor,"""
AGAIN_SECONDS = 60.0
"""and after so long where the run has not all threads."""
COST_FACTOR = 20.0
"""Choosing takes at most one part in so many of the run's time."""


def most(config: TrainConfig) -> int:
    """Return how many threads a run may have: those of PyTorch here, which
    OMP_NUM_THREADS limits, or `train.threads` within OMP_NUM_THREADS.
    """
    if not config.threads:
        own = torch.get_num_threads()
    else:
        limit = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0]
        own = min(config.threads, int(limit or config.threads))
    # The same in all processes: the least of theirs.
    return int(-processes.largest(-own))


def choices(state: State, most_threads: int) -> tuple[int, ...]:
    """Return the numbers of threads that a run may begin with, the usual one first."""
    if state.threads and not state.config.threads:
        return (min(state.threads[-1][1], most_threads),)
    if state.step or not _may_change(state, most_threads):
        return (most_threads,)
    return (most_threads, 1)


def _may_change(state: State, most_threads: int) -> bool:
    on_cpu = state.device.type == "cpu"
    return on_cpu and most_threads > 1 and not state.config.threads


@contextmanager
def restored() -> Iterator[None]:
    """Within: a run may change the number of threads; afterwards it is as before."""
    with timing.threads(torch.get_num_threads()):
        yield


class Threads:
    """A hook that keeps a run at the quicker of one thread and all.

    Called after every step, before a checkpoint is written.

    Args:
        state: of the run, new or restored.
        dataset: what it is trained on.
        first: threads that a new run begins with.
        most_threads: that the run may have.
        announce: shows a text to the user.
    """

    def __init__(
        self,
        state: State,
        dataset: Dataset,
        first: int,
        most_threads: int,
        announce: Callable[[str], None],
    ) -> None:
        self.dataset = dataset
        self.most_threads = most_threads
        self.announce = announce
        self.may_change = _may_change(state, most_threads)
        self.window_steps = max(
            WINDOW_STEPS, *(phase.every for phase in state.objective.phases())
        )
        self.patience = 0.0  # seconds from one choice to the next, at least
        self.use(state, first if not state.step else choices(state, most_threads)[0])

    def use(self, state: State, count: int) -> None:
        """Compute with `count` threads from the next step on, and log it."""
        if not state.threads or state.threads[-1][1] != count:
            state.threads.append((state.step, count))
        torch.set_num_threads(count)
        self.chosen = time.monotonic()
        self._open_window(state)

    def _open_window(self, state: State) -> None:
        self.first_step = state.step
        self.first_second = state.seconds

    def __call__(self, state: State) -> None:
        if not self.may_change:
            return
        steps = state.step - self.first_step
        seconds = state.seconds - self.first_second
        complete = steps >= self.window_steps and seconds >= WINDOW_SECONDS
        if not processes.largest(complete):
            return
        pace = processes.largest(seconds / steps)
        self._open_window(state)
        if processes.largest(self._is_due(state, pace)):
            self._choose(state)
        else:
            state.pace = min(pace, state.pace or pace)

    def _is_due(self, state: State, pace: float) -> bool:
        """Whether to look at the machine again, at `pace` seconds a step."""
        since = time.monotonic() - self.chosen
        if since < self.patience:
            return False
        slowed_down = bool(state.pace) and pace > SLOWER * state.pace
        limited = state.threads[-1][1] < self.most_threads
        return slowed_down or (limited and since > AGAIN_SECONDS)

    def _choose(self, state: State) -> None:
        """Compare one thread with all, and go on with the quicker."""
        began = time.monotonic()
        before = state.threads[-1][1]
        other = 1 if before > 1 else self.most_threads
        with timing.passes_only(state):
            choice = timing.choose_threads(state, self.dataset, (before, other))
        self.patience = COST_FACTOR * (time.monotonic() - began)
        self.use(state, choice.threads)
        state.pace = 0.0
        if choice.threads != before:
            self.announce(_describe(state, before, choice))


def _describe(state: State, before: int, choice: ThreadChoice) -> str:
    now = choice.threads
    next_step = state.step + 1
    change = say(
        f"Threads from step {next_step} on: {now} instead of {before}",
        f"从第 {next_step} 步起改用 {now} 个线程（原为 {before} 个）",
    )
    if not choice.seconds_per_row:
        return in_each(
            lambda: say(
                f"{change}; this machine is free again.", f"{change}；本机已恢复空闲。"
            )
        )
    gain = choice.seconds_per_row[before] / choice.seconds_per_row[now]
    return in_each(
        lambda: say(
            f"{change}, {gain:.1f} times as quick.",
            f"{change}，速度为原来的 {gain:.1f} 倍。",
        )
    )
