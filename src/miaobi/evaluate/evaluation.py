"""The results of an evaluation: scores, skipped metrics, and sections of its page."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from miaobi.evaluate import metrics
from miaobi.evaluate.page import Block
from miaobi.evaluate.score import Score
from miaobi.evaluate.subject import Subject
from miaobi.evaluate.text.subject import Sample

Progress = Callable[[str, float], None]
"""progress(metric, completed share)."""
FIRST = ("likelihood", "frechet", "kernel_distance")
"""The metrics that lead a report."""


@dataclass(frozen=True)
class Options:
    """How to evaluate a model."""

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
    """A metric that was skipped."""

    metric: str
    why: str


@dataclass(frozen=True)
class Results:
    """The scores of one model. Its fields are keys of report.json."""

    model: str
    engine: str
    scores: tuple[Score, ...]
    missing: tuple[Missing, ...]
    samples: tuple[Sample, ...]
    """What a text model wrote."""
    documents: int
    """How many held-out texts or images it was evaluated by."""
    data: str
    seconds: float
    curve: tuple[Mapping[str, Any], ...] = ()
    """The log of the run that trained it, if it was trained here."""
    beside: tuple[str, ...] = ()
    """How the first model differs from this one, example by example, in words."""


@dataclass(frozen=True)
class ModelReport:
    """One evaluated model: its results and its part of the page."""

    results: Results
    sections: tuple[tuple[str, tuple[Block, ...]], ...]
    settings: Mapping[str, Any] = field(default_factory=dict)
    """How it was measured, in words."""
    reference: Any = None
    """What the next model is evaluated by: the same held-out data."""
    next_step: tuple[str, str] = ("", "")
    """What to do with a model of the store: a sentence and a command."""


def measure(subject: Subject, progress: Progress) -> tuple[list[Score], list[Missing]]:
    """Run every registered metric of the subject's modality that can be measured."""
    scores = list[Score]()
    missing = list[Missing]()
    for name in sorted(metrics.names(), key=_report_order):
        metric = metrics.get(name)
        if metric.MODALITY != subject.modality:
            continue
        if not subject.concerns(metric.NEEDS):
            continue
        why = subject.lacks(metric.NEEDS)
        if why:
            missing.append(Missing(name, why))
            continue
        subject.listeners[:] = [partial(progress, name)]
        scores.extend(metric.measure(subject))
        progress(name, 1.0)
    return scores, missing


def _report_order(metric: str) -> tuple[bool, str]:
    return metric not in FIRST, metric
