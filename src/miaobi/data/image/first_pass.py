"""The first pass over pictures: each is decoded, fitted to its size and hashed, on two
threads at once.

Decoded pictures go to staging files by shape as they come, never all into memory; what
is held of each is its name, its texts, its digest, its perceptual hash and a thumbnail
(about a kilobyte).
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import IO

import numpy as np

from miaobi.core.errors import BadInput, nearest
from miaobi.core.language import say
from miaobi.data.encoding import Problem, raise_problem
from miaobi.data.image import near_duplicates
from miaobi.data.image.config import Config
from miaobi.data.image.files import Opened, Range, open_picture, quiet, range_of_set
from miaobi.data.image.listing import readable
from miaobi.data.image.record import Picture
from miaobi.data.image.shapes import (
    Shape,
    Size,
    buckets,
    cropped_share,
    fitted,
    nearest_bucket,
    with_channels,
)
from miaobi.data.text.shapes import Unusable

THREADS = 2
AT_ONCE = 64
"""Pictures decoded before the next ones are read."""
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
    signatures: list[tuple[np.uint64, np.ndarray]] = field(default_factory=list)
    """Hash and thumbnail, for pairs of both."""
    label: str | None = None
    caption: str = ""
    cropped: float = 0.0
    """The share of its area that is cut off."""
    deep: list[Opened] = field(default_factory=list)
    """Of a picture that waits for the range of the whole set: what was opened."""


@dataclass(frozen=True)
class Staged:
    """A staged picture: the shape [C, H, W] of its file, and its number in it."""

    shape: Shape
    number: int

    @property
    def channels(self) -> int:
        return self.shape[0]

    @property
    def size(self) -> Size:
        return self.shape[1:]


@dataclass(frozen=True)
class Row:
    """What is held of a picture that could be used."""

    number: int
    """Its position in the source."""
    name: str
    pixels: Staged
    source: Staged | None
    digest: int
    hashes: np.ndarray
    """uint64 [1], or [2] for a pair; see near_duplicates."""
    thumbs: np.ndarray
    label: str | None
    caption: str
    meta: Mapping[str, str]
    split: str

    @property
    def size(self) -> Size:
        return self.pixels.size


class Staging:
    """Decoded pictures in one file for each shape."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.files: dict[Shape, IO[bytes]] = {}
        self.counts = Counter[Shape]()

    def append(self, pixels: np.ndarray) -> Staged:
        """Write a picture, uint8 [C, H, W]."""
        shape: Shape = pixels.shape
        if shape not in self.files:
            self.files[shape] = self._path(shape).open("wb")
        self.files[shape].write(np.ascontiguousarray(pixels).data)
        self.counts[shape] += 1
        return Staged(shape, self.counts[shape] - 1)

    def close(self) -> None:
        for file in self.files.values():
            file.close()

    def read(self, staged: list[Staged], channels: int) -> np.ndarray:
        """Return pictures of one size, uint8 [N, channels, H, W], in the order of `staged`."""
        pixels = np.empty((len(staged), channels, *staged[0].size), dtype=np.uint8)
        for shape in {picture.shape for picture in staged}:
            rows = [row for row, item in enumerate(staged) if item.shape == shape]
            numbers = [staged[row].number for row in rows]
            file = np.memmap(self._path(shape), dtype=np.uint8, mode="r")
            pictures = file.reshape(-1, *shape)[numbers]
            pixels[rows] = with_channels(pictures, channels)
        return pixels

    def _path(self, shape: Shape) -> Path:
        return self.folder / "x".join(map(str, shape))


class FirstPass:
    """What the pictures are. `rows` are those that can be used, in the order of the source."""

    def __init__(self, config: Config, staging: Staging | None) -> None:
        """staging: where pixels are kept; None for an inspection that keeps none."""
        self.config = config
        self.staging = staging
        self.rows = list[Row]()
        self.sizes = Counter[tuple[int, int]]()
        """Width and height before fitting."""
        self.kinds = Counter[str]()
        self.classes: tuple[str, ...] = ()
        self.problems = 0
        self.first_problems = list[str]()
        self.values = dict[str, Range]()
        """Smallest and largest value of deep pictures, by their kind."""
        self.ranges = dict[str, Range]()
        """Their black and white."""
        self.cropped = list[float]()
        """The share of each picture's area that is cut off."""
        self.blank = Counter[str]()
        """Pictures of one colour: "black" or "white"."""

    def report(self, problem: Problem) -> None:
        """Count a problem; raise it where the configuration is strict."""
        if self.config.strict:
            raise_problem(problem)
        self.problems += 1
        if len(self.first_problems) < NAMED:
            self.first_problems.append(readable(str(problem)))

    def run(self, pictures: Iterable[Picture], show: Callable[[int], None]) -> None:
        """Survey all pictures; `show` is called with the number of usable ones."""
        numbered = enumerate(pictures)
        deep = list[tuple[int, Picture]]()
        with ThreadPoolExecutor(THREADS) as pool, quiet():
            while chunk := list(islice(numbered, AT_ONCE)):
                deep += self._run_chunk(pool, chunk)
                show(len(self.rows))
            self.ranges = {
                depth: range_of_set(depth, values)
                for depth, values in self.values.items()
            }
            for first in range(0, len(deep), AT_ONCE):
                self._run_chunk(pool, deep[first : first + AT_ONCE])
                show(len(self.rows))
        self.rows.sort(key=lambda row: row.number)
        self._settle_classes()

    def _run_chunk(
        self, pool: ThreadPoolExecutor, chunk: list[tuple[int, Picture]]
    ) -> list[tuple[int, Picture]]:
        """Keep what can be used of numbered pictures; return those whose range depends
        on the whole set, which is not known yet.
        """
        waiting = list[tuple[int, Picture]]()
        pictures = [picture for _, picture in chunk]
        for (number, picture), decoded in zip(
            chunk, pool.map(self.decode, pictures), strict=True
        ):
            for problem in decoded.problems:
                self.report(problem)
            if decoded.pixels is not None:
                self._keep(number, decoded, decoded.pixels)
            elif decoded.deep:
                waiting.append((number, picture))
                for opened in decoded.deep:
                    self._widen(opened)
        return waiting

    def _widen(self, opened: Opened) -> None:
        low, high = self.values.get(opened.depth, opened.values)
        values = opened.values
        self.values[opened.depth] = Range(min(low, values.low), max(high, values.high))

    def decode(self, picture: Picture) -> Decoded:
        """Decode, fit and hash a picture. Called in threads: changes nothing here."""
        decoded = Decoded(picture)
        try:
            self._decode(decoded)
        except Unusable as error:
            problem = Problem(picture.path, picture.line, error.what, error.remedy)
            decoded.problems.append(problem)
        return decoded

    def _decode(self, decoded: Decoded) -> None:
        config, picture = self.config, decoded.picture
        decoded.label = class_of(picture)
        decoded.caption = caption_of(picture, config.caption_column)
        opened = self._open(picture.content, decoded)
        source = None
        if picture.source is not None:
            source = self._open(picture.source, decoded)
            check_pair(source.pixels.size, opened.pixels.size)
        if decoded.deep:
            return
        height, width = self._target(opened.pixels.height, opened.pixels.width)
        if source is not None:
            decoded.source = fitted(source.pixels, height, width, config.fit)
        decoded.pixels = fitted(opened.pixels, height, width, config.fit)
        decoded.size = opened.pixels.size
        decoded.kind = opened.kind
        if config.fit == "crop":
            decoded.cropped = cropped_share(opened.pixels, *self._shape(height, width))
        for pixels in (decoded.pixels, decoded.source):
            if pixels is not None:
                decoded.signatures.append(near_duplicates.signature(pixels))
        if opened.note:
            remedy = say("Give single pictures.", "请给出单张图片。")
            problem = Problem(picture.path, picture.line, opened.note, remedy)
            decoded.problems.append(problem)

    def _open(self, content: Path | bytes | np.ndarray, decoded: Decoded) -> Opened:
        """Open a picture; a deep one whose range is not known yet joins `decoded.deep`."""
        opened = open_picture(content, self.config.image_size, self.ranges)
        if opened.depth and opened.depth not in self.ranges:
            decoded.deep.append(opened)
        return opened

    def _shape(self, height: int, width: int) -> Size:
        """The shape that a picture is cut to: its own; without a size, as an inspection
        has none, a square.
        """
        if self.staging is None and not self.config.image_size:
            return 1, 1
        return height, width

    def _target(self, height: int, width: int) -> Size:
        """The size to which a picture of this size is fitted."""
        side = self.config.image_size
        if not side:
            return height, width
        if not self.config.buckets:
            return side, side
        return nearest_bucket(height, width, buckets(side, self.config.buckets))

    def _keep(self, number: int, decoded: Decoded, pixels: np.ndarray) -> None:
        self._check_size(decoded, pixels)
        content = pixels.tobytes()
        staged_source = None
        if decoded.source is not None:
            content += decoded.source.tobytes()
            staged_source = self._stage(decoded.source)
        digest = hashlib.blake2b(content, digest_size=8).digest()
        self.sizes[decoded.size] += 1
        self.kinds[decoded.kind] += 1
        self.classes = self.classes or decoded.picture.classes
        hashes, thumbs = zip(*decoded.signatures, strict=True)
        self.cropped.append(decoded.cropped)
        self._count_blank(pixels)
        row = Row(
            number=number,
            name=decoded.picture.name,
            pixels=self._stage(pixels),
            source=staged_source,
            digest=int.from_bytes(digest, "big"),
            hashes=np.array(hashes),
            thumbs=np.stack(thumbs),
            label=decoded.label,
            caption=decoded.caption,
            meta=decoded.picture.meta,
            split=decoded.picture.split,
        )
        self.rows.append(row)

    def _count_blank(self, pixels: np.ndarray) -> None:
        low, high = int(pixels.min()), int(pixels.max())
        if low == high and low in (0, 255):
            self.blank["white" if low else "black"] += 1

    def _check_size(self, decoded: Decoded, pixels: np.ndarray) -> None:
        """Raise BadInput for a picture of another size than the first, where all must
        have one.
        """
        if not self.staging or not self.rows or self.config.image_size:
            return
        height, width = self.rows[0].size
        if (height, width) != pixels.shape[1:]:
            first, other = self.rows[0].name, decoded.picture.name
            raise BadInput(
                say(
                    f"The pictures differ in size: {first} is {width}×{height}, "
                    f"{other} is {decoded.size[0]}×{decoded.size[1]}.",
                    f"图片尺寸不一：{first} 为 {width}×{height}，{other} 为 {decoded.size[0]}×{decoded.size[1]}。",
                ),
                say(
                    "Say which size to bring them to, such as --data.image_size 64.",
                    "请指定统一的尺寸，例如 --data.image_size 64。",
                ),
            )

    def _stage(self, pixels: np.ndarray) -> Staged:
        if self.staging is None:
            return Staged(pixels.shape, 0)
        return self.staging.append(pixels)

    def _settle_classes(self) -> None:
        """Set the classes, and leave only their rows."""
        names = {row.label for row in self.rows if row.label is not None}
        if not names:
            self._check_no_classes()
            self.classes = ()
            return
        for row in self.rows:
            if row.label is None:
                self.report(_without_class(row))
        self.classes = self.classes or tuple(sorted(names, key=_numbers_first))
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

    def _check_no_classes(self) -> None:
        classes = self.config.classes
        if classes:
            raise BadInput(
                say(
                    f"classes is {', '.join(classes)}, but these pictures have none.",
                    f"classes 为 {'、'.join(classes)}，但这些图片没有类别。",
                ),
                say(
                    "Leave it out, or put each class into a folder of its name.",
                    "请去掉它，或把每一类放入以类名命名的文件夹。",
                ),
            )


def _without_class(row: Row) -> Problem:
    return Problem(
        Path(row.name),
        0,
        say("it has no class, while others have.", "没有类别，而其他图片有。"),
        say("Give it one, or put it elsewhere.", "请为它指定类别，或移到别处。"),
    )


def _numbers_first(name: str) -> tuple[bool, int, str]:
    """Key that sorts "2" before "10", and numbers before names."""
    if name.isdecimal():
        return False, int(name), name
    return True, 0, name


def check_pair(source: tuple[int, int], target: tuple[int, int]) -> None:
    """Raise Unusable unless the two have one shape, to a pixel. Each is (width, height)."""
    difference = abs(source[0] * target[1] - target[0] * source[1])
    if difference > max(*source, *target):
        raise Unusable(
            say(
                "the pictures of this pair have different shapes: "
                f"{source[0]}×{source[1]} and {target[0]}×{target[1]}.",
                f"成对的两张图片形状不同：{source[0]}×{source[1]} 与 {target[0]}×{target[1]}。",
            ),
            say("Cut them to the same shape.", "请裁成相同的形状。"),
        )


def class_of(picture: Picture) -> str | None:
    """Return the name of a picture's class. Raises Unusable for one that its source
    does not name.
    """
    label, classes = picture.label, picture.classes
    if label is None:
        return None
    if not classes:
        return str(label)
    name = dict(enumerate(classes)).get(label) if isinstance(label, int) else label
    if name not in classes:
        raise Unusable(
            say(
                f"unknown class {label!r}: the source names {len(classes)} classes.",
                f"未知类别 {label!r}：来源中共有 {len(classes)} 类。",
            ),
            nearest(str(label), classes),
        )
    return name


def caption_of(picture: Picture, column: str) -> str:
    """Return the text that describes a picture, from `column` or a usual one.

    Raises Unusable when a named column is not there.
    """
    if not column:
        return _usual_caption(picture.meta)
    if column not in picture.meta:
        raise Unusable(
            say(f"it has no column {column!r}.", f"没有名为 {column!r} 的列。"),
            nearest(column, picture.meta),
        )
    return picture.meta[column]


def _usual_caption(meta: Mapping[str, str]) -> str:
    for name in CAPTIONS:
        if name in meta:
            return meta[name]
    return next(iter(meta.values()), "")
