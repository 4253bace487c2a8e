"""Batches of examples of about equal length, so that little of them is padding.

An epoch is a seeded permutation of the examples. Stretches of it are sorted by length
and cut into batches, and the batches are shuffled: which examples meet, and when, is
random; how long the rows of one batch are, is not.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

STRETCH = 64
"""Batches whose examples are sorted together."""
ORDER_SEED = 0


class Buckets:
    """Which examples a batch holds, as a pure function of its number.

    Args:
        lengths: tokens of each example, int64 [examples], at least one
    """

    def __init__(self, lengths: np.ndarray) -> None:
        self.lengths = lengths

    def rows(self, index: int, size: int, seed: int) -> np.ndarray:
        """Return the examples of batch `index`, int64 [size].

        What does not fill a batch is left out of an epoch, another part each time; with
        fewer examples than `size` they are repeated.
        """
        batches = max(1, len(self.lengths) // size)
        epoch, number = divmod(index, batches)
        order = _epoch(self, size, seed, epoch)
        return order[number * size : (number + 1) * size]

    def each_once(self, size: int) -> list[np.ndarray]:
        """Return every example once, at most `size` together.

        The batches are shuffled, always alike: the first of them are short and long, so
        that a validation which looks at no more is not one of short texts.
        """
        order = np.argsort(self.lengths, kind="stable")
        starts = np.arange(0, len(order), size)
        draw = np.random.Generator(np.random.PCG64(ORDER_SEED))
        return [order[start : start + size] for start in draw.permutation(starts)]


@lru_cache(maxsize=4)
def _epoch(buckets: Buckets, size: int, seed: int, epoch: int) -> np.ndarray:
    """The examples of an epoch in the order of its batches, int64 [batches · size]."""
    draw = np.random.Generator(np.random.PCG64([seed, epoch]))
    count = len(buckets.lengths)
    order = draw.permutation(count)
    if count < size:
        return np.resize(order, size)
    order = order[: count // size * size]
    for start in range(0, len(order), STRETCH * size):
        stretch = order[start : start + STRETCH * size]
        stretch[:] = stretch[np.argsort(buckets.lengths[stretch], kind="stable")]
    batches = order.reshape(-1, size)
    draw.shuffle(batches)
    return batches.reshape(-1)


def padded(rows: list[np.ndarray], fill: int) -> np.ndarray:
    """Return token numbers [rows, longest], int64, with `fill` behind the shorter ones."""
    width = max(map(len, rows))
    table = np.full((len(rows), width), fill, dtype=np.int64)
    for row, tokens in zip(table, rows, strict=True):
        row[: len(tokens)] = tokens
    return table
