"""The kernel distance: as its definition says, without bias, and blind to order."""

import numpy as np
import pytest
import torch

from miaobi.evaluate.image import kernel_distance
from miaobi.evaluate.image.kernel_distance import Blocks


def kernel(x: np.ndarray, y: np.ndarray) -> float:
    return float((x @ y / len(x) + 1) ** 3)


def mean_of_pairs(points: np.ndarray) -> float:
    """Return the mean kernel of two different points."""
    values = [
        kernel(x, y)
        for i, x in enumerate(points)
        for j, y in enumerate(points)
        if i != j
    ]
    return float(np.mean(values))


def distance_by_loops(a: np.ndarray, b: np.ndarray) -> float:
    between = float(np.mean([kernel(x, y) for x in a for y in b]))
    return mean_of_pairs(a) + mean_of_pairs(b) - 2 * between


@pytest.mark.parametrize(("n", "m", "blocks"), [(9, 14, 200), (20, 13, 4), (13, 20, 5)])
def test_as_its_definition_says_whatever_the_blocks(
    n: int, m: int, blocks: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kernel_distance, "BLOCKS", blocks)
    draw = np.random.default_rng(0)
    a = draw.normal(size=(n, 6))
    b = draw.normal(size=(m, 6)) + 0.5
    expected = distance_by_loops(a, b)
    assert kernel_distance.kernel_distance(a, b) == pytest.approx(expected, rel=1e-5)


def test_nought_on_average_for_one_distribution_even_with_few_images() -> None:
    """400 pairs of sets of ten: the mean lies within three standard errors of nought,
    and values fall on both sides.
    """
    draw = np.random.default_rng(0)
    distances = list[float]()
    for _ in range(400):
        a = draw.normal(size=(10, 4))
        b = draw.normal(size=(15, 4))
        distances.append(kernel_distance.kernel_distance(a, b))
    error = np.std(distances) / 20
    assert abs(np.mean(distances)) < 3 * error
    assert min(distances) < 0 < max(distances)


def test_it_grows_with_the_distance() -> None:
    draw = np.random.default_rng(0)
    a = draw.normal(size=(100, 8))
    b = draw.normal(size=(100, 8))
    near, farther, far = (
        kernel_distance.kernel_distance(a, b + shift) for shift in (0, 0.5, 1)
    )
    assert near < farther < far


def test_blocks_drawn_twice_count_twice_but_no_image_meets_itself() -> None:
    """Each image its own block: weights 2, 1, 0 are the set (x, x, y) without the
    pairs of x with x.
    """
    draw = np.random.default_rng(0)
    a = draw.normal(size=(3, 5))
    b = draw.normal(size=(4, 5))
    x, y, _ = a
    between = float(np.mean([kernel(p, q) for p in (x, x, y) for q in b]))
    expected = kernel(x, y) + mean_of_pairs(b) - 2 * between
    a_weights = torch.tensor([[2.0, 1.0, 0.0]], dtype=torch.float64)
    b_weights = torch.ones(1, 4, dtype=torch.float64)
    distance = float(Blocks(a, b).weighted(a_weights, b_weights))
    assert distance == pytest.approx(expected, rel=1e-5)
