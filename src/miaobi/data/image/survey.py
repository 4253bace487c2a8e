"""The first pass over pictures: each is decoded, brought to its shape and looked at,
side by side on two threads.

Decoded pictures go to staging files by shape as they come, never all into memory; what
is held of each is its name, its words, its digest, its perceptual hash and a thumbnail
(about a kilobyte).
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import IO

import numpy as np

from miaobi.core.errors import BadInput, nearest
from miaobi.core.language import say
from miaobi.data.encoding import Problem, raise_it
from miaobi.data.image import near_duplicates
from miaobi.data.image.config import Config
from miaobi.data.image.files import open_picture, quiet
from miaobi.data.image.record import Picture
from miaobi.data.image.shapes import (
    Shape,
    buckets,
    fitted,
    nearest_bucket,
    with_channels,
)
from miaobi.data.text.shapes import Unusable

AT_ONCE = 64
NAMED = 1000
"""Problems that are kept by name; the others are counted."""
CAPTIONS = ("text", "caption", "captions", "prompt", "description")


@dataclass
class Decoded:
    """A picture as a thread leaves it; without pixels where it could not be used."""

    picture: Picture
    problems: list[Problem] = field(default_factory=list)
    pixels: np.ndarray | None = None
    source: np.ndarray | None = None
    size: tuple[int, int] = (0, 0)
    """Width and height before fitting."""
    kind: str = ""
    """Format and mode of the file."""
    looks: list[tuple[np.uint64, np.ndarray]] = field(default_factory=list)
    """Hash and thumbnail, for pairs of both."""
    label: str | None = None
    caption: str = ""


@dataclass(frozen=True)
class Place:
    """Where a staged picture lies: the shape [C, H, W] of its file, and its number there."""

    shape: Shape
    number: int


@dataclass(frozen=True)
class Row:
    """What is held of a picture that could be used."""

    name: str
    pixels: Place
    source: Place | None
    digest: int
    hashes: np.ndarray
    """uint64 [1], or [2] for a pair; see near_duplicates."""
    thumbs: np.ndarray
    label: str | None
    caption: str
    meta: Mapping[str, str]
    split: str

    @property
    def sides(self) -> tuple[int, int]:
        """Height and width."""
        return self.pixels.shape[1:]


class Staging:
    """Decoded pictures in one file for each shape."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.files: dict[Shape, IO[bytes]] = {}
        self.counts = Counter[Shape]()

    def append(self, pixels: np.ndarray) -> Place:
        shape: Shape = pixels.shape
        if shape not in self.files:
            self.files[shape] = self._path(shape).open("wb")
        self.files[shape].write(np.ascontiguousarray(pixels).data)
        self.counts[shape] += 1
        return Place(shape, self.counts[shape] - 1)

    def close(self) -> None:
        for file in self.files.values():
            file.close()

    def read(self, places: list[Place], channels: int) -> np.ndarray:
        """Pictures of one height and width, uint8 [N, channels, H, W], in the order of `places`."""
        found = np.empty((len(places), channels, *places[0].shape[1:]), dtype=np.uint8)
        for shape in {place.shape for place in places}:
            here = [at for at, place in enumerate(places) if place.shape == shape]
            mapped = np.memmap(self._path(shape), dtype=np.uint8, mode="r").reshape(
                -1, *shape
            )
            found[here] = with_channels(
                mapped[[places[at].number for at in here]], channels
            )
        return found

    def _path(self, shape: Shape) -> Path:
        return self.folder / "x".join(map(str, shape))


class Survey:
    """What the pictures are. `rows` are those that can be used, in the order of the source."""

    def __init__(self, config: Config, staging: Staging | None) -> None:
        """staging: where pixels are kept; None when only looking."""
        self.config, self.staging = config, staging
        self.rows, self.sizes, self.kinds = (
            list[Row](),
            Counter[tuple[int, int]](),
            Counter[str](),
        )
        self.classes: tuple[str, ...] = ()
        self.problems, self.first_problems = 0, list[str]()

    def report(self, problem: Problem) -> None:
        if self.config.strict:
            raise_it(problem)
        self.problems += 1
        if len(self.first_problems) < NAMED:
            self.first_problems.append(str(problem))

    def run(self, pictures: Iterator[Picture], shown: Callable[[int], None]) -> None:
        with ThreadPoolExecutor(2) as pool, quiet():
            while chunk := list(islice(pictures, AT_ONCE)):
                for made in pool.map(self.decode, chunk):
                    for problem in made.problems:
                        self.report(problem)
                    if made.pixels is not None:
                        self._keep(made, made.pixels)
                shown(len(self.rows))
        self._settle_classes()

    def decode(self, picture: Picture) -> Decoded:
        """Called in threads: changes nothing here."""
        made = Decoded(picture)
        try:
            made.label, made.caption = (
                class_of(picture),
                caption_of(picture, self.config.caption_column),
            )
            opened = open_picture(picture.content, self.config.image_size)
            height, width = self._target(opened.pixels.height, opened.pixels.width)
            if picture.source is not None:
                source = open_picture(picture.source, self.config.image_size)
                check_pair(source.pixels.size, opened.pixels.size)
                made.source = fitted(source.pixels, height, width, self.config.fit)
            made.pixels = fitted(opened.pixels, height, width, self.config.fit)
            made.size, made.kind = opened.pixels.size, opened.kind
            made.looks = [
                near_duplicates.signature(pixels)
                for pixels in (made.pixels, made.source)
                if pixels is not None
            ]
            if opened.note:
                made.problems.append(
                    Problem(
                        picture.path,
                        picture.line,
                        opened.note,
                        say("Give single pictures.", "请给出单张图片。"),
                    )
                )
        except Unusable as error:
            made.problems.append(
                Problem(picture.path, picture.line, error.what, error.remedy)
            )
        return made

    def _target(self, height: int, width: int) -> tuple[int, int]:
        size, count = self.config.image_size, self.config.buckets
        if not size:
            return height, width
        return (
            nearest_bucket(height, width, buckets(size, count))
            if count
            else (size, size)
        )

    def _keep(self, made: Decoded, pixels: np.ndarray) -> None:
        if (
            self.staging
            and self.rows
            and not self.config.image_size
            and self.rows[0].sides != pixels.shape[1:]
        ):
            raise self._sizes_differ(made)
        digest = hashlib.blake2b(
            pixels.tobytes() + (b"" if made.source is None else made.source.tobytes()),
            digest_size=8,
        )
        source = None if made.source is None else self._staged(made.source)
        self.sizes[made.size] += 1
        self.kinds[made.kind] += 1
        self.classes = self.classes or made.picture.classes
        hashes, thumbs = zip(*made.looks, strict=True)
        self.rows.append(
            Row(
                made.picture.name,
                self._staged(pixels),
                source,
                int.from_bytes(digest.digest(), "big"),
                np.array(hashes),
                np.stack(thumbs),
                made.label,
                made.caption,
                made.picture.meta,
                made.picture.split,
            )
        )

    def _sizes_differ(self, made: Decoded) -> BadInput:
        (height, width), first = self.rows[0].sides, self.rows[0].name
        return BadInput(
            say(
                f"The pictures differ in size: {first} is {width}×{height}, "
                f"{made.picture.name} is {made.size[0]}×{made.size[1]}.",
                f"图片尺寸不一：{first} 为 {width}×{height}，{made.picture.name} 为 {made.size[0]}×{made.size[1]}。",
            ),
            say(
                "Say which size to bring them to, such as --data.image_size 64.",
                "请指定统一的尺寸，例如 --data.image_size 64。",
            ),
        )

    def _staged(self, pixels: np.ndarray) -> Place:
        return self.staging.append(pixels) if self.staging else Place(pixels.shape, 0)

    def _settle_classes(self) -> None:
        """Which classes there are, and only the rows of those."""
        if not any(row.label is not None for row in self.rows):
            if self.config.classes:
                raise BadInput(
                    say(
                        f"classes is {', '.join(self.config.classes)}, but these pictures have none.",
                        f"classes 为 {'、'.join(self.config.classes)}，但这些图片没有类别。",
                    ),
                    say(
                        "Leave it out, or put each class into a folder of its name.",
                        "请去掉它，或把每一类放入以类名命名的文件夹。",
                    ),
                )
            self.classes = ()
            return
        for row in [row for row in self.rows if row.label is None]:
            self.report(
                Problem(
                    Path(row.name),
                    0,
                    say(
                        "it has no class, while others have.",
                        "没有类别，而其他图片有。",
                    ),
                    say(
                        "Give it one, or put it elsewhere.",
                        "请为它指定类别，或移到别处。",
                    ),
                )
            )
        names = {row.label for row in self.rows if row.label is not None}
        self.classes = self.classes or tuple(
            sorted(
                names,
                key=lambda name: (
                    not name.isdecimal(),
                    int(name) if name.isdecimal() else 0,
                    name,
                ),
            )
        )
        for name in self.config.classes:
            if name not in self.classes:
                raise BadInput(
                    say(
                        f"There is no class {name!r} in these pictures.",
                        f"这些图片中没有类别 {name!r}。",
                    ),
                    nearest(name, self.classes),
                )
        self.classes = tuple(self.config.classes) or self.classes
        self.rows = [row for row in self.rows if row.label in self.classes]


def check_pair(source: tuple[int, int], target: tuple[int, int]) -> None:
    """Raise Unusable unless the two have one shape, to a pixel. Each is (width, height)."""
    if abs(source[0] * target[1] - target[0] * source[1]) > max(*source, *target):
        raise Unusable(
            say(
                "the pictures of this pair have different shapes: "
                f"{source[0]}×{source[1]} and {target[0]}×{target[1]}.",
                f"成对的两张图片形状不同：{source[0]}×{source[1]} 与 {target[0]}×{target[1]}。",
            ),
            say("Cut them to the same shape.", "请裁成相同的形状。"),
        )


def class_of(picture: Picture) -> str | None:
    """The name of its class. Raises Unusable for one that its source does not know."""
    if picture.label is None or not picture.classes:
        return None if picture.label is None else str(picture.label)
    known = dict(enumerate(picture.classes))
    name = known.get(picture.label) if isinstance(picture.label, int) else picture.label
    if name not in picture.classes:
        raise Unusable(
            say(
                f"unknown class {picture.label!r}: the source names {len(known)} classes.",
                f"未知类别 {picture.label!r}：来源中共有 {len(known)} 类。",
            ),
            nearest(str(picture.label), picture.classes),
        )
    return name


def caption_of(picture: Picture, column: str) -> str:
    """The text that describes it. Raises Unusable when the column that was asked for is
    not there.
    """
    if column:
        if column not in picture.meta:
            raise Unusable(
                say(f"it has no column {column!r}.", f"没有名为 {column!r} 的列。"),
                nearest(column, picture.meta),
            )
        return picture.meta[column]
    return next(
        (picture.meta[name] for name in CAPTIONS if name in picture.meta),
        next(iter(picture.meta.values()), ""),
    )
