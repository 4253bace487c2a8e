"""What judging gives: scores, what could not be measured and why, and what is shown of
it on the page.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from miaobi.evaluate import metrics
from miaobi.evaluate.page import Block
from miaobi.evaluate.score import Score
from miaobi.evaluate.text.subject import Sample

Progress = Callable[[str, float], None]
FIRST = ("likelihood", "frechet", "kernel_distance")
"""What people look for first."""


@dataclass(frozen=True)
class Question:
    """How to judge."""

    data: Path | None = None
    """Held-out data instead of the model's own."""
    samples: int | None = None
    limit: int | None = None
    engine: str = "auto"
    extractor: str = ""
    seed: int = 0
    allow_leakage: bool = False


@dataclass(frozen=True)
class Missing:
    metric: str
    why: str


@dataclass(frozen=True)
class Judged:
    """The scores of one model."""

    model: str
    engine: str
    scores: tuple[Score, ...]
    missing: tuple[Missing, ...]
    samples: tuple[Sample, ...]
    """What a model that writes wrote."""
    documents: int
    """Held-out texts or pictures it was judged by."""
    data: str
    seconds: float
    curve: tuple[Mapping[str, Any], ...] = ()
    """The log of the run that trained it, where it was trained here."""
    beside: tuple[str, ...] = ()
    """How the first model differs from this one, example by example, in words."""


@dataclass(frozen=True)
class Verdict:
    """A judged model, what the page shows of it, and the held-out data for the next
    model to be judged by.
    """

    judged: Judged
    sections: tuple[tuple[str, tuple[Block, ...]], ...]
    settings: Mapping[str, Any] = field(default_factory=dict)
    """How it was measured, in words."""
    known: Any = None
    onward: tuple[str, str] = ("", "")
    """What a model of the store is good for next: a sentence and a command."""


def measure(subject: Any, progress: Progress) -> tuple[list[Score], list[Missing]]:
    """Run every registered metric of the subject's modality that can be measured."""
    scores, missing = list[Score](), list[Missing]()
    for name in sorted(metrics.names(), key=lambda name: (name not in FIRST, name)):
        metric = metrics.get(name)
        if subject.modality != metric.MODALITY:
            continue
        why = subject.lacks(metric.NEEDS)
        if why:
            missing.append(Missing(name, why))
            continue
        subject.listeners[:] = [lambda share, name=name: progress(name, share)]
        scores.extend(metric.measure(subject))
        progress(name, 1.0)
    return scores, missing
