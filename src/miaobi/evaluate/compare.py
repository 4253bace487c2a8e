"""Two models on the same examples: each figure with its interval, the difference with
its own, and how likely chance alone is.

A figure is f(Σ_i c_i), the c_i counted for each example (tune/learner.py). Intervals:
the bootstrap over examples, the same examples drawn for both models (Efron & Tibshirani
1993, ch. 13). Significance: approximate randomisation, in which the two models' counts
of an example are swapped by the toss of a coin (Noreen 1989; Riezler & Maxwell 2005).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from miaobi.core.language import say
from miaobi.evaluate.score import RESAMPLES, Score
from miaobi.tune.learner import Evaluation, Metric


@dataclass(frozen=True)
class Difference:
    """How a figure changed from one model to the other, on the same examples."""

    name: str
    label: str
    value: float
    """The second model's figure less the first's."""
    low: float
    high: float
    p: float
    """Probability of a difference as large if the models were alike, two-sided."""
    better: bool | None
    """Whether the second is better: None when the interval holds 0, or chance alone
    does as much one time in twenty.
    """
    n: int

    def __str__(self) -> str:
        verdict = {
            True: say("better", "更好"),
            False: say("worse", "更差"),
            None: say("no difference shown", "差异不显著"),
        }[self.better]
        return (
            f"{self.label}: {self.value:+.4g} ({self.low:+.4g} – {self.high:+.4g}, "
            f"p = {self.p:.3g}, n = {self.n}): {verdict}"
        )


def counts_of(figure: Metric, judged: Sequence[Evaluation]) -> np.ndarray:
    """float64 [examples, K]."""
    return np.stack(
        [np.asarray(item.counts[figure.name], dtype=float) for item in judged]
    )


def drawn(n: int, seed: int) -> np.ndarray:
    """How often each of n examples is drawn in each resampling, float64 [RESAMPLES, n]."""
    return (
        np.random.Generator(np.random.PCG64(seed))
        .multinomial(n, np.full(n, 1 / n), size=RESAMPLES)
        .astype(float)
    )


def score(figure: Metric, judged: Sequence[Evaluation], seed: int = 0) -> Score:
    """The figure over all examples, with its 95 % interval."""
    counts = counts_of(figure, judged)
    with np.errstate(divide="ignore", invalid="ignore"):
        value = float(figure.combine(counts.sum(0)))
        low, high = np.nanpercentile(
            figure.combine(drawn(len(counts), seed) @ counts), [2.5, 97.5]
        )
    return Score(
        figure.name,
        value,
        min(float(low), value),
        max(float(high), value),
        len(counts),
        figure.unit,
        figure.better,
        say("examples resampled", "对样本重采样"),
        say(*figure.label),
    )


def scores(
    figures: Sequence[Metric], judged: Sequence[Evaluation], seed: int = 0
) -> list[Score]:
    """Every figure that the examples were counted for."""
    return [
        score(figure, judged, seed)
        for figure in figures
        if judged and figure.name in judged[0].counts
    ]


def compare(
    figure: Metric,
    first: Sequence[Evaluation],
    second: Sequence[Evaluation],
    seed: int = 0,
) -> Difference:
    """The second model less the first, judged on the same examples in the same order."""
    a, b = counts_of(figure, first), counts_of(figure, second)
    if a.shape != b.shape:
        raise ValueError(
            f"{figure.name}: {len(a)} and {len(b)} examples cannot be paired"
        )
    weights, swaps = (
        drawn(len(a), seed),
        np.random.Generator(np.random.PCG64(seed + 1))
        .integers(2, size=(RESAMPLES, len(a)))
        .astype(float),
    )
    with np.errstate(divide="ignore", invalid="ignore"):
        value = float(figure.combine(b.sum(0)) - figure.combine(a.sum(0)))
        low, high = np.nanpercentile(
            figure.combine(weights @ b) - figure.combine(weights @ a), [2.5, 97.5]
        )
        crossed = swaps @ (b - a)
        chance = figure.combine(b.sum(0) - crossed) - figure.combine(a.sum(0) + crossed)
    p = (1 + int((np.abs(chance) >= abs(value) - 1e-12).sum())) / (1 + RESAMPLES)
    shown = (low > 0 or high < 0) and p < 0.05
    better = bool((value > 0) == (figure.better == "higher")) if shown else None
    return Difference(
        figure.name,
        say(*figure.label),
        value,
        min(float(low), value),
        max(float(high), value),
        p,
        better,
        len(a),
    )


def differences(
    figures: Sequence[Metric],
    first: Sequence[Evaluation],
    second: Sequence[Evaluation],
    seed: int = 0,
) -> list[Difference]:
    return [
        compare(figure, first, second, seed)
        for figure in figures
        if first
        and second
        and figure.name in first[0].counts
        and figure.name in second[0].counts
    ]


def worst(judged: Sequence[Evaluation], count: int) -> list[int]:
    """Places of the examples with the greatest loss, worst first."""
    return sorted(range(len(judged)), key=lambda place: -judged[place].loss)[:count]
