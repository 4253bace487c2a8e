"""Metrics over paired examples: values by hand, intervals that cover, significance that
is uniform under chance.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np
import pytest

from miaobi.evaluate.compare import compare, score, worst
from miaobi.tune.learner import Evaluation, Metric


def mean(counts: np.ndarray) -> np.ndarray:
    return np.asarray(counts[..., 0] / counts[..., 1])


ACCURACY = Metric("accuracy", mean, "higher", ("Accuracy", "准确率"))
LOSS = Metric("loss", mean, "lower", ("Loss", "损失"))


def of_right(values: Iterable[float]) -> list[Evaluation]:
    """Return evaluations of examples that are right (1) or wrong (0)."""
    return [
        Evaluation(1 - value, {"accuracy": np.array([value, 1.0])})
        for value in map(float, values)
    ]


def of_losses(losses: Iterable[float]) -> list[Evaluation]:
    return [Evaluation(loss, {"loss": np.array([loss, 1.0])}) for loss in losses]


def test_the_value_is_that_of_the_sums_and_the_interval_is_the_binomial_one() -> None:
    accuracy = score(ACCURACY, of_right([1.0] * 80 + [0.0] * 20))
    assert accuracy.value == pytest.approx(0.8)
    half = 1.96 * math.sqrt(0.8 * 0.2 / 100)
    assert accuracy.low == pytest.approx(0.8 - half, abs=0.02)
    assert accuracy.high == pytest.approx(0.8 + half, abs=0.02)


def test_ratios_of_sums_weigh_long_examples_more() -> None:
    long = Evaluation(1.0, {"loss": np.array([30.0, 10.0])})
    short = Evaluation(1.0, {"loss": np.array([1.0, 1.0])})
    assert score(LOSS, [long, short]).value == pytest.approx(31 / 11)


def test_pairing_sees_what_separate_intervals_hide() -> None:
    losses = np.random.default_rng(0).normal(3, 2, 200)
    first = of_losses(losses)
    second = of_losses(losses - 0.05)
    difference = compare(LOSS, first, second)
    assert difference.value == pytest.approx(-0.05)
    assert difference.better is True
    assert difference.p < 0.01
    # The intervals of each overlap.
    assert score(LOSS, second).high > score(LOSS, first).low


def test_significance_is_the_sign_test_of_few_examples() -> None:
    """Eight examples that all improve: chance gives all heads or all tails, 2 of 256."""
    difference = compare(ACCURACY, of_right([0.0] * 8), of_right([1.0] * 8))
    assert difference.p == pytest.approx(2 / 256, abs=0.008)


def test_models_that_are_alike_are_called_different_one_time_in_twenty() -> None:
    draw = np.random.default_rng(1)
    called_different = list[bool]()
    for seed in range(200):
        first = of_right(draw.integers(2, size=60))
        second = of_right(draw.integers(2, size=60))
        called_different.append(compare(ACCURACY, first, second, seed).p < 0.05)
    assert 0.01 <= np.mean(called_different) <= 0.10


def test_unequal_numbers_of_examples_are_refused() -> None:
    with pytest.raises(ValueError, match="cannot be paired"):
        compare(ACCURACY, of_right([1.0] * 3), of_right([1.0] * 4))


def test_the_worst_come_first() -> None:
    assert worst(of_losses([0.1, 3.0, 2.0]), 2) == [1, 2]
