"""Precision, recall, density, coverage against a reference that loops, and in cases
whose answer is plain.
"""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from miaobi.evaluate.image.coverage import prdc


def looped(real: np.ndarray, fake: np.ndarray, k: int) -> dict[str, float]:
    """The definitions, word for word."""

    def reach(points: np.ndarray, at: int) -> float:
        return sorted(
            float(np.linalg.norm(points[at] - other))
            for place, other in enumerate(points)
            if place != at
        )[k - 1]

    balls, spheres = (
        [reach(real, at) for at in range(len(real))],
        [reach(fake, at) for at in range(len(fake))],
    )
    gap = [[float(np.linalg.norm(x - y)) for y in fake] for x in real]
    inside = [
        [gap[i][j] <= balls[i] for j in range(len(fake))] for i in range(len(real))
    ]
    return {
        "precision": np.mean([any(row[j] for row in inside) for j in range(len(fake))]),
        "recall": np.mean(
            [
                any(gap[i][j] <= spheres[j] for j in range(len(fake)))
                for i in range(len(real))
            ]
        ),
        "density": np.mean(
            [sum(row[j] for row in inside) / k for j in range(len(fake))]
        ),
        "coverage": np.mean([any(row) for row in inside]),
    }


@settings(max_examples=25)
@given(st.integers(4, 25), st.integers(4, 25), st.integers(1, 3), st.integers(0, 99))
def test_as_the_definitions_say(n: int, m: int, k: int, seed: int) -> None:
    draw = np.random.default_rng(seed)
    real, fake = draw.normal(size=(n, 3)), draw.normal(size=(m, 3)) * 1.5 + 0.3
    assert prdc(real, fake, k) == pytest.approx(looped(real, fake, k))


def test_the_same_pictures_are_as_good_and_as_varied_as_can_be() -> None:
    points = np.random.default_rng(0).normal(size=(60, 8))
    assert prdc(points, points) == pytest.approx(
        {"precision": 1, "recall": 1, "density": 6 / 5, "coverage": 1}
    )


def test_collapsed_samples_are_precise_and_recall_little() -> None:
    draw = np.random.default_rng(0)
    real = draw.normal(size=(200, 4))
    collapsed = real[:1] + 1e-3 * draw.normal(size=(200, 4))
    found = prdc(real, collapsed)
    assert (
        found["precision"] == 1 and found["recall"] < 0.05 and found["coverage"] < 0.1
    )


def test_a_half_that_is_missing_shows_in_recall_and_coverage_alone() -> None:
    draw = np.random.default_rng(0)
    real, fake = draw.normal(size=(300, 4)), draw.normal(size=(300, 4))
    real[:150] += 20
    found = prdc(real, fake)
    assert (
        found["precision"] > 0.9
        and found["recall"] == pytest.approx(0.5, abs=0.06)
        and found["coverage"] == pytest.approx(0.5, abs=0.06)
    )


def test_samples_from_elsewhere() -> None:
    draw = np.random.default_rng(0)
    assert set(
        prdc(draw.normal(size=(50, 4)), draw.normal(size=(50, 4)) + 100).values()
    ) == {0.0}


def test_one_outlier_among_the_real_does_not_raise_density() -> None:
    """Its huge ball takes in every sample, so precision is 1; density hardly moves
    (Naeem et al. 2020, figure 2).
    """
    draw = np.random.default_rng(0)
    real, fake = draw.normal(size=(200, 4)), draw.normal(size=(200, 4)) + 30
    real[0] = 35
    found = prdc(real, fake)
    assert found["precision"] > 0.9 and found["density"] < 0.3
