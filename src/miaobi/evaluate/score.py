"""A score never stands alone: it carries its interval, how many things were measured,
and in what unit.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

RESAMPLES = 1000


@dataclass(frozen=True)
class Score:
    """`low` to `high` is a 95 % interval; `n` counts what was resampled for it
    (documents, samples).
    """

    name: str
    value: float
    low: float
    high: float
    n: int
    unit: str = ""
    better: Literal["lower", "higher"] | None = None
    detail: str = ""
    """How it was measured: tokenizer, windows, what was resampled."""
    label: str = ""
    """What people read instead of `name`, in their language."""


def bootstrap(
    statistic: Callable[[np.ndarray], np.ndarray], n: int, seed: int
) -> tuple[float, float]:
    """Percentile bootstrap (Efron & Tibshirani 1993, ch. 13): the 2.5 and 97.5
    percentiles over 1,000 resamplings.

    statistic: index sets, int64 [resamples, n], to one value each, [resamples].
    """
    rows = np.random.Generator(np.random.PCG64(seed)).integers(n, size=(RESAMPLES, n))
    low, high = np.percentile(statistic(rows), [2.5, 97.5])
    return float(low), float(high)


def mean_interval(values: Sequence[float], seed: int) -> tuple[float, float, float]:
    """(mean, low, high) over independent values."""
    array = np.asarray(values, dtype=float)
    low, high = bootstrap(lambda rows: array[rows].mean(1), len(array), seed)
    return (
        float(array.mean()),
        min(low, float(array.mean())),
        max(high, float(array.mean())),
    )


def ratio_interval(
    totals: Sequence[float], counts: Sequence[float], seed: int
) -> tuple[float, float, float]:
    """(Σ totals / Σ counts, low, high), resampling the pairs: for sums over documents
    of unequal length.
    """
    top, bottom = np.asarray(totals, dtype=float), np.asarray(counts, dtype=float)
    low, high = bootstrap(
        lambda rows: top[rows].sum(1) / bottom[rows].sum(1), len(top), seed
    )
    value = float(top.sum() / bottom.sum())
    return value, min(low, value), max(high, value)


def share_interval(share: float, n: int) -> tuple[float, float, float]:
    """(share, low, high) of n things, after Wilson (1927): none in a thousand is no
    proof of none at all.
    """
    z = 1.96
    middle, reach = (
        share + z * z / (2 * n),
        z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n)),
    )
    return (
        share,
        min(share, (middle - reach) / (1 + z * z / n)),
        max(share, (middle + reach) / (1 + z * z / n)),
    )


def jackknife(
    statistic: Callable[[list[int]], float], n: int
) -> tuple[float, float, float]:
    """(value, low, high) by leaving out one at a time (Efron & Tibshirani 1993, ch.
    11), normal approximation.

    For statistics that drawing the same sample twice would bias, such as the share of
    different words.
    statistic: the numbers of the samples to use -> value.
    """
    everything = list(range(n))
    value = statistic(everything)
    if n < 2:
        return value, value, value
    left_out = np.array(
        [
            statistic(everything[:place] + everything[place + 1 :])
            for place in everything
        ]
    )
    error = float(np.sqrt((n - 1) / n * ((left_out - left_out.mean()) ** 2).sum()))
    return value, value - 1.96 * error, value + 1.96 * error


def halves(
    statistic: Callable[[np.ndarray], Sequence[float]],
    n: int,
    seed: int,
    count: int = 60,
) -> np.ndarray:
    """The statistics [count, values] of random halves: the delete-half jackknife (Shao & Wu 1989).

    Their spread, about their own mean, is that of the statistic of all `n`. For what
    drawing a picture twice would bias.
    statistic: row numbers, int64 [n // 2] -> values.
    """
    draw = np.random.Generator(np.random.PCG64(seed))
    return np.array([statistic(draw.permutation(n)[: n // 2]) for _ in range(count)])


def half_interval(value: float, of_halves: np.ndarray, n: int) -> tuple[float, float]:
    """(low, high) around the value of all `n`, from those of its halves."""
    error = 1.96 * float(of_halves.std()) * math.sqrt((n // 2) / (n - n // 2))
    return value - error, value + error
