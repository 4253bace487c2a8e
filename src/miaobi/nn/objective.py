"""What the training loop knows of a model: phases, each with a module to improve and a
loss to improve it by.

A language model has one phase. A GAN has two, discriminator and generator; a lazy
penalty is a phase with `every=16`. The loop (`train/loop.py`) knows this file and no
family.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor, nn

from miaobi.data.dataset import Batch as Batch


@dataclass(frozen=True)
class Loss:
    """A sum and what to divide it by, so that batches of unequal size accumulate exactly.

    total: scalar, the summed loss. count: how many terms are in it (tokens, pictures).
        metrics: scalars, summed likewise, reported as metric / count.
    """

    total: Tensor
    count: int
    metrics: Mapping[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class Phase:
    """One step of one optimiser: `loss(batch)` is minimised over the parameters of
    `module`, every `every` steps.
    """

    name: str
    module: nn.Module
    loss: Callable[[Batch], Loss]
    every: int = 1
    learning_rate: float = 1.0
    """Multiplies the run's learning rate, for phases that want their own pace."""
    begins: float = 0.0
    """The share of the run that passes before the phase joins."""
    rates: Mapping[str, float] = field(default_factory=dict)
    """Multiplies the learning rate of single parameters of `module`, by name; 1 for
    those that are not named.
    """


class Objective(nn.Module, ABC):
    """A model together with what it is trained for."""

    unit = "examples"
    """What a loss counts, for "so many a second"."""
    progress = 0.0
    """The share of the run that is behind, set by the loop before every step: for
    warm-ups inside a loss.
    """
    adapter = False
    """Whether a finished model is only what was trained, to be put beside a base that
    lies elsewhere.
    """

    @abstractmethod
    def phases(self) -> list[Phase]:
        """In the order in which a step walks them."""

    def prepare(self, batch: Batch) -> Batch:
        """Work without gradients before the phases see a batch (frozen encoders).
        Called once a batch.
        """
        return batch

    def before_step(self) -> None:
        """Before each step, with `progress` set: for what thaws as a run goes on."""

    def after_step(self, step: int, max_steps: int) -> None:
        """After the optimisers moved in step number `step` (from 1) of `max_steps`, its
        gradients still there: for ranks that are allocated anew.
        """

    def validate(self, batch: Batch) -> Loss:
        """The loss that validation reports and early stopping watches."""
        return self.phases()[0].loss(batch)


class Family(Protocol):
    """A kind of model that can be trained from scratch: a module in `families/` with these names.

    NAME; MODALITY ("text", "image", ...); DATA (a name in the datasets registry);
    Config (a dataclass).
    """

    NAME: str
    MODALITY: str
    DATA: str
    Config: type

    def build(self, config: Any, spec: Any) -> Objective:
        """A fresh model for data of this spec (the dataset's `spec`)."""
        ...

    def save(self, objective: Objective, folder: Path) -> None:
        """Write weights and configuration in the layout the ecosystem expects:
        safetensors, no pickle.
        """
        ...

    def load(self, folder: Path) -> nn.Module:
        """The model of a saved folder, ready for `engines/native`."""
        ...
