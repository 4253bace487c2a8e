"""Figures over paired examples: values by hand, intervals that cover, significance that
is uniform under chance.
"""

from __future__ import annotations

import math

import numpy as np
import pytest

from miaobi.evaluate.compare import compare, score, worst
from miaobi.tune.learner import Evaluation, Metric

ACCURACY = Metric(
    "accuracy",
    lambda counts: counts[..., 0] / counts[..., 1],
    "higher",
    ("Accuracy", "准确率"),
)
LOSS = Metric(
    "loss", lambda counts: counts[..., 0] / counts[..., 1], "lower", ("Loss", "损失")
)


def judged(right: np.ndarray) -> list[Evaluation]:
    return [
        Evaluation(float(1 - item), {"accuracy": np.array([item, 1.0])})
        for item in right
    ]


def test_the_value_is_that_of_the_sums_and_the_interval_is_the_binomial_one() -> None:
    found = score(ACCURACY, judged(np.repeat([1.0, 0.0], [80, 20])))
    assert found.value == pytest.approx(0.8)
    half = 1.96 * math.sqrt(0.8 * 0.2 / 100)
    assert found.low == pytest.approx(0.8 - half, abs=0.02)
    assert found.high == pytest.approx(0.8 + half, abs=0.02)


def test_ratios_of_sums_weigh_long_examples_more() -> None:
    long, short = (
        Evaluation(1.0, {"loss": np.array([30.0, 10.0])}),
        Evaluation(1.0, {"loss": np.array([1.0, 1.0])}),
    )
    assert score(LOSS, [long, short]).value == pytest.approx(31 / 11)


def test_pairing_sees_what_separate_intervals_hide() -> None:
    difficulty = np.random.default_rng(0).normal(3, 2, 200)
    first = [Evaluation(loss, {"loss": np.array([loss, 1.0])}) for loss in difficulty]
    second = [
        Evaluation(loss - 0.05, {"loss": np.array([loss - 0.05, 1.0])})
        for loss in difficulty
    ]
    found = compare(LOSS, first, second)
    assert found.value == pytest.approx(-0.05)
    assert found.better is True
    assert found.p < 0.01
    assert (
        score(LOSS, second).high > score(LOSS, first).low
    )  # the intervals of each overlap


def test_significance_is_the_sign_test_of_few_examples() -> None:
    """Eight examples that all improve: chance gives all heads or all tails, 2 of 256."""
    found = compare(ACCURACY, judged(np.zeros(8)), judged(np.ones(8)))
    assert found.p == pytest.approx(2 / 256, abs=0.008)


def test_models_that_are_alike_are_called_different_one_time_in_twenty() -> None:
    draw = np.random.default_rng(1)
    called = [
        compare(
            ACCURACY,
            judged(draw.integers(2, size=60) * 1.0),
            judged(draw.integers(2, size=60) * 1.0),
            seed=at,
        ).p
        < 0.05
        for at in range(200)
    ]
    assert 0.01 <= np.mean(called) <= 0.10


def test_unequal_numbers_of_examples_are_refused_and_the_worst_come_first() -> None:
    with pytest.raises(ValueError, match="cannot be paired"):
        compare(ACCURACY, judged(np.ones(3)), judged(np.ones(4)))
    assert worst([Evaluation(loss, {}) for loss in (0.1, 3.0, 2.0)], 2) == [1, 2]
