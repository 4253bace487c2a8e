"""The Fréchet distance against what paper and pencil give for Gaussians."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from miaobi.evaluate.image.frechet import Gaussian, frechet_distance


def exact(
    count: int, mean: np.ndarray, covariance: np.ndarray, seed: int = 0
) -> np.ndarray:
    """Points whose sample mean and covariance are exactly these."""
    points = np.random.default_rng(seed).normal(size=(count, len(mean)))
    points -= points.mean(0)
    points = points @ np.linalg.inv(np.linalg.cholesky(np.cov(points.T))).T
    return points @ np.linalg.cholesky(covariance).T + mean


def test_of_gaussians_that_commute() -> None:
    """Diagonal covariances: ‖Δμ‖² + Σ (σ_a - σ_b)²."""
    a, b = (
        exact(50, np.array([0.0, 1.0, 2.0]), np.diag([1.0, 4.0, 9.0])),
        exact(80, np.array([1.0, 1.0, 0.0]), np.diag([4.0, 4.0, 0.25]), 1),
    )
    assert frechet_distance(a, b) == pytest.approx(
        1 + 4 + (1 - 2) ** 2 + 0 + (3 - 0.5) ** 2, rel=1e-9
    )


def test_of_gaussians_that_do_not_commute() -> None:
    """In two dimensions tr (Σ_a Σ_b)^½ = √(tr Σ_a Σ_b + 2 √(det Σ_a det Σ_b))."""
    one, two = np.array([[2.0, 0.6], [0.6, 1.0]]), np.array([[1.0, -0.8], [-0.8, 3.0]])
    root = np.sqrt(
        np.trace(one @ two) + 2 * np.sqrt(np.linalg.det(one) * np.linalg.det(two))
    )
    found = frechet_distance(exact(40, np.zeros(2), one), exact(60, np.ones(2), two, 1))
    assert found == pytest.approx(
        2 + np.trace(one) + np.trace(two) - 2 * root, rel=1e-9
    )


@settings(max_examples=20)
@given(st.integers(2, 40), st.integers(2, 40), st.integers(1, 20), st.integers(0, 99))
def test_symmetric_not_negative_and_nought_for_itself(
    n: int, m: int, width: int, seed: int
) -> None:
    """Also with fewer pictures than features, where covariances have no inverse."""
    draw = np.random.default_rng(seed)
    a, b = draw.normal(size=(n, width)), draw.normal(size=(m, width)) * 3 + 1
    there, back = frechet_distance(a, b), frechet_distance(b, a)
    assert there == pytest.approx(back, rel=1e-6, abs=1e-6) and there > -1e-9
    assert frechet_distance(a, a) == pytest.approx(0, abs=1e-5 * width)


def test_a_shift_counts_with_its_square() -> None:
    points = np.random.default_rng(0).normal(size=(30, 12))
    assert Gaussian.of(points).distance(points + 2) == pytest.approx(12 * 4, rel=1e-6)
