"""Two models on the same examples: metrics, differences, and their significance.

A metric is f(Σ_i c_i), the c_i counted for each example (tune/learner.py). Intervals:
the bootstrap over examples, the same examples drawn for both models (Efron & Tibshirani
1993, ch. 13). Significance: approximate randomisation, in which the two models' counts
of an example are swapped by the toss of a coin (Noreen 1989; Riezler & Maxwell 2005).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from miaobi.core.language import say
from miaobi.evaluate.score import RESAMPLES, Score, random_generator
from miaobi.tune.learner import Evaluation, Metric


@dataclass(frozen=True)
class Difference:
    """How a metric changed from one model to the other, on the same examples."""

    name: str
    label: str
    value: float
    """The second model's metric less the first's."""
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


def counts_of(metric: Metric, evaluations: Sequence[Evaluation]) -> np.ndarray:
    """Return what each example adds to the metric, float64 [examples, K]."""
    rows = [np.asarray(item.counts[metric.name], dtype=float) for item in evaluations]
    return np.stack(rows)


def resampling_weights(n: int, seed: int) -> np.ndarray:
    """Return how often each of n examples is drawn, float64 [RESAMPLES, n]."""
    uniform = np.full(n, 1 / n)
    draws = random_generator(seed).multinomial(n, uniform, size=RESAMPLES)
    return draws.astype(float)


def score(metric: Metric, evaluations: Sequence[Evaluation], seed: int = 0) -> Score:
    """Return the metric over all examples, with its 95 % interval."""
    counts = counts_of(metric, evaluations)
    with np.errstate(divide="ignore", invalid="ignore"):
        value = float(metric.combine(counts.sum(0)))
        weights = resampling_weights(len(counts), seed)
        low, high = np.nanpercentile(metric.combine(weights @ counts), [2.5, 97.5])
    return Score(
        metric.name,
        value,
        low=min(float(low), value),
        high=max(float(high), value),
        n=len(counts),
        unit=metric.unit,
        better=metric.better,
        detail=say("examples resampled", "对样本重采样"),
        label=say(*metric.label),
    )


def scores(
    metrics: Sequence[Metric], evaluations: Sequence[Evaluation], seed: int = 0
) -> list[Score]:
    """Return the score of every metric that the examples were counted for."""
    return [
        score(metric, evaluations, seed)
        for metric in metrics
        if _counted(metric, evaluations)
    ]


def compare(
    metric: Metric,
    first: Sequence[Evaluation],
    second: Sequence[Evaluation],
    seed: int = 0,
) -> Difference:
    """Return the second model's metric less the first's.

    Args:
        metric: What to compare.
        first: How each example goes with the first model.
        second: The same examples in the same order, with the second model.
        seed: Decides the resampling and the swaps.

    Raises:
        ValueError: The models were evaluated on different numbers of examples.
    """
    a = counts_of(metric, first)
    b = counts_of(metric, second)
    if a.shape != b.shape:
        raise ValueError(
            f"{metric.name}: {len(a)} and {len(b)} examples cannot be paired"
        )
    weights = resampling_weights(len(a), seed)
    coins = random_generator(seed + 1).integers(2, size=(RESAMPLES, len(a)))
    with np.errstate(divide="ignore", invalid="ignore"):
        value = float(metric.combine(b.sum(0)) - metric.combine(a.sum(0)))
        resampled = metric.combine(weights @ b) - metric.combine(weights @ a)
        low, high = np.nanpercentile(resampled, [2.5, 97.5])
        moved = coins.astype(float) @ (b - a)
        by_chance = metric.combine(b.sum(0) - moved) - metric.combine(a.sum(0) + moved)
    extreme = int((np.abs(by_chance) >= abs(value) - 1e-12).sum())
    p = (1 + extreme) / (1 + RESAMPLES)
    significant = (low > 0 or high < 0) and p < 0.05
    improved = (value > 0) == (metric.better == "higher")
    return Difference(
        metric.name,
        say(*metric.label),
        value,
        low=min(float(low), value),
        high=max(float(high), value),
        p=p,
        better=improved if significant else None,
        n=len(a),
    )


def differences(
    metrics: Sequence[Metric],
    first: Sequence[Evaluation],
    second: Sequence[Evaluation],
    seed: int = 0,
) -> list[Difference]:
    """Return the difference in every metric that both models were counted for."""
    return [
        compare(metric, first, second, seed)
        for metric in metrics
        if _counted(metric, first) and _counted(metric, second)
    ]


def _counted(metric: Metric, evaluations: Sequence[Evaluation]) -> bool:
    return bool(evaluations) and metric.name in evaluations[0].counts


def worst(evaluations: Sequence[Evaluation], count: int) -> list[int]:
    """Return the indices of the examples with the greatest loss, worst first."""
    order = sorted(range(len(evaluations)), key=lambda index: -evaluations[index].loss)
    return order[:count]
