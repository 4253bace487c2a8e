"""The contract between the training loop and a model: phases, each with a module to
train and a loss to train it by.

A language model has one phase. A GAN has two, discriminator and generator; a lazy
penalty is a phase with `every=16`. The loop (`train/loop.py`) knows this file and no
family.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from miaobi.core.artifacts import Artifact
from miaobi.data.dataset import Batch as Batch
from miaobi.data.dataset import Dataset


@dataclass(frozen=True)
class Loss:
    """A sum and its divisor, so that batches of unequal size accumulate exactly."""

    total: Tensor
    """The summed loss, a scalar."""
    count: int
    """Terms in the sum (tokens, pictures)."""
    metrics: Mapping[str, Tensor] = field(default_factory=dict)
    """Scalars, summed likewise and reported as metric / count."""


@dataclass(frozen=True)
class Phase:
    """What one optimiser does: minimise `loss(batch)` over `module`'s parameters."""

    name: str
    module: nn.Module
    loss: Callable[[Batch], Loss]
    every: int = 1
    """Steps between two updates."""
    learning_rate: float = 1.0
    """Multiplies the run's learning rate, for a phase with a pace of its own."""
    begins: float = 0.0
    """The share of the run that passes before the phase joins."""
    rates: Mapping[str, float] = field(default_factory=dict)
    """Multiplies the learning rate of single parameters of `module`, by name; 1 for others."""


class Objective(nn.Module, ABC):
    """A model together with what it is trained for."""

    unit = "examples"
    """What `Loss.count` counts, for the rate in the log."""
    progress = 0.0
    """The share of the run that is done; the loop sets it before every step, for warm-ups
    inside a loss.
    """
    controls: frozenset[str] | None = None
    """Fields of a request that the trained model supports, of those that depend on the
    model; recorded in its bundle. None where none does.
    """
    adapter = False
    """Whether a saved model is an adapter only, for a base that is stored elsewhere."""

    @abstractmethod
    def phases(self) -> list[Phase]:
        """Return the phases in the order of a step."""

    def prepare(self, batch: Batch) -> Batch:
        """Return the batch for the phases; work without gradients (frozen encoders)
        belongs here. Called once a batch, by `prepared` alone.
        """
        return batch

    def before_step(self) -> None:
        """Run before each step, with `progress` set: gradual unfreezing."""

    def after_step(self, step: int, max_steps: int) -> None:
        """Run after the optimisers' update, with its gradients: allocation of ranks.

        Args:
            step: number of the step, from 1.
            max_steps: of the run.
        """

    def validate(self, batch: Batch) -> Loss:
        """Return the loss that validation reports and early stopping watches."""
        return self.phases()[0].loss(batch)


@torch.no_grad()
def prepared(objective: Objective, batch: Batch) -> Batch:
    """Return a batch of the data as the objective's losses take it, on its device.

    Whoever takes a batch from the data calls this, once: training, validation, the
    estimate, and the evaluation of tuned models.
    """
    device = next(objective.parameters()).device
    return objective.prepare(to_device(batch, device))


def to_device(batch: Batch, device: torch.device) -> Batch:
    if device.type == "cpu":
        return batch
    return {name: value.to(device, non_blocking=True) for name, value in batch.items()}


class Family(Protocol):
    """A kind of model that is trained from scratch: a module in `families/`."""

    NAME: str
    """As in the families registry."""
    MODALITY: str
    """Of what it makes, as its requests say (`Request.makes`)."""
    DATA: str
    """A name in the datasets registry. Where a module also has DATA_SETTINGS, a mapping,
    these are the defaults of the recipe's `data` section.
    """
    Config: type
    """A dataclass: the `model` section of a recipe."""
    Sample: type
    """A dataclass: the `sample` section of a recipe."""

    def build(self, config: Any, spec: Any) -> Objective:
        """Return an untrained model for data of this spec (the dataset's `spec`)."""
        ...

    def sample(
        self, objective: Any, dataset: Dataset, config: Any
    ) -> Sequence[Artifact]:
        """Return what the model makes at this point of its training.

        Args:
            objective: what `build` returned.
            dataset: the data it learns from, for held-out examples.
            config: a `Sample`.
        """
        ...

    def save(self, objective: Objective, folder: Path) -> None:
        """Write weights (safetensors) and configuration in the ecosystem's layout."""
        ...

    def load(self, folder: Path) -> nn.Module:
        """Return the model of a saved folder, in evaluation mode."""
        ...
