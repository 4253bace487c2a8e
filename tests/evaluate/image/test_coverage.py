"""Precision, recall, density, coverage against a reference that loops, and in cases
whose answer is plain.
"""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from miaobi.evaluate.image.coverage import prdc


def radius(points: np.ndarray, index: int, k: int) -> float:
    """Return the distance of a point to its k-th nearest neighbour."""
    others = np.delete(points, index, axis=0)
    gaps = [float(np.linalg.norm(points[index] - other)) for other in others]
    return sorted(gaps)[k - 1]


def prdc_by_loops(real: np.ndarray, fake: np.ndarray, k: int) -> dict[str, float]:
    """The definitions, word for word."""
    in_real = np.zeros((len(real), len(fake)), bool)
    in_fake = np.zeros((len(real), len(fake)), bool)
    for i, x in enumerate(real):
        for j, y in enumerate(fake):
            gap = float(np.linalg.norm(x - y))
            in_real[i, j] = gap <= radius(real, i, k)
            in_fake[i, j] = gap <= radius(fake, j, k)
    return {
        "precision": float(in_real.any(0).mean()),
        "recall": float(in_fake.any(1).mean()),
        "density": float((in_real.sum(0) / k).mean()),
        "coverage": float(in_real.any(1).mean()),
    }


@settings(max_examples=25)
@given(st.integers(4, 25), st.integers(4, 25), st.integers(1, 3), st.integers(0, 99))
def test_as_the_definitions_say(n: int, m: int, k: int, seed: int) -> None:
    draw = np.random.default_rng(seed)
    real = draw.normal(size=(n, 3))
    fake = draw.normal(size=(m, 3)) * 1.5 + 0.3
    assert prdc(real, fake, k) == pytest.approx(prdc_by_loops(real, fake, k))


def test_the_same_images_are_as_good_and_as_varied_as_can_be() -> None:
    points = np.random.default_rng(0).normal(size=(60, 8))
    expected = {"precision": 1, "recall": 1, "density": 6 / 5, "coverage": 1}
    assert prdc(points, points) == pytest.approx(expected)


def test_collapsed_samples_are_precise_and_recall_little() -> None:
    draw = np.random.default_rng(0)
    real = draw.normal(size=(200, 4))
    collapsed = real[:1] + 1e-3 * draw.normal(size=(200, 4))
    values = prdc(real, collapsed)
    assert values["precision"] == 1
    assert values["recall"] < 0.05
    assert values["coverage"] < 0.1


def test_a_half_that_is_missing_shows_in_recall_and_coverage_alone() -> None:
    draw = np.random.default_rng(0)
    real = draw.normal(size=(300, 4))
    fake = draw.normal(size=(300, 4))
    real[:150] += 20
    values = prdc(real, fake)
    assert values["precision"] > 0.9
    assert values["recall"] == pytest.approx(0.5, abs=0.06)
    assert values["coverage"] == pytest.approx(0.5, abs=0.06)


def test_samples_from_elsewhere() -> None:
    draw = np.random.default_rng(0)
    real = draw.normal(size=(50, 4))
    fake = draw.normal(size=(50, 4)) + 100
    assert set(prdc(real, fake).values()) == {0.0}


def test_one_outlier_among_the_real_does_not_raise_density() -> None:
    """Its huge ball takes in every sample, so precision is 1; density hardly moves
    (Naeem et al. 2020, figure 2).
    """
    draw = np.random.default_rng(0)
    real = draw.normal(size=(200, 4))
    fake = draw.normal(size=(200, 4)) + 30
    real[0] = 35
    values = prdc(real, fake)
    assert values["precision"] > 0.9
    assert values["density"] < 0.3
