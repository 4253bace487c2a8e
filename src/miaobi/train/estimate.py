"""Before a run starts: how long it will take, how much memory and disk it needs, and
whether that is here.

Nothing of the run is touched: weights, buffers and random state are as before.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

import psutil
import torch
from torch import Tensor

from miaobi.core.errors import DoesNotFit
from miaobi.core.language import in_each, say
from miaobi.core.load import Load
from miaobi.core.machine import BUSY_PERCENT
from miaobi.core.quantities import format_duration
from miaobi.data.dataset import Dataset
from miaobi.train import processes, threads, timing
from miaobi.train.loop import State, training_only
from miaobi.train.timing import StepTime

SHORT_SECONDS = 10.0
"""Of a run that is too short for it to matter what else the machine does."""
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
    threads: int = field(default_factory=torch.get_num_threads)
    """With which the run is quickest here."""
    most_threads: int = field(default_factory=torch.get_num_threads)
    """That the run may have."""
    others_percent: float = 0.0
    """What other programs use of the machine; 0 where it is not busy."""
    seconds_alone: float | None = None
    """What the run would take at most if they did not run, where that is known."""

    def __str__(self) -> str:
        size = f"{self.parameters / 1e6:.2f} M"
        part = f"{self.trained / 1e6:.2f} M"
        frozen = self.trained < self.parameters
        some = say(f", {part} of them trained", f"，其中训练 {part}") if frozen else ""
        duration = format_duration(self.seconds)
        memory = f"{self.memory / 1e9:.1f} GB"
        free = f"{self.free_memory / 1e9:.1f} GB"
        disk = f"{self.disk / 1e6:.0f} MB"
        needs = in_each(
            lambda: say(
                f"{size} parameters{some}. Expected: {duration}, {memory} of memory ({free} free), {disk} of disk.",
                f"{size} 个参数{some}。预计需要 {duration}，内存 {memory}（可用 {free}），磁盘 {disk}。",
            )
        )
        return needs + self._describe_threads() + self._describe_machine()

    def _describe_threads(self) -> str:
        if self.threads == self.most_threads:
            return ""
        return say(
            f" {self.threads} of {self.most_threads} threads are used: that is quicker here.",
            f"使用 {self.most_threads} 个线程中的 {self.threads} 个：此处更快。",
        )

    def _describe_machine(self) -> str:
        """Whether the machine is busy, and what the run would take alone."""
        if not self.others_percent:
            return ""
        busy = say(
            f" This machine is busy: other programs use {self.others_percent:.0f} % of it",
            f"本机繁忙：其他程序占用 {self.others_percent:.0f}%",
        )
        if self.seconds_alone is None:
            return say(f"{busy}.", f"{busy}。")
        alone = format_duration(self.seconds_alone)
        return in_each(
            lambda: say(
                f"{busy}; alone, the run would take at most {alone}.",
                f"{busy}；若单独运行，最多需要 {alone}。",
            )
        )


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
    load = Load()
    most_threads = threads.most(state.config)
    counts = threads.choices(state, most_threads)
    with timing.preserved(state):
        row_bytes = _bytes_saved_for_backward(state, dataset) / timing.probe_rows(
            state.config
        )
        sizes = _sizes(state, row_bytes, run)
        check_memory(sizes, row_bytes, state.config.batch_size)
        step = timing.time_step(state, dataset, counts)
    slowest = processes.largest(step.seconds)  # every process waits for it
    expected = replace(
        sizes,
        seconds=_seconds_left(state, slowest, sizes),
        threads=step.threads,
        most_threads=most_threads,
    )
    return _beside_others(expected, state, step, load)


def _beside_others(
    expected: Estimate, state: State, step: StepTime, load: Load
) -> Estimate:
    """The estimate with what else the machine does, where the run is long."""
    processes_here = processes.world_size()  # they would count as others
    if expected.seconds < SHORT_SECONDS or processes_here > 1:
        return expected
    others_percent = load.percent()
    if others_percent < BUSY_PERCENT:
        return expected
    alone = None
    if step.threads == 1:
        seconds = min(step.seconds, step.processor_seconds)
        alone = _seconds_left(state, seconds, expected)
    return replace(expected, others_percent=others_percent, seconds_alone=alone)


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
            f"This run needs about {sizes.memory / 1e9:.1f} GB of memory; {available / 1e9:.1f} GB are available.",
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
            in_each(
                lambda: say(
                    f"The run would take {duration}; train.max_minutes allows {max_minutes:g} min.",
                    f"训练预计需要 {duration}，而 train.max_minutes 只允许 {max_minutes:g} 分钟。",
                )
            ),
            say(
                f"--train.max_steps {fitting} would fit, or allow more time.",
                f"--train.max_steps {fitting} 可以满足，或放宽时间。",
            ),
        )


def _bytes_saved_for_backward(state: State, dataset: Dataset) -> int:
    """Bytes that autograd keeps for a batch of a few rows, in the phase that keeps most."""
    objective = state.objective
    sizes = dict[int, int]()  # of each storage, by its address

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        sizes[storage.data_ptr()] = storage.nbytes()
        return tensor

    rows = timing.probe_rows(state.config)
    batch = timing.first_rows(state, dataset, rows)
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


def _free_memory(state: State) -> int:
    if state.device.type == "cuda":
        return int(torch.cuda.mem_get_info(state.device)[0])
    return int(psutil.virtual_memory().available)


def _free_disk(folder: Path) -> int:
    while not folder.exists():
        folder = folder.parent
    return psutil.disk_usage(str(folder)).free
