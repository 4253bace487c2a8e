"""The settings of a training run. Lengths of warm-up, decay and averaging are fractions of
the run, so that a recipe keeps its shape when `max_steps` changes.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import Annotated, Literal

from pydantic import Field

from miaobi.core.config import Former
from miaobi.core.errors import BadInput
from miaobi.core.language import say


def launched_processes() -> int:
    """Return how many processes torchrun has launched for this run; 1 without it."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def of_all_processes(accumulation: int) -> int:
    """Return the microbatches of a step of a run in which each process takes
    `accumulation`, as the setting was before it counted those of all processes.
    """
    return accumulation * launched_processes()


@dataclass(frozen=True)
class TrainConfig:
    max_steps: Annotated[int, Field(ge=1, le=1_000_000_000)] = 1000
    """Optimiser steps in the whole run."""
    batch_size: Annotated[int, Field(ge=1, le=1_000_000_000)] = 32
    """Examples in one microbatch."""
    microbatches: Annotated[
        int,
        Field(ge=1, le=1_000_000),
        Former("accumulation", of_all_processes, until="0.3"),
    ] = field(default_factory=launched_processes)
    """Microbatches of a step, those of all processes together; each process takes its
    share. One for each process unless set. The gradient is exactly that of one batch of
    them all.
    """
    optimizer: Literal["adamw", "sgd", "muon"] = "adamw"
    """muon: Muon on the hidden matrices, AdamW on embeddings, heads, gains and biases."""
    learning_rate: Annotated[float, Field(gt=0, le=10)] = 1e-3
    """Peak rate (of AdamW or SGD)."""
    matrix_learning_rate: Annotated[float, Field(gt=0, le=10)] = 0.02
    """Peak rate of Muon on the matrices."""
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.95
    """Momentum of SGD and Muon."""
    betas: tuple[
        Annotated[float, Field(ge=0, lt=1)], Annotated[float, Field(ge=0, lt=1)]
    ] = (0.9, 0.95)
    """Of AdamW."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.1
    """On matrices only: gains, biases and embeddings are not decayed."""
    schedule: Literal["cosine", "linear", "constant", "wsd"] = "cosine"
    """The rate after warm-up; wsd holds it, then falls linearly over the last `decay`
    of the run.
    """
    warmup: Annotated[float, Field(ge=0, le=1)] = 0.03
    """Fraction of the run over which the rate rises linearly."""
    decay: Annotated[float, Field(ge=0, le=1)] = 0.4
    """For wsd: the fraction of the run over which the rate falls."""
    final_learning_rate: Annotated[float, Field(ge=0, le=1)] = 0.0
    """The rate at the end, as a fraction of the peak."""
    clip: Annotated[float, Field(ge=0)] = 1.0
    """Largest gradient norm; 0 for no limit."""
    ema: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Half-life of the averaged weights, as a fraction of the run (0.03 to 0.08 does
    well); 0 for none.
    """
    precision: Literal["float32", "bfloat16"] = "float32"
    """bfloat16 runs the forward pass in autocast: only for hardware that has it."""
    device: str = "auto"
    """cpu, cuda, cuda:1, mps; auto takes the best there is."""
    threads: Annotated[int, Field(ge=0, le=100_000)] = 0
    """Threads on a CPU. 0 takes all or one, whichever is quicker, and looks again when
    the run slows down; a number fixes it, and with it the last bits of the result.
    OMP_NUM_THREADS is the most.
    """
    seed: Annotated[int, Field(ge=0, le=2**63 - 1)] = 0
    validate_every: Annotated[int, Field(ge=0, le=1_000_000_000)] = 0
    """Steps between validations; 0 for ten in the run."""
    validation_batches: Annotated[int, Field(ge=0, le=1_000_000_000)] = 0
    """Batches a validation looks at while training; 0 for a fifth of the steps between
    two. The last one sees the whole set.
    """
    watch: str = "loss"
    """What validations are compared by, for the best and for stopping early: loss, or a
    metric of the task (accuracy, f1).
    """
    patience: Annotated[int, Field(ge=0, le=1_000_000_000)] = 0
    """Stop after this many validations without a better one; 0 to go to the end."""
    checkpoint_every: Annotated[int, Field(ge=0, le=1_000_000_000)] = 0
    """Steps between checkpoints; 0 for ten in the run."""
    keep: Annotated[int, Field(ge=1)] = 2
    """Checkpoints to keep, beside the best."""
    sample_every: Annotated[int, Field(ge=0, le=1_000_000_000)] = 0
    """Steps between samples; 0 for four in the run."""
    log_every: Annotated[int, Field(ge=1, le=1_000_000_000)] = 10
    """Steps between lines in the log."""
    trackers: list[str] | None = None
    """tensorboard (the default where installed), wandb, or a name another package
    registered; [] for none.
    """
    max_minutes: Annotated[float, Field(gt=0)] | None = None
    """Refuse to start when the run is expected to take longer."""

    def __post_init__(self) -> None:
        self._check_shares(launched_processes())
        if self.schedule == "wsd" and self.warmup + self.decay > 1:
            raise BadInput(
                say(
                    f"train.warmup + train.decay is {self.warmup + self.decay:g}, more than the run.",
                    f"train.warmup 与 train.decay 之和为 {self.warmup + self.decay:g}，超过了整个训练。",
                ),
                say("Make them add up to at most 1.", "请让两者之和不超过 1。"),
            )

    def _check_shares(self, processes: int) -> None:
        """Raise BadInput where the processes cannot share the microbatches evenly."""
        if self.microbatches % processes == 0:
            return
        divisors = [
            count
            for count in range(1, self.microbatches + 1)
            if self.microbatches % count == 0
        ]
        english = ", ".join(map(str, divisors))
        chinese = "、".join(map(str, divisors))
        multiple = -(-self.microbatches // processes) * processes
        raise BadInput(
            say(
                f"train.microbatches is {self.microbatches}, which {processes} processes cannot share evenly.",
                f"train.microbatches 为 {self.microbatches}，无法由 {processes} 个进程平均分担。",
            ),
            say(
                f"Its divisors are {english}: launch as many processes, or set --train.microbatches {multiple}.",
                f"它的因数为 {chinese}：请启动相应数量的进程，或设置 --train.microbatches {multiple}。",
            ),
        )

    @property
    def batches_along_the_way(self) -> int:
        """Batches of each validation but the last."""
        return self.validation_batches or max(8, self.every("validate_every", 10) // 5)

    def every(self, name: str, parts: int) -> int:
        """`name` in steps, or a `parts`-th of the run where it is 0."""
        return getattr(self, name) or max(self.max_steps // parts, 1)
