"""Preparation of pictures: survey them, take duplicates out, split, and write one uint8
array for each split and size.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from miaobi.core.errors import BadInput
from miaobi.core.files import home, write_beside
from miaobi.core.language import say
from miaobi.data.cache import locked_folder
from miaobi.data.image import near_duplicates, sources
from miaobi.data.image.config import MANIFEST, SPLITS, Config
from miaobi.data.image.first_pass import FirstPass, Row, Staged, Staging
from miaobi.data.image.listing import readable
from miaobi.data.image.overview import pixel_remarks
from miaobi.data.image.shapes import Size
from miaobi.data.progress import Bar, bar
from miaobi.data.splitting import (
    DROPPED,
    TEST,
    VALIDATION,
    assign_groups,
    check_shares,
)

FORMAT = 2
BLOCK = 4096
"""Pictures copied at once."""
BINARISATION = 2008
"""Seed of static binarisation."""
NOT_IN_FINGERPRINT = {"path", "pack", "source", "pairs", "augment"}
"""Settings that do not change the prepared files, or count by their content."""
BOUNDS = (("image_size", 4, 4096), ("buckets", 2, 64))
"""Settings with their smallest and largest value beside 0."""


def prepare_folder(
    config: Config, cache: Path | None = None, progress: bool = True
) -> Path:
    """Return the folder of the prepared pictures.

    Of two processes that want the same, one prepares it and the other waits.

    Args:
        config: the source of the pictures and what they are brought to
        cache: where prepared data is kept; $MIAOBI_HOME/prepared by default
        progress: show a bar on stderr
    """
    _check(config)
    root = cache or home() / "prepared"
    root.mkdir(parents=True, exist_ok=True)
    with locked_folder(root, fingerprint(config, root)) as folder:
        if not (folder / MANIFEST).exists():
            _remove_drafts(folder)
            with bar(progress) as show, write_beside(folder) as draft:
                _prepare(config, draft, show)
    return folder


def _remove_drafts(folder: Path) -> None:
    """Remove what processes left that were killed while they prepared this folder."""
    for draft in folder.parent.glob(f".{folder.name}.*.part"):
        shutil.rmtree(draft)


def fingerprint(config: Config, root: Path) -> str:
    """Return the name of a preparation: 16 hexadecimal digits of the source's content,
    the settings that matter and the format.
    """
    settings = {
        key: value
        for key, value in asdict(config).items()
        if key not in NOT_IN_FINGERPRINT
    }
    described = ["pictures", FORMAT, settings, sources.identity(config, root)]
    text = json.dumps(described, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _check(config: Config) -> None:
    check_shares(config.validation, config.test)
    settings = asdict(config)
    for name, low, high in BOUNDS:
        value = settings[name]
        if value and not low <= value <= high:
            raise BadInput(
                say(
                    f"{name} is {value}, outside {low} to {high}.",
                    f"{name} 为 {value}，应在 {low} 与 {high} 之间。",
                ),
                say("Give a value within the range, or 0.", "请给出范围内的值，或 0。"),
            )
    if config.buckets and not config.image_size:
        raise BadInput(
            say(
                "buckets needs image_size: the square whose number of pixels all of them have.",
                "使用 buckets 时须给出 image_size（各尺寸的像素数与该正方形相近）。",
            ),
            say(
                "Add it, such as --data.image_size 64.",
                "请加上，例如 --data.image_size 64。",
            ),
        )


def _prepare(config: Config, folder: Path, show: Bar) -> None:
    """Fill `folder`, which is not there yet."""

    def show_count(count: int) -> None:
        show(say(f"Reading: {count:,} pictures", f"读取：{count:,} 张"), 0, 0)

    staging_folder = folder / "staging"
    staging_folder.mkdir(parents=True)
    staging = Staging(staging_folder)
    survey = FirstPass(config, staging)
    try:
        survey.run(sources.pictures(config, survey.report), show_count)
    finally:
        staging.close()
    _check_any(config, survey)
    show(say("Looking for near-duplicates", "查找近似重复的图片"), 0, 0)
    splits, counts = plan(survey.rows, config)
    _Writer(config, survey, staging, folder).write(splits, counts)
    shutil.rmtree(staging_folder)


def _check_any(config: Config, survey: FirstPass) -> None:
    """Raise BadInput where no picture is left."""
    if not survey.rows:
        problems = survey.first_problems
        first = problems[0] if problems else say("there are no pictures.", "没有图片。")
        source = config.path or config.pack
        raise BadInput(
            say(
                f"No picture of {source} can be used. First problem: ",
                f"{source} 中没有可用的图片。第一个问题：",
            )
            + first,
            say(
                "`miaobi data inspect` lists them all.",
                "`miaobi data inspect` 会列出所有问题。",
            ),
        )


def plan(rows: list[Row], config: Config) -> tuple[np.ndarray, dict[str, int]]:
    """Return the split of each row, uint8 [N], DROPPED for none; and the counts
    duplicates, near_duplicates, distinct and left_out_of_train.
    """
    digests = np.array([row.digest for row in rows], dtype=np.uint64)
    source_splits = np.array([_number(row.split) for row in rows], dtype=np.uint8)
    groups = np.arange(len(rows))
    chosen = groups
    if config.near_duplicates != "keep":
        chosen = groups[_first_of_each(digests, source_splits)]
        groups[chosen] = chosen[_groups_of([rows[number] for number in chosen])]
    alike = int((groups[chosen] != chosen).sum())
    duplicates = len(rows) - len(np.unique(digests))
    if config.near_duplicates == "drop":
        chosen = chosen[_first_of_each(groups[chosen], source_splits[chosen])]
    splits = np.full(len(rows), DROPPED, dtype=np.uint8)
    splits[chosen] = assign_groups(
        digests[chosen],
        groups[chosen],
        source_splits[chosen],
        config.validation,
        config.test,
        _class_numbers([rows[number] for number in chosen]),
    )
    return splits, {
        "duplicates": duplicates,
        "near_duplicates": alike,
        "distinct": len(rows) - duplicates - alike,
        "left_out_of_train": int((splits[chosen] == DROPPED).sum()),
    }


def _class_numbers(rows: list[Row]) -> np.ndarray | None:
    """A number for the class of each row, int64 [N]; None where there are no classes."""
    if any(row.label is None for row in rows):
        return None
    labels = [str(row.label) for row in rows]
    _, numbers = np.unique(labels, return_inverse=True)
    return numbers


def _number(split: str) -> int:
    return SPLITS.index(split) if split else DROPPED


def _groups_of(rows: list[Row]) -> np.ndarray:
    """Group of each row by its near-duplicates, int64 [N]."""
    hashes = np.stack([row.hashes for row in rows])
    thumbs = np.stack([row.thumbs for row in rows])
    return near_duplicates.groups(hashes, thumbs)


def _first_of_each(keys: np.ndarray, source_splits: np.ndarray) -> np.ndarray:
    """Where each key occurs first, ascending; in a test or validation split of the
    source before anywhere else.
    """
    in_training = ~np.isin(source_splits, (VALIDATION, TEST))
    order = np.lexsort((np.arange(len(keys)), in_training))
    _, first = np.unique(keys[order], return_index=True)
    return np.sort(order[first])


@dataclass(frozen=True)
class _Bucket:
    """The rows of a split that have one size."""

    size: Size
    rows: list[Row]


class _Writer:
    """Writes the files of one preparation."""

    def __init__(
        self, config: Config, survey: FirstPass, staging: Staging, folder: Path
    ) -> None:
        rows = survey.rows
        self.config = config
        self.survey = survey
        self.staging = staging
        self.folder = folder
        self.sizes = sorted({row.size for row in rows})
        self.channels: int = config.channels or max(row.pixels.channels for row in rows)
        self.source_channels = max(
            row.source.channels if row.source else 0 for row in rows
        )
        self.numbers = {name: number for number, name in enumerate(survey.classes)}

    def write(self, splits: np.ndarray, counts: dict[str, int]) -> None:
        """Write every split and the manifest.

        Args:
            splits: the split of each surveyed row, uint8 [N]
            counts: further entries of the manifest

        Raises BadInput where nothing is left to train on.
        """
        rows = [np.flatnonzero(splits == number) for number in range(len(SPLITS))]
        if not len(rows[0]):
            raise BadInput(
                say("No picture is left to train on.", "没有可供训练的图片。"),
                say(
                    "Give more pictures, or smaller shares of validation and test.",
                    "请增加图片，或减小 validation 与 test 的比例。",
                ),
            )
        written = {
            name: self.write_split(name, [self.survey.rows[number] for number in part])
            for name, part in zip(SPLITS, rows, strict=True)
        }
        height, width = self.sizes[0]
        if self.config.buckets:
            height = width = self.config.image_size
        manifest = {
            "format": FORMAT,
            "channels": self.channels,
            "source_channels": self.source_channels,
            "height": height,
            "width": width,
            "classes": self.survey.classes,
            "pictures": len(self.survey.rows),
            "splits": written,
            **counts,
            "problems": {
                "count": self.survey.problems,
                "first": self.survey.first_problems,
            },
            "remarks": [
                *sources.remarks(self.config),
                *pixel_remarks(self.survey, self.config.fit),
            ],
            "config": {
                **asdict(self.config),
                "path": readable(self.config.path),
            },
        }
        text = json.dumps(manifest, ensure_ascii=False, indent=1)
        (self.folder / MANIFEST).write_text(text, encoding="utf-8")

    def write_split(self, name: str, rows: list[Row]) -> dict[str, Any]:
        """Write one split; return its count, and [height, width, count] of each size."""
        buckets = [
            _Bucket(size, [row for row in rows if row.size == size])
            for size in self.sizes
        ]
        buckets = [bucket for bucket in buckets if bucket.rows]
        for number, bucket in enumerate(buckets):
            self.write_pixels(name, number, bucket)
        ordered = [row for bucket in buckets for row in bucket.rows]
        labels = [self.numbers.get(row.label or "", 0) for row in ordered]
        np.save(self.folder / f"{name}.labels.npy", np.array(labels, dtype=np.int64))
        with (self.folder / f"{name}.jsonl").open("w", encoding="utf-8") as file:
            for row in ordered:
                record = {**row.meta, "name": row.name, "caption": row.caption}
                file.write(json.dumps(record, ensure_ascii=False) + "\n")
        return {
            "count": len(ordered),
            "shapes": [[*bucket.size, len(bucket.rows)] for bucket in buckets],
        }

    def write_pixels(self, split: str, number: int, bucket: _Bucket) -> None:
        self.write_array(
            self.folder / f"{split}.{number}.npy",
            self.channels,
            [row.pixels for row in bucket.rows],
            self.config.binarise == "static",
        )
        if self.source_channels:
            self.write_array(
                self.folder / f"{split}.{number}.source.npy",
                self.source_channels,
                [row.source for row in bucket.rows if row.source],
            )

    def write_array(
        self, target: Path, channels: int, staged: list[Staged], binarise: bool = False
    ) -> None:
        """Write staged pictures as uint8 [N, channels, H, W].

        Args:
            target: a .npy file
            channels: 1 or 3
            staged: pictures of one size
            binarise: draw each value as black or white, with its brightness as
                probability
        """
        draw = np.random.Generator(np.random.PCG64([BINARISATION, len(staged)]))
        header = {
            "shape": (len(staged), channels, *staged[0].size),
            "fortran_order": False,
            "descr": "|u1",
        }
        # Written, not mapped: a full disk is then an error and no crash.
        with target.open("wb") as file:
            np.lib.format.write_array_header_1_0(file, header)
            for first in range(0, len(staged), BLOCK):
                block = self.staging.read(staged[first : first + BLOCK], channels)
                if binarise:
                    block = _binarised(block, draw)
                file.write(block.data)


def _binarised(pixels: np.ndarray, draw: np.random.Generator) -> np.ndarray:
    """Each value as 0 or 255, drawn with its brightness as probability."""
    is_white = draw.random(pixels.shape, dtype=np.float32) * 255 < pixels
    return np.where(is_white, 255, 0).astype(np.uint8)
