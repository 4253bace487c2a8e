"""Which document goes into which split.

With many documents a document's own digest decides, so it stays in its split when
others are added. With few, the smallest digests are assigned until the share is met.
Where whole documents cannot meet it, as with one novel, the end of the text is cut off
in one piece. Documents of one work (the files of a package) stay together.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from miaobi.core.errors import BadInput
from miaobi.core.language import say

TRAIN, VALIDATION, TEST, DROPPED = 0, 1, 2, 255
MANY = 200
"""Expected documents in the smallest split from which chance alone meets its share well enough."""
DIGESTS = 2.0**64
"""How many 64-bit digests there are."""


@dataclass(frozen=True)
class Cut:
    """Character positions in the running text at which validation and then test begin."""

    validation: int
    test: int

    def parts(self, start: int, length: int) -> Iterator[tuple[int, int, int]]:
        """Yield (split, from, to) for a text of `length` characters that starts at
        `start` in the running text.
        """
        stop = start + length
        edges = [0, self.validation, self.test, stop + 1]
        for split in (TRAIN, VALIDATION, TEST):
            first = max(edges[split], start)
            last = min(edges[split + 1], stop)
            if first < last:
                yield split, first - start, last - start


def check_shares(validation: float, test: float) -> None:
    """Raise BadInput for shares that leave nothing to train on."""
    if validation < 0 or test < 0 or validation + test >= 1:
        raise BadInput(
            say(
                f"validation is {validation} and test {test}: nothing is left to train on.",
                f"validation 为 {validation}，test 为 {test}：没有留下训练数据。",
            ),
            say(
                "Give shares from 0 to less than 1, such as 0.05.",
                "请给出 0 到 1 之间的比例，例如 0.05。",
            ),
        )


def assign(
    digests: np.ndarray, lengths: np.ndarray, validation: float, test: float
) -> np.ndarray | Cut:
    """Return the split of each document (uint8 [documents]), or where to cut the
    running text.

    Args:
        digests: uint64 [documents]
        lengths: characters, int64 [documents]
        validation: its share of the characters
        test: its share of the characters
    """
    shares = {TEST: test, VALIDATION: validation}
    wanted = [share for share in shares.values() if share]
    splits = np.zeros(len(digests), dtype=np.uint8)
    if not wanted:
        return splits
    ranks = _ranks(digests, lengths, min(wanted))
    splits[ranks < validation + test] = VALIDATION
    splits[ranks < test] = TEST
    total = int(lengths.sum())
    for split, share in shares.items():
        reached = lengths[splits == split].sum() / total
        if not share / 2 <= reached <= share * 2:
            return Cut(int(total * (1 - validation - test)), int(total * (1 - test)))
    return splits


def assign_works(
    works: np.ndarray, lengths: np.ndarray, validation: float, test: float
) -> np.ndarray | Cut:
    """Return the split of each document, as `assign` does, where the documents of one
    work stay together.

    Args:
        works: the digest of each document's work, uint64 [documents]
        lengths: characters, int64 [documents]
        validation: its share of the characters
        test: its share of the characters
    """
    digests, numbers = np.unique(works, return_inverse=True)
    sizes = np.zeros(len(digests), dtype=np.int64)
    np.add.at(sizes, numbers, lengths)
    assigned = assign(digests, sizes, validation, test)
    return assigned if isinstance(assigned, Cut) else assigned[numbers]


def _ranks(digests: np.ndarray, lengths: np.ndarray, share: float) -> np.ndarray:
    """The position of each document from 0 to 1, float64 [documents]: its digest's own,
    or for few documents that of its middle when they are ordered by digest.

    share: the smallest that is wanted.
    """
    if len(digests) * share >= MANY:
        return digests / DIGESTS
    order = np.argsort(digests, kind="stable")
    ordered = lengths[order]
    ranks = np.empty(len(digests))
    ranks[order] = (np.cumsum(ordered) - ordered / 2) / lengths.sum()
    return ranks


def assign_groups(
    digests: np.ndarray,
    groups: np.ndarray,
    source_splits: np.ndarray,
    validation: float,
    test: float,
    classes: np.ndarray | None = None,
) -> np.ndarray:
    """Return the split of each item, uint8 [items], where the items of a group stay
    together, and the last one of a class stays in training.

    A share that the source's own splits serve already is not drawn again. Items for
    training whose group has one in the source's test or validation split are DROPPED:
    that split is a benchmark, and stays as it is.

    Args:
        digests: uint64 [items]
        groups: the number of each item's group, int64 [items]
        source_splits: the split that the source names for each, DROPPED for none
        validation: its share of the items
        test: its share of the items
        classes: the class of each, int64 [items]; None where there are none
    """
    splits = np.where(source_splits == DROPPED, TRAIN, source_splits).astype(np.uint8)
    held_out = np.isin(source_splits, (VALIDATION, TEST))
    splits[np.isin(groups, groups[held_out]) & ~held_out] = DROPPED
    wanted = {
        split: share
        for split, share in ((TEST, test), (VALIDATION, validation))
        if share and not (source_splits == split).any()
    }
    free = np.flatnonzero(splits == TRAIN)
    numbers, sizes = _shuffled_groups(digests[free], groups[free])
    left = _Left(None if classes is None else classes[free])
    at = 0
    for split, share in wanted.items():
        goal = max(1, round(len(free) * share))
        if len(numbers) <= len(wanted):
            goal = 0
        # One large group would make a lopsided sample.
        largest = max(1, goal // 4)
        missing = goal
        while at < len(numbers) - 1 and missing > 0:  # one group is left to train on
            members = np.flatnonzero(groups[free] == numbers[at])
            if sizes[at] <= largest and left.take(members):
                splits[free[members]] = split
                missing -= int(sizes[at])
            at += 1
    return splits


class _Left:
    """How many items of each class are left to train on."""

    def __init__(self, classes: np.ndarray | None) -> None:
        self.classes = classes
        self.counts = np.bincount(classes) if classes is not None else None

    def take(self, members: np.ndarray) -> bool:
        """Take items out of training and return True; False where they are the last of
        a class.
        """
        if self.classes is None or self.counts is None:
            return True
        taken = np.bincount(self.classes[members], minlength=len(self.counts))
        remaining = self.counts - taken
        if (remaining[taken > 0] == 0).any():
            return False
        self.counts = remaining
        return True


def _shuffled_groups(
    digests: np.ndarray, groups: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Numbers and sizes of the groups, in the order of the smallest digest of each."""
    ordered = groups[np.argsort(digests, kind="stable")]
    _, first, sizes = np.unique(ordered, return_index=True, return_counts=True)
    order = np.argsort(first, kind="stable")
    return ordered[first[order]], sizes[order]


def joined_groups(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Return the finest grouping in which every group of either stays together: int64
    [items], where each item's number is the lowest position in its group.
    """
    numbers = np.arange(len(first))
    _, first_parts = np.unique(first, return_inverse=True)
    _, second_parts = np.unique(second, return_inverse=True)
    while True:
        before = numbers
        for parts in (first_parts, second_parts):
            lowest = np.full(len(numbers), len(numbers))
            np.minimum.at(lowest, parts, numbers)
            numbers = lowest[parts]
        if (numbers == before).all():
            return numbers
