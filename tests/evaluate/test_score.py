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


def test_the_interval_of_a_mean_is_about_two_standard_errors_each_way() -> None:
    values = np.random.default_rng(0).normal(10, 2, size=400)
    value, low, high = mean_interval(values.tolist(), seed=0)
    error = values.std(ddof=1) / 20
    assert value == pytest.approx(values.mean())
    assert (high - low) / (2 * 1.96 * error) == pytest.approx(1, abs=0.1)


def test_the_interval_covers_the_truth_about_nineteen_times_in_twenty() -> None:
    draw = np.random.default_rng(1)
    hits = sum(
        low <= 0.5 <= high
        for _, low, high in (
            mean_interval(draw.uniform(size=60).tolist(), seed) for seed in range(300)
        )
    )
    assert 0.89 <= hits / 300 <= 0.99


def test_a_ratio_weighs_by_count_and_not_by_document() -> None:
    value, low, high = ratio_interval([10, 300], [10, 100], seed=0)
    assert value == pytest.approx(310 / 110)
    assert low == 1 and high == 3


def test_same_seed_same_interval() -> None:
    values = list(range(50))
    assert (
        mean_interval(values, 3) == mean_interval(values, 3) != mean_interval(values, 4)
    )


def test_the_jackknife_of_a_mean_is_its_standard_error() -> None:
    values = np.random.default_rng(2).normal(size=30)
    value, low, high = jackknife(lambda chosen: float(values[chosen].mean()), 30)
    assert value == pytest.approx(values.mean())
    assert (high - low) / 2 == pytest.approx(1.96 * values.std(ddof=1) / 30**0.5)


def test_one_sample_has_no_width() -> None:
    assert jackknife(lambda chosen: 0.5, 1) == (0.5, 0.5, 0.5)


def test_the_spread_of_halves_is_that_of_the_whole() -> None:
    """For a mean it is the standard error, whatever the number, odd ones too."""
    for n in (40, 41):
        values = np.random.default_rng(3).normal(size=n)
        found = halves(
            lambda rows, values=values: [float(values[rows].mean())],
            n,
            seed=0,
            count=4000,
        )[:, 0]
        low, high = half_interval(float(values.mean()), found, n)
        assert (high - low) / 2 == pytest.approx(
            1.96 * values.std(ddof=1) / n**0.5, rel=0.05
        )


@pytest.mark.parametrize(
    ("share", "low", "high"),
    [(0.0, 0, 0.0370), (0.1, 0.0552, 0.1744), (1.0, 0.9630, 1)],
)
def test_shares_have_wilsons_interval(share: float, low: float, high: float) -> None:
    """Of a hundred, by the tables of Newcombe 1998."""
    found = share_interval(share, 100)
    assert (
        found == pytest.approx((share, low, high), abs=2e-4)
        and found[1] <= share <= found[2]
    )
