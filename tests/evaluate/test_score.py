"""Intervals: against textbook answers."""

import numpy as np
import pytest

from miaobi.evaluate.score import (
    half_interval,
    halves,
    jackknife,
    mean_interval,
    ratio_interval,
    share_interval,
)


def standard_error(values: np.ndarray) -> float:
    return float(values.std(ddof=1) / len(values) ** 0.5)


def test_the_interval_of_a_mean_is_about_two_standard_errors_each_way() -> None:
    values = np.random.default_rng(0).normal(10, 2, size=400)
    estimate = mean_interval(values.tolist(), seed=0)
    assert estimate.value == pytest.approx(values.mean())
    expected = 2 * 1.96 * standard_error(values)
    assert (estimate.high - estimate.low) / expected == pytest.approx(1, abs=0.1)


def test_the_interval_covers_the_truth_about_nineteen_times_in_twenty() -> None:
    draw = np.random.default_rng(1)
    hits = 0
    for seed in range(300):
        estimate = mean_interval(draw.uniform(size=60).tolist(), seed)
        hits += estimate.low <= 0.5 <= estimate.high
    assert 0.89 <= hits / 300 <= 0.99


def test_a_ratio_weighs_by_count_and_not_by_document() -> None:
    estimate = ratio_interval([10, 300], [10, 100], seed=0)
    assert estimate.value == pytest.approx(310 / 110)
    assert estimate.low == 1
    assert estimate.high == 3


def test_same_seed_same_interval() -> None:
    values = list(range(50))
    assert mean_interval(values, 3) == mean_interval(values, 3)
    assert mean_interval(values, 3) != mean_interval(values, 4)


def test_the_jackknife_of_a_mean_is_its_standard_error() -> None:
    values = np.random.default_rng(2).normal(size=30)
    estimate = jackknife(lambda rows: float(values[rows].mean()), 30)
    assert estimate.value == pytest.approx(values.mean())
    half = (estimate.high - estimate.low) / 2
    assert half == pytest.approx(1.96 * standard_error(values))


def test_one_sample_has_no_width() -> None:
    assert jackknife(lambda rows: 0.5, 1) == (0.5, 0.5, 0.5)


@pytest.mark.parametrize("n", [40, 41])
def test_the_spread_of_halves_is_that_of_the_whole(n: int) -> None:
    """For a mean it is the standard error, whatever the number, odd ones too."""
    values = np.random.default_rng(3).normal(size=n)
    means = halves(lambda rows: [float(values[rows].mean())], n, seed=0, count=4000)
    low, high = half_interval(float(values.mean()), means[:, 0], n)
    half = (high - low) / 2
    assert half == pytest.approx(1.96 * standard_error(values), rel=0.05)


@pytest.mark.parametrize(
    ("share", "low", "high"),
    [(0.0, 0, 0.0370), (0.1, 0.0552, 0.1744), (1.0, 0.9630, 1)],
)
def test_shares_have_wilsons_interval(share: float, low: float, high: float) -> None:
    """Of a hundred, by the tables of Newcombe 1998."""
    estimate = share_interval(share, 100)
    assert estimate == pytest.approx((share, low, high), abs=2e-4)
    assert estimate.low <= share <= estimate.high
