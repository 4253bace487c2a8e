"""What a model is evaluated by: the contract between models, their data and metrics.

A metric is a module in the metrics registry with MODALITY, NEEDS (names below) and
`measure(subject) -> list[Score]`. It is skipped, and the report says why, where the
subject lacks what it needs. `text.subject`, `image.subject` and `audio.subject` have the subjects.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol

from miaobi.evaluate.score import Score

LIKELIHOOD = "likelihood"
"""Log-probabilities of given texts."""
HELD_OUT = "held_out"
"""Data that the model was not trained on."""
TRAINING = "training"
"""The data that the model was trained on."""
SAMPLES = "samples"
"""What the model generates."""
REFERENCE = "reference"
"""Training or held-out images to compare samples with."""
BOUND = "bound"
"""A bound on the likelihood of given images or texts."""
CLASSES = "classes"
"""Classes that samples are asked for, and training images of each."""
RECONSTRUCTION = "rebuilding"
"""Encoding and decoding, or translating, given images."""
VOICE = "voice"
"""Further recordings of a speaker."""
HEARING = "hearing"
"""A recogniser, and the texts that were to be said."""

FILLS = "fills"
"""Writing what is missing between two parts of a source file."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Subject(ABC):
    """A model with its data. What metrics ask for is computed on first use."""

    modality: ClassVar[str]

    seed: int = 0
    """Decides samples, subsets and resampling."""
    listeners: list[Callable[[float], None]] = field(default_factory=list)
    """Called with the completed share of the current measurement."""

    def progress(self, share: float) -> None:
        """Report the completed share of the current measurement."""
        for listener in self.listeners:
            listener(share)

    def concerns(self, needs: frozenset[str]) -> bool:
        """Return whether a metric with these needs says anything of such a model."""
        return True

    @abstractmethod
    def lacks(self, needs: frozenset[str]) -> str:
        """Return why a metric with these needs cannot be measured; empty if it can."""


class Metric(Protocol):
    """A module in the metrics registry."""

    MODALITY: str
    NEEDS: frozenset[str]

    def measure(self, subject: Any) -> list[Score]:
        """Return the scores of a subject of MODALITY that lacks none of NEEDS."""
        ...
