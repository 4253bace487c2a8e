"""The Fréchet distance against what paper and pencil give for Gaussians."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from miaobi.evaluate.image.frechet import Gaussian, frechet_distance


def points_of(
    count: int, mean: np.ndarray, covariance: np.ndarray, seed: int = 0
) -> np.ndarray:
    """Return points whose sample mean and covariance are exactly these."""
    points = np.random.default_rng(seed).normal(size=(count, len(mean)))
    points -= points.mean(0)
    whitening = np.linalg.inv(np.linalg.cholesky(np.cov(points.T)))
    white = points @ whitening.T
    return white @ np.linalg.cholesky(covariance).T + mean


def test_of_gaussians_that_commute() -> None:
    """Diagonal covariances: ‖Δμ‖² + Σ (σ_a - σ_b)²."""
    a_mean = np.array([0.0, 1.0, 2.0])
    b_mean = np.array([1.0, 1.0, 0.0])
    a = points_of(50, a_mean, np.diag([1.0, 4.0, 9.0]))
    b = points_of(80, b_mean, np.diag([4.0, 4.0, 0.25]), seed=1)
    of_means = 1 + 0 + 4
    of_deviations = (1 - 2) ** 2 + 0 + (3 - 0.5) ** 2
    expected = of_means + of_deviations
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-9)


def test_of_gaussians_that_do_not_commute() -> None:
    """In two dimensions tr (Σ_a Σ_b)^½ = √(tr Σ_a Σ_b + 2 √(det Σ_a det Σ_b))."""
    a = np.array([[2.0, 0.6], [0.6, 1.0]])
    b = np.array([[1.0, -0.8], [-0.8, 3.0]])
    determinants = np.linalg.det(a) * np.linalg.det(b)
    root = np.sqrt(np.trace(a @ b) + 2 * np.sqrt(determinants))
    expected = 2 + np.trace(a) + np.trace(b) - 2 * root
    distance = frechet_distance(
        points_of(40, np.zeros(2), a),
        points_of(60, np.ones(2), b, seed=1),
    )
    assert distance == pytest.approx(expected, rel=1e-9)


@settings(max_examples=20)
@given(st.integers(2, 40), st.integers(2, 40), st.integers(1, 20), st.integers(0, 99))
def test_symmetric_not_negative_and_nought_for_itself(
    n: int, m: int, width: int, seed: int
) -> None:
    """Also with fewer images than features, where covariances have no inverse."""
    draw = np.random.default_rng(seed)
    a = draw.normal(size=(n, width))
    b = draw.normal(size=(m, width)) * 3 + 1
    distance = frechet_distance(a, b)
    assert distance == pytest.approx(frechet_distance(b, a), rel=1e-6, abs=1e-6)
    assert distance > -1e-9
    assert frechet_distance(a, a) == pytest.approx(0, abs=1e-5 * width)


def test_a_shift_counts_with_its_square() -> None:
    points = np.random.default_rng(0).normal(size=(30, 12))
    distance = Gaussian.of(points).distance(points + 2)
    assert distance == pytest.approx(12 * 4, rel=1e-6)
