"""Scores with their intervals, and the resampling that the intervals come from."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, NamedTuple

import numpy as np

from miaobi.core.language import LANGUAGES, wordings_of

RESAMPLES = 1000
Z = 1.96
"""A 95 % interval of a normal distribution reaches so many standard errors."""


@dataclass(frozen=True)
class Score:
    """A value with its 95 % interval, `low` to `high`."""

    name: str
    value: float
    low: float
    high: float
    n: int
    """How many things were resampled for the interval (documents, samples)."""
    unit: str = ""
    better: Literal["lower", "higher"] | None = None
    detail: str = ""
    """How it was measured: tokenizer, windows, what was resampled."""
    label: str = ""
    """What people read instead of `name`, in their language."""


def to_row(score: Score, base: Score | None = None) -> dict[str, Any]:
    """Return a score as the store keeps it: its label in both languages.

    Args:
        score: of a model.
        base: of what it was tuned from, on the same examples.
    """
    label = wordings_of(score.label) or dict.fromkeys(LANGUAGES, score.label)
    row = {**asdict(score), "label": label}
    if base is not None:
        row["base"] = {"value": base.value, "low": base.low, "high": base.high}
    return row


class Estimate(NamedTuple):
    """A value with its 95 % interval."""

    value: float
    low: float
    high: float


def random_generator(seed: int | Sequence[int]) -> np.random.Generator:
    """Return NumPy's PCG64 generator, whose draws stay the same between versions."""
    return np.random.Generator(np.random.PCG64(seed))


def bootstrap(
    statistic: Callable[[np.ndarray], np.ndarray], n: int, seed: int
) -> tuple[float, float]:
    """Return the 2.5 and 97.5 percentiles over 1,000 resamplings.

    The percentile bootstrap (Efron & Tibshirani 1993, ch. 13).

    Args:
        statistic: Index sets, int64 [resamples, n], to one value each, [resamples].
        n: How many things there are to draw from.
        seed: Decides the draws.
    """
    rows = random_generator(seed).integers(n, size=(RESAMPLES, n))
    low, high = np.percentile(statistic(rows), [2.5, 97.5])
    return float(low), float(high)


def mean_interval(values: Sequence[float], seed: int) -> Estimate:
    """Return the mean of independent values, with its bootstrap interval."""
    array = np.asarray(values, dtype=float)
    mean = float(array.mean())
    low, high = bootstrap(lambda rows: array[rows].mean(1), len(array), seed)
    return Estimate(mean, min(low, mean), max(high, mean))


def ratio_interval(
    totals: Sequence[float], counts: Sequence[float], seed: int
) -> Estimate:
    """Return Σ totals / Σ counts, with its bootstrap interval.

    The pairs are resampled: for sums over documents of unequal length.
    """
    numerators = np.asarray(totals, dtype=float)
    denominators = np.asarray(counts, dtype=float)

    def ratios(rows: np.ndarray) -> np.ndarray:
        sums: np.ndarray = numerators[rows].sum(1) / denominators[rows].sum(1)
        return sums

    low, high = bootstrap(ratios, len(numerators), seed)
    value = float(numerators.sum() / denominators.sum())
    return Estimate(value, min(low, value), max(high, value))


def share_interval(share: float, n: int) -> Estimate:
    """Return the share of n things, with Wilson's interval (1927).

    It has a width even where the share is 0 or 1.
    """
    middle = share + Z * Z / (2 * n)
    margin = Z * math.sqrt(share * (1 - share) / n + Z * Z / (4 * n * n))
    low = (middle - margin) / (1 + Z * Z / n)
    high = (middle + margin) / (1 + Z * Z / n)
    return Estimate(share, min(share, low), max(share, high))


def jackknife(statistic: Callable[[list[int]], float], n: int) -> Estimate:
    """Return a statistic of n samples, with an interval by leaving out one at a time.

    Normal approximation (Efron & Tibshirani 1993, ch. 11). For statistics that drawing
    the same sample twice would bias, such as the share of different words.

    Args:
        statistic: The indices of the samples to use -> value.
        n: How many samples there are.
    """
    indices = list(range(n))
    value = statistic(indices)
    if n < 2:
        return Estimate(value, value, value)
    left_out = np.array(
        [statistic(indices[:index] + indices[index + 1 :]) for index in indices]
    )
    squares = (left_out - left_out.mean()) ** 2
    error = float(np.sqrt((n - 1) / n * squares.sum()))
    return Estimate(value, value - Z * error, value + Z * error)


def halves(
    statistic: Callable[[np.ndarray], Sequence[float]],
    n: int,
    seed: int,
    count: int = 60,
) -> np.ndarray:
    """Return the statistics of random halves, [count, values].

    The delete-half jackknife (Shao & Wu 1989): their spread about their own mean is
    that of the statistic of all `n`. For what drawing an image twice would bias.

    Args:
        statistic: Row numbers, int64 [n // 2] -> values.
        n: How many rows there are.
        seed: Decides the halves.
        count: How many halves to draw.
    """
    draw = random_generator(seed)
    half = n // 2
    return np.array([statistic(draw.permutation(n)[:half]) for _ in range(count)])


def half_interval(value: float, of_halves: np.ndarray, n: int) -> tuple[float, float]:
    """Return (low, high) of a statistic of all `n`, from those of its halves."""
    half = n // 2
    error = Z * float(of_halves.std()) * math.sqrt(half / (n - half))
    return value - error, value + error
