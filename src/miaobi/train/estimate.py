"""Before a run starts: how long it will take, how much memory and disk it needs, and
whether that is here.

Nothing of the run is touched: weights, buffers and random state are as before.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import psutil
import torch
from torch import Tensor

from miaobi.core.errors import DoesNotFit
from miaobi.core.language import say
from miaobi.data.dataset import Dataset
from miaobi.train.config import TrainConfig
from miaobi.train.loop import State, moved, only

PROBE_ROWS = 2
TIMED_STEPS = 2
TIMING_SECONDS = 4.0  # a slow step is timed on a part of its batch, or once


@dataclass(frozen=True)
class Estimate:
    seconds: float
    """For all steps that remain, validations included."""
    memory: int
    """Peak bytes of the process (of the device, on CUDA)."""
    disk: int
    """Bytes of the checkpoints and the bundle."""
    parameters: int
    free_memory: int
    free_disk: int
    trained: int = 0
    """Parameters that move; the others are frozen."""

    def __str__(self) -> str:
        some = self.trained < self.parameters
        return say(
            f"{self.parameters / 1e6:.2f} M "
            f"parameters{f', {self.trained / 1e6:.2f} M of them trained' if some else ''}. Expected: {format_duration(self.seconds)}, {self.memory / 1e9:.1f} GB of memory"
            f" ({self.free_memory / 1e9:.1f} GB free), {self.disk / 1e6:.0f} MB of disk.",
            f"{self.parameters / 1e6:.2f} M 个参"
            f"数{f'，其中训练 {self.trained / 1e6:.2f} M' if some else ''}。"
            f"预计需要 {format_duration(self.seconds)}，内存 {self.memory / 1e9:.1f} GB"
            f"（可用 {self.free_memory / 1e9:.1f} GB），磁盘 {self.disk / 1e6:.0f} MB。",
        )


def format_duration(seconds: float) -> str:
    """A duration for people."""
    if seconds < 90:
        return say(f"{seconds:.0f} s", f"{seconds:.0f} 秒")
    if seconds < 5400:
        return say(f"{seconds / 60:.0f} min", f"{seconds / 60:.0f} 分钟")
    return say(f"{seconds / 3600:.1f} h", f"{seconds / 3600:.1f} 小时")


def estimate(state: State, dataset: Dataset, run: Path) -> Estimate:
    """Measure a few steps without taking them. Raises DoesNotFit before the first one
    when memory will not suffice.

    Memory: what autograd keeps for two rows, scaled to the batch, plus weights,
        gradients and optimiser state, plus what the process holds already. The full
        batch is only tried when that fits.
    """
    config = state.config
    with preserved(state):
        per_row = _kept_for_backward(state, dataset) / _probe_rows(config)
        parameters = sum(item.numel() for item in state.objective.parameters())
        trained = sum(
            item.numel() for item in state.objective.parameters() if item.requires_grad
        )
        weights = (
            4 * trained * (5 if config.ema else 4)
        )  # weights, gradient, two moments, average; frozen weights are in rss already
        memory = int(
            psutil.Process().memory_info().rss
            + weights
            + 1.5 * per_row * config.batch_size
        )
        free = _free_memory(state)
        # Checkpoints and the best: weights and two moments. The bundle, and the same in
        # the store.
        disk = 4 * (
            trained * 3 * (config.keep + 1)
            + 2 * (trained if state.objective.adapter else parameters)
        )
        known = Estimate(0.0, memory, disk, parameters, free, _free_disk(run), trained)
        check_memory(known, per_row, config.batch_size)
        step = seconds_per_step(state, dataset)
    left = config.max_steps - state.step
    glances = config.glance * left / config.every("validate_every", 10)
    # A forward pass is a third of a step, and half of one that works out no gradients
    # of weights.
    seconds = step * left + glances * step / config.accumulation / (
        2 if trained < parameters / 2 else 3
    )
    return replace(known, seconds=seconds)


def check_memory(known: Estimate, per_row: float, batch_size: int) -> None:
    room = psutil.Process().memory_info().rss + known.free_memory
    if known.memory <= room:
        return
    fitting = int(batch_size - (known.memory - room) / (1.5 * per_row + 1))
    remedy = (
        say(
            f"Take --train.batch_size {fitting} and raise --train.accumulation to keep the batch as it is.",
            f"请使用 --train.batch_size {fitting}，并调大 --train.accumulation 以保持总批量。",
        )
        if fitting >= 1
        else say(
            "Take a smaller model (--model.*) or a shorter --data.context_length.",
            "请使用更小的模型（--model.*）或更短的 --data.context_length。",
        )
    )
    raise DoesNotFit(
        say(
            f"This run needs about {known.memory / 1e9:.1f} GB of memory; {room / 1e9:.1f} GB can be had.",
            f"训练约需 {known.memory / 1e9:.1f} GB 内存，可用 {room / 1e9:.1f} GB。",
        ),
        remedy,
    )


def check_limits(known: Estimate, max_minutes: float | None, max_steps: int) -> None:
    """Raise DoesNotFit when disk or the time that was allowed will not suffice."""
    if known.disk > known.free_disk:
        raise DoesNotFit(
            say(
                f"The run writes about {known.disk / 1e6:,.0f} MB; {known.free_disk / 1e6:,.0f} MB of disk are free.",
                f"训练约需写入 {known.disk / 1e6:,.0f} MB，磁盘剩余 {known.free_disk / 1e6:,.0f} MB。",
            ),
            say(
                "Free some space, lower --train.keep, or choose another place with --runs.",
                "请清理空间、调小 --train.keep，或用 --runs 换一个位置。",
            ),
        )
    if max_minutes is not None and known.seconds > 60 * max_minutes:
        fitting = int(max_steps * 60 * max_minutes / known.seconds)
        raise DoesNotFit(
            say(
                f"The run would take {format_duration(known.seconds)}; train.max_minutes allows {max_minutes:g} min.",
                f"训练预计需要 {format_duration(known.seconds)}，而 train.max_minutes 只允许 {max_minutes:g} 分钟。",
            ),
            say(
                f"--train.max_steps {fitting} would fit, or allow more time.",
                f"--train.max_steps {fitting} 可以满足，或放宽时间。",
            ),
        )


@contextmanager
def preserved(state: State) -> Iterator[None]:
    """Put weights, buffers, gradients and random state back afterwards. Frozen weights
    are not copied: nothing moves them.
    """
    kept = set(state.objective.state_dict())
    tensors = [
        *(item for item in state.objective.parameters() if item.requires_grad),
        *(item for name, item in state.objective.named_buffers() if name in kept),
    ]
    copies = [tensor.detach().clone() for tensor in tensors]
    try:
        with torch.random.fork_rng():
            yield
    finally:
        with torch.no_grad():
            for tensor, before in zip(tensors, copies):
                tensor.copy_(before)
        state.objective.zero_grad(set_to_none=True)


def _kept_for_backward(state: State, dataset: Dataset) -> int:
    """Bytes that autograd keeps for a batch of a few rows, in the phase that keeps most."""
    kept, largest = dict[int, int](), 0

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.no_grad():
        batch = state.objective.prepare(
            moved(dataset.batch("train", 0, _probe_rows(state.config), 0), state.device)
        )
    weights = {
        parameter.untyped_storage().data_ptr()
        for parameter in state.objective.parameters()
    }
    for phase in state.objective.phases():
        kept.clear()
        with (
            torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor),
            only(state.objective, phase.module),
        ):
            phase.loss(batch)
        largest = max(
            largest,
            sum(size for pointer, size in kept.items() if pointer not in weights),
        )
    return largest


def _probe_rows(config: TrainConfig) -> int:
    return min(PROBE_ROWS, config.batch_size)


def seconds_per_step(state: State, dataset: Dataset) -> float:
    """Of every phase, forward and backward, and of the optimisers' step. A few rows
    warm up; the batch is timed whole where that is quick, otherwise as much of it as
    TIMING_SECONDS hold.
    """
    config, rows = state.config, _probe_rows(state.config)
    taken = _timed(state, dataset, rows)
    if taken < TIMING_SECONDS:
        rows = min(config.batch_size, max(rows, int(rows * TIMING_SECONDS / taken)))
        began, best = time.perf_counter(), float("inf")
        for _ in range(TIMED_STEPS):
            best = min(best, _timed(state, dataset, rows))
            if time.perf_counter() - began > TIMING_SECONDS / 2:
                break
        taken = best
    return (
        taken / rows * config.batch_size * config.accumulation
        + _seconds_of_optimizers(state)
    )


def _timed(state: State, dataset: Dataset, rows: int) -> float:
    """Seconds of one forward and backward pass of all phases, each by its share of the steps."""
    with torch.no_grad():
        batch = state.objective.prepare(
            moved(dataset.batch("train", 0, rows, 0), state.device)
        )
    taken = 0.0
    for phase in state.objective.phases():
        began = time.perf_counter()
        with only(state.objective, phase.module):
            phase.loss(batch).total.backward()
        if state.device.type == "cuda":
            torch.cuda.synchronize(state.device)
        taken += (time.perf_counter() - began) / phase.every * (1 - phase.begins)
    return taken


def _seconds_of_optimizers(state: State) -> float:
    """Of one step of them all. A resumed run's are left alone: they hold what it has learned."""
    optimizers = {
        id(optimizer): optimizer
        for found in state.optimizers.values()
        for optimizer in found
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


def _free_memory(state: State) -> int:
    if state.device.type == "cuda":
        return int(torch.cuda.mem_get_info(state.device)[0])
    return int(psutil.virtual_memory().available)


def _free_disk(folder: Path) -> int:
    while not folder.exists():
        folder = folder.parent
    return psutil.disk_usage(str(folder)).free
