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
from miaobi.data.dataset import Batch, Dataset
from miaobi.nn.objective import prepared
from miaobi.train import processes
from miaobi.train.config import TrainConfig
from miaobi.train.loop import State, training_only

PROBE_ROWS = 2
"""Rows that memory is measured on."""
TIMED_STEPS = 2
TIMING_SECONDS = 4.0
"""A slower step is timed on a part of its batch, or once."""
FLOAT_BYTES = 4
SAFETY = 1.5
"""On the memory that autograd needs: measured peaks lie above what it keeps."""


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
        size = f"{self.parameters / 1e6:.2f} M"
        part = f"{self.trained / 1e6:.2f} M"
        frozen = self.trained < self.parameters
        some = say(f", {part} of them trained", f"，其中训练 {part}") if frozen else ""
        duration = format_duration(self.seconds)
        memory = f"{self.memory / 1e9:.1f} GB"
        free = f"{self.free_memory / 1e9:.1f} GB"
        disk = f"{self.disk / 1e6:.0f} MB"
        return say(
            f"{size} parameters{some}. Expected: {duration}, {memory} of memory ({free} free), {disk} of disk.",
            f"{size} 个参数{some}。预计需要 {duration}，内存 {memory}（可用 {free}），磁盘 {disk}。",
        )


def format_duration(seconds: float) -> str:
    """A duration for people."""
    if seconds < 90:
        return say(f"{seconds:.0f} s", f"{seconds:.0f} 秒")
    if seconds < 5400:
        return say(f"{seconds / 60:.0f} min", f"{seconds / 60:.0f} 分钟")
    return say(f"{seconds / 3600:.1f} h", f"{seconds / 3600:.1f} 小时")


def estimate(state: State, dataset: Dataset, run: Path) -> Estimate:
    """Measure a few steps without taking them.

    Memory is what autograd keeps for two rows, scaled to the batch, plus weights,
    gradients and optimiser state, plus what the process holds already. The full batch
    is only tried when that fits.

    Args:
        state: left as it is.
        dataset: rows of its training split are used.
        run: the folder that the run writes to, or one above it.

    Raises DoesNotFit before the first step when memory will not suffice.
    """
    with preserved(state):
        row_bytes = _bytes_saved_for_backward(state, dataset) / _probe_rows(
            state.config
        )
        sizes = _sizes(state, row_bytes, run)
        check_memory(sizes, row_bytes, state.config.batch_size)
        step = seconds_per_step(state, dataset)
    return replace(sizes, seconds=_seconds_left(state, step, sizes))


def _sizes(state: State, row_bytes: float, run: Path) -> Estimate:
    """The estimate without its time."""
    config = state.config
    parameters = list(state.objective.parameters())
    total = sum(item.numel() for item in parameters)
    trained = sum(item.numel() for item in parameters if item.requires_grad)
    # Weights, gradient, two moments, and the average. Frozen weights are in the
    # process's memory already.
    copies = 5 if config.ema else 4
    memory = (
        psutil.Process().memory_info().rss
        + FLOAT_BYTES * trained * copies
        + SAFETY * row_bytes * config.batch_size
    )
    # Checkpoints and the best one: weights and two moments. The bundle is written to
    # the run and to the store.
    checkpoints = trained * 3 * (config.keep + 1)
    bundles = 2 * (trained if state.objective.adapter else total)
    return Estimate(
        seconds=0.0,
        memory=int(memory),
        disk=FLOAT_BYTES * (checkpoints + bundles),
        parameters=total,
        free_memory=_free_memory(state),
        free_disk=_free_disk(run),
        trained=trained,
    )


def _seconds_left(state: State, step: float, sizes: Estimate) -> float:
    """Seconds of all steps that remain, at `step` seconds each, and of their validations."""
    config = state.config
    steps = config.max_steps - state.step
    validations = steps / config.every("validate_every", 10)
    batches = config.batches_along_the_way * validations
    # A forward pass is a third of a step, and half of one that computes no gradients
    # of weights.
    mostly_frozen = sizes.trained < sizes.parameters / 2
    share = 2 if mostly_frozen else 3
    return step * steps + batches * step / config.microbatches / share


def check_memory(sizes: Estimate, row_bytes: float, batch_size: int) -> None:
    """Raise DoesNotFit when memory will not suffice.

    Args:
        sizes: what is needed and what is free.
        row_bytes: what autograd keeps for one row of a batch.
        batch_size: rows of the batch.
    """
    available = psutil.Process().memory_info().rss + sizes.free_memory
    if sizes.memory <= available:
        return
    excess = sizes.memory - available
    fitting = int(batch_size - excess / (SAFETY * row_bytes + 1))
    if fitting >= 1:
        remedy = say(
            f"Take --train.batch_size {fitting} and raise --train.microbatches to keep the batch as it is.",
            f"请使用 --train.batch_size {fitting}，并调大 --train.microbatches 以保持总批量。",
        )
    else:
        remedy = say(
            "Take a smaller model (--model.*) or a shorter --data.context_length.",
            "请使用更小的模型（--model.*）或更短的 --data.context_length。",
        )
    raise DoesNotFit(
        say(
            f"This run needs about {sizes.memory / 1e9:.1f} GB of memory; {available / 1e9:.1f} GB can be had.",
            f"训练约需 {sizes.memory / 1e9:.1f} GB 内存，可用 {available / 1e9:.1f} GB。",
        ),
        remedy,
    )


def check_limits(estimate: Estimate, max_minutes: float | None, max_steps: int) -> None:
    """Raise DoesNotFit when the disk, or the minutes allowed, will not suffice."""
    if estimate.disk > estimate.free_disk:
        needed = f"{estimate.disk / 1e6:,.0f} MB"
        free = f"{estimate.free_disk / 1e6:,.0f} MB"
        raise DoesNotFit(
            say(
                f"The run writes about {needed}; {free} of disk are free.",
                f"训练约需写入 {needed}，磁盘剩余 {free}。",
            ),
            say(
                "Free some space, lower --train.keep, or choose another folder with --runs.",
                "请清理空间、调小 --train.keep，或用 --runs 换一个位置。",
            ),
        )
    if max_minutes is not None and estimate.seconds > 60 * max_minutes:
        fitting = int(max_steps * 60 * max_minutes / estimate.seconds)
        duration = format_duration(estimate.seconds)
        raise DoesNotFit(
            say(
                f"The run would take {duration}; train.max_minutes allows {max_minutes:g} min.",
                f"训练预计需要 {duration}，而 train.max_minutes 只允许 {max_minutes:g} 分钟。",
            ),
            say(
                f"--train.max_steps {fitting} would fit, or allow more time.",
                f"--train.max_steps {fitting} 可以满足，或放宽时间。",
            ),
        )


@contextmanager
def preserved(state: State) -> Iterator[None]:
    """Within: anything may be tried; afterwards weights, buffers, gradients and random
    state are as before. Frozen weights are not copied: nothing moves them.
    """
    objective = state.objective
    saved = set(objective.state_dict())
    trained = [item for item in objective.parameters() if item.requires_grad]
    buffers = [item for name, item in objective.named_buffers() if name in saved]
    tensors = [*trained, *buffers]
    copies = [tensor.detach().clone() for tensor in tensors]
    try:
        with torch.random.fork_rng():
            yield
    finally:
        with torch.no_grad():
            for tensor, before in zip(tensors, copies):
                tensor.copy_(before)
        objective.zero_grad(set_to_none=True)


def _bytes_saved_for_backward(state: State, dataset: Dataset) -> int:
    """Bytes that autograd keeps for a batch of a few rows, in the phase that keeps most."""
    objective = state.objective
    sizes = dict[int, int]()  # of each storage, by its address

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        sizes[storage.data_ptr()] = storage.nbytes()
        return tensor

    batch = _first_rows(state, dataset, _probe_rows(state.config))
    weights = {item.untyped_storage().data_ptr() for item in objective.parameters()}
    largest = 0
    for phase in objective.phases():
        sizes.clear()
        with (
            torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor),
            training_only(objective, phase.module),
        ):
            phase.loss(batch)
        activations = (size for key, size in sizes.items() if key not in weights)
        largest = max(largest, sum(activations))
    return largest


def _first_rows(state: State, dataset: Dataset, rows: int) -> Batch:
    """The first rows of the training data as the phases get them."""
    return prepared(state.objective, dataset.batch("train", 0, rows, 0))


def _probe_rows(config: TrainConfig) -> int:
    return min(PROBE_ROWS, config.batch_size)


def seconds_per_step(state: State, dataset: Dataset) -> float:
    """Seconds of every phase, forward and backward, and of the optimisers' step.

    A few rows warm up. The batch is timed whole where that is quick, otherwise as much
    of it as fits into TIMING_SECONDS.
    """
    config = state.config
    rows = _probe_rows(config)
    seconds = _time_phases(state, dataset, rows)
    if seconds < TIMING_SECONDS:
        affordable = int(rows * TIMING_SECONDS / seconds)
        rows = min(config.batch_size, max(rows, affordable))
        seconds = _fastest_pass(state, dataset, rows)
    microbatch = seconds / rows * config.batch_size
    own = config.microbatches // processes.world_size()
    return microbatch * own + _time_optimizers(state)


def _fastest_pass(state: State, dataset: Dataset, rows: int) -> float:
    """Seconds of the fastest of TIMED_STEPS passes; one where that takes long."""
    began = time.perf_counter()
    best = float("inf")
    for _ in range(TIMED_STEPS):
        best = min(best, _time_phases(state, dataset, rows))
        if time.perf_counter() - began > TIMING_SECONDS / 2:
            break
    return best


def _time_phases(state: State, dataset: Dataset, rows: int) -> float:
    """Seconds of one forward and backward pass of all phases, each by its share of the steps."""
    batch = _first_rows(state, dataset, rows)
    seconds = 0.0
    for phase in state.objective.phases():
        began = time.perf_counter()
        with training_only(state.objective, phase.module):
            torch.autograd.backward(phase.loss(batch).total)
        if state.device.type == "cuda":
            torch.cuda.synchronize(state.device)
        share = (1 - phase.begins) / phase.every
        seconds += (time.perf_counter() - began) * share
    return seconds


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


def _free_memory(state: State) -> int:
    if state.device.type == "cuda":
        return int(torch.cuda.mem_get_info(state.device)[0])
    return int(psutil.virtual_memory().available)


def _free_disk(folder: Path) -> int:
    while not folder.exists():
        folder = folder.parent
    return psutil.disk_usage(str(folder)).free
