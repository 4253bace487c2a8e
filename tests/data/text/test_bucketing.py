"""Batches of examples of about equal length."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from miaobi.data.text.bucketing import Buckets


@given(st.lists(st.integers(1, 99), min_size=1, max_size=300), st.integers(1, 40))
def test_each_example_comes_once(lengths: list[int], size: int) -> None:
    batches = Buckets(np.array(lengths)).each_once(size)
    assert max(map(len, batches)) <= size
    assert sorted(np.concatenate(batches).tolist()) == list(range(len(lengths)))


def test_the_first_batches_are_short_and_long() -> None:
    """A validation along the way looks at these alone, and its loss is compared with
    that of the whole split.
    """
    lengths = np.random.Generator(np.random.PCG64(1)).integers(1, 100, 4000)
    batches = Buckets(lengths).each_once(20)
    first = lengths[np.concatenate(batches[:20])]
    assert abs(first.mean() - lengths.mean()) < 15
    assert min(first) < 20 and max(first) > 80
    assert all(np.ptp(lengths[rows]) <= 2 for rows in batches)
