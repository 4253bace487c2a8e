"""Which document goes into which split.

With many documents a document's own digest decides, so it stays where it is when others are added. With few, the
smallest digests are taken until the share is met. Where whole documents cannot meet it, as with one novel, the end of the text is
cut off in one piece.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

TRAIN, VALIDATION, TEST, DROPPED = 0, 1, 2, 255
MANY = 200
"""Expected documents in the smallest split from which chance alone meets its share well enough."""


@dataclass(frozen=True)
class Cut:
    """Character positions in the running text at which validation and then test begin."""

    validation: int
    test: int

    def parts(self, start: int, length: int) -> Iterator[tuple[int, int, int]]:
        """(split, from, to) for a text of `length` characters that starts at `start` in the running text."""
        edges = [0, self.validation, self.test, start + length + 1]
        for split in (TRAIN, VALIDATION, TEST):
            first, last = max(edges[split], start), min(edges[split + 1], start + length)
            if first < last:
                yield split, first - start, last - start


def assign(digests: np.ndarray, lengths: np.ndarray, validation: float, test: float) -> np.ndarray | Cut:
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
