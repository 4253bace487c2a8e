"""Dynamic time warping: which frame of one reading belongs to which of another."""

from __future__ import annotations

import numpy as np


def path(costs: np.ndarray) -> np.ndarray:
    """Return the cheapest way through costs [N, M] from (0, 0) to (N-1, M-1), by steps of
    one in either direction or both: pairs int64 [steps, 2] (Sakoe and Chiba 1978).

    Diagonals are computed at once, for a row at a time is slow in NumPy.
    """
    rows, columns = costs.shape
    total = np.full((rows + 1, columns + 1), np.inf)
    total[0, 0] = 0
    for diagonal in range(rows + columns - 1):
        i = np.arange(max(0, diagonal - columns + 1), min(rows, diagonal + 1))
        j = diagonal - i
        best = np.minimum(total[i, j], np.minimum(total[i, j + 1], total[i + 1, j]))
        total[i + 1, j + 1] = costs[i, j] + best
    i, j = rows, columns
    steps = [(i, j)]
    while (i, j) != (1, 1):
        before = [(i - 1, j - 1), (i - 1, j), (i, j - 1)]
        i, j = min(before, key=lambda step: total[step])
        steps.append((i, j))
    return np.array(steps[::-1]) - 1
