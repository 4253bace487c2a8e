"""What the folders above pictures mean: splits, classes, or only order.

Everything follows from the relative paths ("train/cat/1.png"), so it is the same
wherever a folder lies.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

SPLITS = {
    "train": "train",
    "training": "train",
    "val": "validation",
    "valid": "validation",
    "validation": "validation",
    "dev": "validation",
    "test": "test",
    "testing": "test",
}
UNPAIRED = re.compile(r"(train|val|valid|validation|test)_?([ab])", re.IGNORECASE)
"""CycleGAN's folders: trainA, trainB, testA, testB."""
LOOSE = 0.1
"""At most this share of the pictures may lie above the folders that are classes."""


@dataclass(frozen=True)
class Position:
    """Where a picture lies."""

    split: str
    """"train", "validation", "test" or ""."""
    folders: tuple[str, ...]
    """From below the split to the picture."""


def positions_of(keys: Iterable[str]) -> dict[str, Position]:
    """Return the place of each relative path, with its split.

    The topmost folders are splits where they are called train, validation or test;
    but one such folder among others, each with pictures of its own, is a class. A
    single folder around everything counts for nothing.
    """
    folders = {key: tuple(key.split("/")[:-1]) for key in keys}
    folders = _without_wrapper(folders)
    if _is_unpaired(folders.values()):
        return {key: _unpaired_position(parts) for key, parts in folders.items()}
    named = _split_folders(folders.values())
    positions = dict[str, Position]()
    for key, parts in folders.items():
        if parts and parts[0] in named:
            positions[key] = Position(SPLITS[parts[0].lower()], parts[1:])
        else:
            positions[key] = Position("", parts)
    return positions


def _without_wrapper(
    folders: Mapping[str, tuple[str, ...]],
) -> dict[str, tuple[str, ...]]:
    """The folders of each path, without those around everything that are no split."""
    shortened = dict(folders)
    while True:
        tops = {parts[:1] for parts in shortened.values()}
        if len(tops) != 1 or tops == {()} or next(iter(tops))[0].lower() in SPLITS:
            return shortened
        shortened = {key: parts[1:] for key, parts in shortened.items()}


def _is_unpaired(folders: Iterable[tuple[str, ...]]) -> bool:
    tops = {parts[0] if parts else "" for parts in folders}
    return len(tops) > 1 and all(UNPAIRED.fullmatch(top) for top in tops)


def _unpaired_position(parts: tuple[str, ...]) -> Position:
    match = UNPAIRED.fullmatch(parts[0])
    assert match is not None
    split, side = match.groups()
    return Position(SPLITS[split.lower()], (side.upper(), *parts[1:]))


def _split_folders(folders: Iterable[tuple[str, ...]]) -> set[str]:
    """The topmost folders that are splits."""
    depths = dict[str, int]()
    for parts in folders:
        if parts:
            depth = min(len(parts), depths.get(parts[0], len(parts)))
            depths[parts[0]] = depth
    named = {top for top in depths if top.lower() in SPLITS}
    others = [depth for top, depth in depths.items() if top not in named]
    if not named or not others:
        return named
    if len({SPLITS[top.lower()] for top in named}) > 1:
        return named
    is_deeper = min(depths[top] for top in named) > max(others)
    return named if is_deeper else set()


@dataclass(frozen=True)
class Classes:
    """Which folders are classes."""

    level: int
    """From 1, below the split; 0 where there are none."""
    above: int
    """Pictures that lie above them, and so have no class."""
    below: int
    """Pictures deeper within a class's folder, which count to it."""

    def of(self, position: Position) -> str | None:
        """Return the class of the picture at a position."""
        if not self.level or len(position.folders) < self.level:
            return None
        return position.folders[self.level - 1]


NO_CLASSES = Classes(0, 0, 0)


def classes_of(positions: Iterable[Position]) -> Classes:
    """Return the folders that are classes: the deepest level at which nearly all of the
    pictures lie, where it has at least two folders.

    A single picture above or below such folders does not cost the others their class.
    """
    folders = [position.folders for position in positions]
    depths = Counter(map(len, folders))
    for level in sorted(depths, reverse=True):
        above = sum(count for depth, count in depths.items() if depth < level)
        most = LOOSE * len(folders)
        if level == 1:
            most = max(1, most)
        if not level or above > most:
            continue
        names = {parts[level - 1] for parts in folders if len(parts) >= level}
        if len(names) > 1:
            below = sum(count for depth, count in depths.items() if depth > level)
            return Classes(level, above, below)
        return NO_CLASSES
    return NO_CLASSES
