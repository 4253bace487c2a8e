"""What an experiment of `miaobi latent` returns, and which experiments there are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

EXPERIMENTS = (
    "reconstruct",
    "interpolate",
    "arithmetic",
    "traverse",
    "project",
    "truncate",
)


@dataclass(frozen=True)
class Experiment:
    """The results of an experiment; its sheet or animation is at `out`."""

    model: str
    experiment: str
    out: Path
    summary: str
    measured: Mapping[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"{self.summary}\n{self.out}"
