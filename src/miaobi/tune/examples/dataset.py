"""A prepared folder as batches for the training loop."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from miaobi.core.errors import BadInput
from miaobi.core.language import say
from miaobi.nn.objective import Batch
from miaobi.tune.config import DataConfig as Config
from miaobi.tune.examples.folder import SPLITS, manifest, read_split
from miaobi.tune.learner import Example, Features, Learner, Task

CACHE_BYTES = 2 << 30
"""Of encoded examples in memory; ten thousand pictures of 224 pixels. Those beyond are
encoded anew in every epoch.
"""
DEFAULT_MAX_LENGTH = 512
"""Tokens that an example may have where max_length is left open; a CPU is slow beyond."""


@dataclass(frozen=True)
class Lengths:
    """How long the examples of a data set are, in tokens; all 0 for pictures."""

    median: int
    p95: int
    longest: int
    max_length: int
    cut: int
    """Examples longer than max_length."""
    ends_cut: int = 0
    """Those of them that lose the end of what is learned, where such are truncated."""
    limit: int = sys.maxsize
    """Tokens that the base can hold."""

    @property
    def needed(self) -> int:
        """The max_length that keeps most examples whole."""
        return min(self.longest, self.limit)


class FeatureCache:
    """Encoded examples in memory, as many as fit."""

    def __init__(self) -> None:
        self._features = dict[tuple[str, int], Features]()
        self._bytes_left = CACHE_BYTES

    def __len__(self) -> int:
        return len(self._features)

    def get(self, split: str, number: int) -> Features | None:
        return self._features.get((split, number))

    def add(self, split: str, number: int, features: Features) -> None:
        """Store the features unless there is no memory left for them."""
        self._bytes_left -= sum(value.nbytes for value in features.values())
        if self._bytes_left >= 0:
            self._features[split, number] = features


@dataclass(frozen=True, eq=False)
class Examples:
    """Prepared examples, encoded by a learner."""

    folder: Path
    task: Task
    learner: Learner
    max_length: int
    too_long: str = "truncate"
    """As in Config."""
    left_out: frozenset[str] = frozenset()
    """Locations of held-out examples that do not fit the training data (a label of which
    there is only one example), and of those that the base cannot learn.
    """
    cache: FeatureCache = field(default_factory=FeatureCache, init=False, repr=False)
    taught_nothing: dict[str, int] = field(default_factory=dict, init=False, repr=False)
    """By split: examples that were dropped, since the loss would look at nothing of them."""

    @property
    def fingerprint(self) -> str:
        return self.folder.name

    @cached_property
    def spec(self) -> Mapping[str, Any]:
        """The facts of preparation."""
        return manifest(self.folder)

    @cached_property
    def _splits(self) -> dict[str, list[Example]]:
        splits = dict[str, list[Example]]()
        for split in SPLITS:
            fitting = [
                example
                for example in read_split(self.folder, split, self.task)
                if example.location not in self.left_out
            ]
            examples = list(self._fitted(fitting))
            splits[split] = self._teaching(split, examples)
            self.taught_nothing[split] = len(examples) - len(splits[split])
        return splits

    def _teaching(self, split: str, examples: list[Example]) -> list[Example]:
        """Return the examples of which the loss looks at anything, encoded in memory as
        far as there is space.
        """
        if not self.learner.may_teach_nothing:
            return examples
        teaching = list[Example]()
        for example in examples:
            features = self.learner.encode(example.columns, self.max_length)
            if self.learner.learned(features):
                self.cache.add(split, len(teaching), features)
                teaching.append(example)
        return teaching

    def _fitted(self, examples: Sequence[Example]) -> Iterator[Example]:
        """Return the examples with those that are too long split or dropped."""
        for example in examples:
            if self.too_long == "truncate" or self._fits(example):
                yield example
            elif self.too_long == "split":
                for columns in self.learner.split(example.columns, self.max_length):
                    yield Example(columns, example.location, example.parts)

    def _fits(self, example: Example) -> bool:
        return self.learner.length(example.columns) <= self.max_length

    def examples(self, split: str) -> list[Example]:
        return self._splits[split]

    def count(self, split: str) -> int:
        return len(self._splits[split])

    def features(self, split: str, number: int) -> Features:
        """Return an example as arrays, from memory where it was encoded before."""
        features = self.cache.get(split, number)
        if features is None:
            columns = self._splits[split][number].columns
            features = self.learner.encode(columns, self.max_length)
            self.cache.add(split, number, features)
        return features

    def batch(self, split: str, index: int, size: int, seed: int) -> Batch:
        """Return batch `index` of an endless stream.

        It goes epoch after epoch, each in an order of its own, without a break between
        them.
        """
        return self._collate(split, self._drawn(split, index, size, seed))

    def locations(self, split: str, index: int, size: int, seed: int) -> list[str]:
        """Return where the examples of a batch were written."""
        examples = self._splits[split]
        return [
            examples[number].location
            for number in self._drawn(split, index, size, seed)
        ]

    def batches(self, split: str, size: int) -> Iterator[Batch]:
        """Return the whole split once, in order."""
        count = self.count(split)
        for start in range(0, count, size):
            yield self._collate(split, range(start, min(start + size, count)))

    def _drawn(self, split: str, index: int, size: int, seed: int) -> list[int]:
        """Return the numbers of the examples of a batch."""
        count = self.count(split)
        positions = range(index * size, (index + 1) * size)
        if split != "train":
            return [position % count for position in positions]
        numbers = list[int]()
        for position in positions:
            epoch, offset = divmod(position, count)
            numbers.append(int(_permutation(count, seed, epoch)[offset]))
        return numbers

    def _collate(self, split: str, numbers: Sequence[int]) -> Batch:
        return self.learner.collate(
            [self.features(split, number) for number in numbers]
        )

    def holding(self, token: int) -> int:
        """Return how many training examples hold a token."""
        return sum(
            any((values == token).any() for values in features.values())
            for features in (
                self.features("train", number) for number in range(self.count("train"))
            )
        )

    def save(self, folder: Path) -> None:
        self.learner.save(folder)


@lru_cache(maxsize=2)
def _permutation(count: int, seed: int, epoch: int) -> np.ndarray:
    """Return the order of the training examples in an epoch."""
    generator = np.random.Generator(np.random.PCG64([seed, epoch]))
    return generator.permutation(count)


def measure(
    folder: Path,
    task: Task,
    learner: Learner,
    config: Config,
    limit: int,
    left_out: frozenset[str] = frozenset(),
) -> Lengths:
    """Return how long the training examples are, and what max_length follows from that.

    Examples that were mixed in, which stand last, do not count for it, so that held-out
    examples are cut the same whatever the mix. Raises BadInput for a max_length beyond
    the base's.

    Args:
        folder: the prepared examples.
        task: what they are examples of.
        learner: measures them.
        config: may name a max_length.
        limit: tokens that the base can hold, 0 for no end.
        left_out: locations of examples that are not learned.
    """
    limit = limit or sys.maxsize
    if config.max_length > limit:
        raise BadInput(
            say(
                f"data.max_length is {config.max_length}; the base holds {limit} tokens.",
                f"data.max_length 为 {config.max_length}；基础模型最多容纳 {limit} 个词元。",
            ),
            say(f"Give at most {limit}.", f"请不要超过 {limit}。"),
        )
    examples = read_split(folder, "train", task)
    own_count = len(examples) - _mixed_in(folder)
    counted = [
        (learner.length(example.columns), number < own_count, example)
        for number, example in enumerate(examples)
        if example.location not in left_out
    ]
    if not counted:
        raise BadInput(
            say(
                "The base can learn none of the training examples.",
                "基础模型无法学习任何训练样本。",
            ),
            say("See `miaobi data inspect`.", "请查看 miaobi data inspect 的结果。"),
        )
    lengths = np.array([length for length, _, _ in counted])
    max_length = config.max_length
    if not max_length:
        own = [length for length, is_own, _ in counted if is_own]
        enough = -(-int(np.quantile(own, 0.99)) // 8) * 8
        max_length = max(min(enough, DEFAULT_MAX_LENGTH, limit), 8)
    is_cut = lengths > max_length
    ends_cut = sum(
        learner.loses_answer(example.columns, max_length)
        for length, _, example in counted
        if length > max_length and config.too_long == "truncate"
    )
    median, p95 = np.quantile(lengths, [0.5, 0.95])
    return Lengths(
        median=int(median),
        p95=int(p95),
        longest=int(lengths.max()),
        max_length=max_length if lengths.any() else 0,
        cut=int(is_cut.sum()) if lengths.any() else 0,
        ends_cut=ends_cut,
        limit=limit,
    )


def _mixed_in(folder: Path) -> int:
    """Return how many training examples come from other sources."""
    mix = manifest(folder).get("mix", {})
    return sum(source["added"] for source in mix.values())
