"""The kernel distance: as its definition says, without bias, and blind to the order of pictures."""

import numpy as np
import pytest
import torch

from miaobi.evaluate.image import kernel_distance
from miaobi.evaluate.image.kernel_distance import Blocks


def looped(a: np.ndarray, b: np.ndarray) -> float:
    def k(x: np.ndarray, y: np.ndarray) -> float:
        return float((x @ y / len(x) + 1) ** 3)

    own = [
        np.mean(
            [
                k(x, y)
                for i, x in enumerate(points)
                for j, y in enumerate(points)
                if i != j
            ]
        )
        for points in (a, b)
    ]
    return float(sum(own) - 2 * np.mean([k(x, y) for x in a for y in b]))


@pytest.mark.parametrize(("n", "m", "blocks"), [(9, 14, 200), (20, 13, 4), (13, 20, 5)])
def test_as_its_definition_says_whatever_the_blocks(
    n: int, m: int, blocks: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kernel_distance, "BLOCKS", blocks)
    draw = np.random.default_rng(0)
    a, b = draw.normal(size=(n, 6)), draw.normal(size=(m, 6)) + 0.5
    assert kernel_distance.kernel_distance(a, b) == pytest.approx(
        looped(a, b), rel=1e-5
    )


def test_nought_on_average_for_one_distribution_even_with_few_pictures() -> None:
    """400 pairs of crowds of ten: the mean lies within three standard errors of nought,
    and values fall on both sides.
    """
    draw = np.random.default_rng(0)
    found = np.array(
        [
            kernel_distance.kernel_distance(
                draw.normal(size=(10, 4)), draw.normal(size=(15, 4))
            )
            for _ in range(400)
        ]
    )
    assert (
        abs(found.mean()) < 3 * found.std() / 20
        and (found < 0).any()
        and (found > 0).any()
    )


def test_it_grows_with_the_distance() -> None:
    draw = np.random.default_rng(0)
    a, b = draw.normal(size=(100, 8)), draw.normal(size=(100, 8))
    assert (
        kernel_distance.kernel_distance(a, b)
        < kernel_distance.kernel_distance(a, b + 0.5)
        < kernel_distance.kernel_distance(a, b + 1)
    )


def test_blocks_drawn_twice_count_twice_but_no_picture_meets_itself() -> None:
    """Each picture its own block: weights 2, 1, 0 are the crowd (x, x, y) without the
    pairs of x with x.
    """
    draw = np.random.default_rng(0)
    a, b = draw.normal(size=(3, 5)), draw.normal(size=(4, 5))
    weights = torch.tensor([[2.0, 1.0, 0.0]], dtype=torch.float64)
    k = lambda x, y: (x @ y / 5 + 1) ** 3  # noqa: E731
    expected = (
        k(a[0], a[1])
        + np.mean([k(x, y) for i, x in enumerate(b) for j, y in enumerate(b) if i != j])
        - 2 * np.mean([k(x, y) for x in (a[0], a[0], a[1]) for y in b])
    )
    found = Blocks(a, b).weighted(weights, torch.ones(1, 4, dtype=torch.float64))
    assert float(found) == pytest.approx(float(expected), rel=1e-5)
