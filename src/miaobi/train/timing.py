"""How long a step takes on this machine as it is now, and with how many threads it is
quickest: measured without taking a step.

A small network's operations are so short that its threads mostly wait for each other.
Beside other programs, one of them is often not running while the others wait for it: a
step with two threads can take ten times as long as with one (bench/busy_machine.py).
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from miaobi.core.load import Load
from miaobi.core.machine import BUSY_PERCENT
from miaobi.data.dataset import Batch, Dataset
from miaobi.nn.objective import prepared
from miaobi.train import processes
from miaobi.train.config import TrainConfig
from miaobi.train.loop import State, training_only

PROBE_ROWS = 2
"""Rows of a first, short pass."""
ROUNDS = 3
"""Passes with each number of threads, in turn, of which the median counts."""
TIMED_STEPS = 2
TIMING_SECONDS = 4.0
"""A slower step is timed on a part of its batch, or once."""
MARGIN = 0.9
"""Another number of threads is taken where it needs less than this share of the time."""


@dataclass(frozen=True)
class Pass:
    """One forward and backward pass of all phases, each by its share of the steps."""

    seconds: float
    processor_seconds: float
    """Of the calling thread: with one thread, what the pass takes if nothing else runs."""


@dataclass(frozen=True)
class ThreadChoice:
    threads: int
    """The quickest number."""
    seconds_per_row: dict[int, float]
    """By the number of threads; empty where there was nothing to choose."""


@dataclass(frozen=True)
class StepTime:
    threads: int
    """The number with which a step is quickest."""
    seconds: float
    """Of a step, as the machine is now."""
    processor_seconds: float
    """Of a step's passes: with one thread, what they take if nothing else runs."""


@contextmanager
def threads(count: int) -> Iterator[None]:
    """Within: PyTorch computes with `count` threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def preserved(state: State) -> Iterator[None]:
    """Within: anything may be tried; afterwards weights, buffers, gradients and random
    state are as before. Frozen weights are not copied: nothing moves them.
    """
    trained = [item for item in state.objective.parameters() if item.requires_grad]
    copies = [item.detach().clone() for item in trained]
    try:
        with passes_only(state):
            yield
    finally:
        with torch.no_grad():
            for parameter, before in zip(trained, copies, strict=True):
                parameter.copy_(before)


@contextmanager
def passes_only(state: State) -> Iterator[None]:
    """Within: losses and gradients may be computed; afterwards buffers and random state
    are as before, and there are no gradients.
    """
    objective = state.objective
    saved = set(objective.state_dict())
    buffers = [item for name, item in objective.named_buffers() if name in saved]
    copies = [item.detach().clone() for item in buffers]
    try:
        with torch.random.fork_rng():
            yield
    finally:
        with torch.no_grad():
            for buffer, before in zip(buffers, copies, strict=True):
                buffer.copy_(before)
        objective.zero_grad(set_to_none=True)


def time_step(state: State, dataset: Dataset, counts: Sequence[int]) -> StepTime:
    """Return the time of a step with the quickest of these numbers of threads.

    Weights may move and need `preserved`.

    Args:
        state: the objective, its settings and its optimisers.
        dataset: rows of its training split are used.
        counts: numbers of threads; the first is kept unless another is clearly quicker.
    """
    choice = choose_threads(state, dataset, counts)
    config = state.config
    with threads(choice.threads):
        microbatch = _time_microbatch(state, dataset)
        optimizers = _time_optimizers(state)
    own = config.microbatches // processes.world_size()
    return StepTime(
        choice.threads,
        microbatch.seconds * own + optimizers,
        microbatch.processor_seconds * own + optimizers,
    )


def choose_threads(
    state: State, dataset: Dataset, counts: Sequence[int]
) -> ThreadChoice:
    """Return the quickest of these numbers of threads, the same in all processes.

    Only losses and gradients are computed, see `passes_only`.

    Args:
        state: the objective and its settings.
        dataset: rows of its training split are used.
        counts: the first is kept unless another is clearly quicker.
    """
    if len(counts) == 1:
        return ThreadChoice(counts[0], {})
    rows = probe_rows(state.config)
    load = Load()
    with threads(max(counts)):
        seconds = processes.largest(time_pass(state, dataset, rows).seconds)
    longest = seconds * max(counts)
    if longest > TIMING_SECONDS and processes.largest(load.percent()) < BUSY_PERCENT:
        # Long operations, and nothing else runs: one thread would only take longer.
        return ThreadChoice(max(counts), {})
    with threads(min(counts)):
        seconds = max(seconds, time_pass(state, dataset, rows).seconds)
    rows = affordable_rows(state.config, seconds, TIMING_SECONDS / (2 * ROUNDS))
    times = _time_in_turn(state, dataset, rows, counts)
    choice = counts[0]
    for count in counts[1:]:
        if times[count] < MARGIN * times[choice]:
            choice = count
    return ThreadChoice(choice, times)


def _time_in_turn(
    state: State, dataset: Dataset, rows: int, counts: Sequence[int]
) -> dict[int, float]:
    """Seconds of a row by number of threads, as in the slowest process."""
    times: dict[int, list[float]] = {count: [] for count in counts}
    began = time.perf_counter()
    for _ in range(ROUNDS):
        for count in counts:
            with threads(count):
                times[count].append(time_pass(state, dataset, rows).seconds)
        if time.perf_counter() - began > TIMING_SECONDS / 2:
            break
    return {
        count: processes.largest(statistics.median(seconds)) / rows
        for count, seconds in times.items()
    }


def _time_microbatch(state: State, dataset: Dataset) -> Pass:
    """The time of the passes over a microbatch.

    A few rows warm up. The batch is timed whole where that is quick, otherwise as much
    of it as fits into TIMING_SECONDS.
    """
    config = state.config
    rows = probe_rows(config)
    timed = time_pass(state, dataset, rows)
    if timed.seconds < TIMING_SECONDS:
        rows = affordable_rows(config, timed.seconds, TIMING_SECONDS)
        timed = _fastest_pass(state, dataset, rows)
    factor = config.batch_size / rows
    return Pass(timed.seconds * factor, timed.processor_seconds * factor)


def _fastest_pass(state: State, dataset: Dataset, rows: int) -> Pass:
    """The fastest of TIMED_STEPS passes; the only one where that takes long."""
    began = time.perf_counter()
    passes = list[Pass]()
    for _ in range(TIMED_STEPS):
        passes.append(time_pass(state, dataset, rows))
        if time.perf_counter() - began > TIMING_SECONDS / 2:
            break
    return min(passes, key=lambda item: item.seconds)


def time_pass(state: State, dataset: Dataset, rows: int) -> Pass:
    """Return the time of one pass over the first rows of the training data."""
    batch = first_rows(state, dataset, rows)
    seconds = 0.0
    processor_seconds = 0.0
    for phase in state.objective.phases():
        began = time.perf_counter()
        processor_began = time.thread_time()
        with training_only(state.objective, phase.module):
            torch.autograd.backward(phase.loss(batch).total)
        if state.device.type == "cuda":
            torch.cuda.synchronize(state.device)
        share = (1 - phase.begins) / phase.every
        seconds += (time.perf_counter() - began) * share
        processor_seconds += (time.thread_time() - processor_began) * share
    return Pass(seconds, processor_seconds)


def _time_optimizers(state: State) -> float:
    """Seconds of one step of all optimisers; 0 for a resumed run, whose state must stay."""
    optimizers = {
        id(optimizer): optimizer
        for of_phase in state.optimizers.values()
        for optimizer in of_phase
    }.values()
    if any(optimizer.state for optimizer in optimizers):
        return 0.0
    best = float("inf")
    for _ in range(1 + TIMED_STEPS):
        began = time.perf_counter()
        for optimizer in optimizers:
            optimizer.step()
        best = min(best, time.perf_counter() - began)
    for optimizer in optimizers:
        optimizer.state.clear()
    return best


def first_rows(state: State, dataset: Dataset, rows: int) -> Batch:
    """Return the first rows of the training data as the phases get them."""
    return prepared(state.objective, dataset.batch("train", 0, rows, 0))


def probe_rows(config: TrainConfig) -> int:
    return min(PROBE_ROWS, config.batch_size)


def affordable_rows(config: TrainConfig, seconds: float, limit: float) -> int:
    """Return how many rows of a batch pass in `limit` seconds, where the first few take
    `seconds`; at least those.
    """
    rows = probe_rows(config)
    return min(config.batch_size, max(rows, int(rows * limit / seconds)))
