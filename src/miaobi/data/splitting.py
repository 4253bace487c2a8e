"""Which document goes into which split.

With many documents a document's own digest decides, so it stays where it is when others
are added. With few, the smallest digests are taken until the share is met. Where whole
documents cannot meet it, as with one novel, the end of the text is cut off in one
piece.
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


@dataclass(frozen=True)
class Cut:
    """Character positions in the running text at which validation and then test begin."""

    validation: int
    test: int

    def parts(self, start: int, length: int) -> Iterator[tuple[int, int, int]]:
        """(split, from, to) for a text of `length` characters that starts at `start` in
        the running text.
        """
        edges = [0, self.validation, self.test, start + length + 1]
        for split in (TRAIN, VALIDATION, TEST):
            first, last = (
                max(edges[split], start),
                min(edges[split + 1], start + length),
            )
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
    """The split of each document (uint8 [documents]), or where to cut the running text.

    digests: uint64 [documents]; lengths: characters, int64 [documents].
    """
    shares = {TEST: test, VALIDATION: validation}
    wanted = [share for share in shares.values() if share]
    splits = np.zeros(len(digests), dtype=np.uint8)
    if not wanted:
        return splits
    if len(digests) * min(wanted) >= MANY:
        place = digests / 2.0**64
    else:
        order = np.argsort(digests, kind="stable")
        place = np.empty(len(digests))
        place[order] = (np.cumsum(lengths[order]) - lengths[order] / 2) / lengths.sum()
    splits[place < validation + test] = VALIDATION
    splits[place < test] = TEST
    total = int(lengths.sum())
    got = {split: lengths[splits == split].sum() / total for split in shares}
    if all(share / 2 <= got[split] <= share * 2 for split, share in shares.items()):
        return splits
    return Cut(int(total * (1 - validation - test)), int(total * (1 - test)))


def assign_groups(
    digests: np.ndarray,
    groups: np.ndarray,
    given: np.ndarray,
    validation: float,
    test: float,
) -> np.ndarray:
    """The split of each item, uint8 [items], where the items of a group must not be parted.

    digests: uint64 [items]; groups: the number of each item's group, int64 [items];
        given: the split that the source names for it, DROPPED for none. A share that
        the source serves already is not drawn again. Items for training whose group has
        one in a given test or validation split are DROPPED: that split is a benchmark,
        and stays as it is.
    """
    splits = np.where(given == DROPPED, TRAIN, given).astype(np.uint8)
    wanted = {
        split: share
        for split, share in ((TEST, test), (VALIDATION, validation))
        if share and not (given == split).any()
    }
    held_out = np.isin(given, (VALIDATION, TEST))
    splits[np.isin(groups, groups[held_out]) & ~held_out] = DROPPED
    free = np.flatnonzero(splits == TRAIN)
    order = free[np.argsort(digests[free], kind="stable")]
    _, first, sizes = np.unique(groups[order], return_index=True, return_counts=True)
    turn = np.argsort(first, kind="stable")
    starts, sizes = groups[order[first[turn]]], sizes[turn]
    taken = 0
    for split, share in wanted.items():
        goal = max(1, round(len(free) * share)) if len(starts) > len(wanted) else 0
        room = goal
        while (
            taken < len(starts) - 1 and room > 0
        ):  # one group at least is left to train on
            if sizes[taken] <= max(
                1, goal // 4
            ):  # one large group would make a lopsided sample
                splits[free[groups[free] == starts[taken]]] = split
                room -= int(sizes[taken])
            taken += 1
    return splits


def joined_groups(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """The finest grouping that parts no group of either: int64 [items], where each
    item's number is its group's lowest place.
    """
    numbers = np.arange(len(first))
    parts = [np.unique(groups, return_inverse=True)[1] for groups in (first, second)]
    while True:
        before = numbers
        for part in parts:
            lowest = np.full(len(numbers), len(numbers))
            np.minimum.at(lowest, part, numbers)
            numbers = lowest[part]
        if (numbers == before).all():
            return numbers
