"""Preparation of pictures: survey them, take duplicates out, split, and write one uint8
array for each split and size.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from miaobi.core.errors import BadInput
from miaobi.core.files import home, write_beside
from miaobi.core.language import say
from miaobi.data.cache import locked_folder
from miaobi.data.image import near_duplicates
from miaobi.data.image import sources as picture_sources
from miaobi.data.image.config import MANIFEST, SPLITS, Config
from miaobi.data.image.survey import Place, Row, Staging, Survey
from miaobi.data.progress import Bar, bar
from miaobi.data.splitting import DROPPED, assign_groups, check_shares

FORMAT = 2
BLOCK = 4096
"""Pictures copied at once."""
BINARISATION = 2008
"""Seed of static binarisation."""
AFTERWARDS = {"path", "pack", "source", "augment"}
"""Settings that do not change the prepared files, or count by their content."""


def prepare_folder(
    config: Config, cache: Path | None = None, progress: bool = True
) -> Path:
    """The folder of the prepared pictures. Two processes that want the same wait for each other."""
    _check(config)
    root = cache or home() / "prepared"
    root.mkdir(parents=True, exist_ok=True)
    with locked_folder(root, fingerprint(config, root)) as folder:
        if not (folder / MANIFEST).exists():
            for left in root.glob(
                f".{folder.name}.*.part"
            ):  # by a process that was killed
                shutil.rmtree(left)
            with bar(progress) as shown, write_beside(folder) as draft:
                _make(config, draft, shown)
    return folder


def fingerprint(config: Config, root: Path) -> str:
    """Name of a preparation: the source's content, the settings that matter, the format."""
    settings = {
        key: value for key, value in asdict(config).items() if key not in AFTERWARDS
    }
    described = ["pictures", FORMAT, settings, picture_sources.identity(config, root)]
    return hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()[
        :16
    ]


def _check(config: Config) -> None:
    check_shares(config.validation, config.test)
    for name, low, high in (("image_size", 4, 4096), ("buckets", 2, 64)):
        value = getattr(config, name)
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


def _make(config: Config, folder: Path, shown: Bar) -> None:
    """Fill `folder`, which is not there yet."""
    staging = folder / "staging"
    staging.mkdir(parents=True)
    kept = Staging(staging)
    survey = Survey(config, kept)
    try:
        survey.run(
            picture_sources.pictures(config, survey.report),
            lambda count: shown(
                say(f"Reading: {count:,} pictures", f"读取：{count:,} 张"), 0, 0
            ),
        )
    finally:
        kept.close()
    _tell(config, survey)
    shown(say("Looking for near-duplicates", "查找近似重复的图片"), 0, 0)
    split, found = plan(survey.rows, config)
    _Writing(config, survey, kept, folder).run(
        [np.flatnonzero(split == number) for number in range(len(SPLITS))], found
    )
    shutil.rmtree(staging)


def _tell(config: Config, survey: Survey) -> None:
    """What went wrong: an error where nothing is left."""
    if not survey.rows:
        first = (
            survey.first_problems[0]
            if survey.first_problems
            else say("there are no pictures.", "没有图片。")
        )
        raise BadInput(
            say(
                f"No picture of {config.path or config.pack} can be used. First problem: {first}",
                f"{config.path or config.pack} 中没有可用的图片。第一个问题：{first}",
            ),
            say(
                "`miaobi data inspect` lists them all.",
                "`miaobi data inspect` 会列出所有问题。",
            ),
        )
    if survey.problems:
        print(
            say(
                f"{survey.problems:,} problems in the pictures; `miaobi data "
                f"inspect` names each. The first: {survey.first_problems[0]}",
                f"图片中有 {survey.problems:,} 处问题，`miaobi data inspect` "
                f"会逐一列出。第一处：{survey.first_problems[0]}",
            ),
            file=sys.stderr,
        )


def plan(rows: list[Row], config: Config) -> tuple[np.ndarray, dict[str, int]]:
    """(split of each row, uint8 [N], DROPPED for none; what was found on the way)."""
    digests = np.array([row.digest for row in rows], dtype=np.uint64)
    given = np.array(
        [SPLITS.index(row.split) if row.split else DROPPED for row in rows],
        dtype=np.uint8,
    )
    group = np.arange(len(rows))
    kept = group
    if config.near_duplicates != "keep":
        kept = group[_first_of_each(digests, given)]
        group[kept] = kept[
            near_duplicates.groups(
                np.stack([rows[at].hashes for at in kept]),
                np.stack([rows[at].thumbs for at in kept]),
            )
        ]
    alike = kept[group[kept] != kept]
    if config.near_duplicates == "drop":
        kept = kept[_first_of_each(group[kept], given[kept])]
    split = np.full(len(rows), DROPPED, dtype=np.uint8)
    split[kept] = assign_groups(
        digests[kept], group[kept], given[kept], config.validation, config.test
    )
    return split, {
        "duplicates": len(rows) - len(np.unique(digests)),
        "near_duplicates": len(alike),
        "left_out_of_train": int((split[kept] == DROPPED).sum()),
    }


def _first_of_each(keys: np.ndarray, given: np.ndarray) -> np.ndarray:
    """Where each key stands first, ascending; in a test or validation split that the
    source gives before anywhere else.
    """
    order = np.lexsort((np.arange(len(keys)), ~np.isin(given, (1, 2))))
    return np.sort(order[np.unique(keys[order], return_index=True)[1]])


class _Writing:
    """The files of one preparation."""

    def __init__(
        self, config: Config, survey: Survey, staging: Staging, folder: Path
    ) -> None:
        self.config, self.survey, self.staging, self.folder = (
            config,
            survey,
            staging,
            folder,
        )
        rows = survey.rows
        self.shapes = sorted({row.sides for row in rows})
        self.channels: int = config.channels or max(row.pixels.shape[0] for row in rows)
        self.source_channels = max(
            row.source.shape[0] if row.source else 0 for row in rows
        )
        self.number = {name: number for number, name in enumerate(survey.classes)}

    def run(self, splits: list[np.ndarray], found: dict[str, int]) -> None:
        if not len(splits[0]):
            raise BadInput(
                say("No picture is left to train on.", "没有可供训练的图片。"),
                say(
                    "Give more pictures, or smaller shares of validation and test.",
                    "请增加图片，或减小 validation 与 test 的比例。",
                ),
            )
        written = {
            name: self.split(name, [self.survey.rows[at] for at in rows])
            for name, rows in zip(SPLITS, splits, strict=True)
        }
        height, width = (
            (self.config.image_size,) * 2 if self.config.buckets else self.shapes[0]
        )
        manifest = {
            "format": FORMAT,
            "channels": self.channels,
            "source_channels": self.source_channels,
            "height": height,
            "width": width,
            "classes": self.survey.classes,
            "splits": written,
            **found,
            "problems": {
                "count": self.survey.problems,
                "first": self.survey.first_problems,
            },
            "config": asdict(self.config),
        }
        (self.folder / MANIFEST).write_text(
            json.dumps(manifest, ensure_ascii=False, indent=1), encoding="utf-8"
        )

    def split(self, name: str, rows: list[Row]) -> dict[str, Any]:
        """Write one split; its count, and [height, width, count] of each size."""
        parts = [
            (shape, found)
            for shape in self.shapes
            if (found := [row for row in rows if row.sides == shape])
        ]
        for place, (_, members) in enumerate(parts):
            self.array(
                self.folder / f"{name}.{place}.npy",
                self.channels,
                [row.pixels for row in members],
                self.config.binarise == "static",
            )
            if self.source_channels:
                self.array(
                    self.folder / f"{name}.{place}.source.npy",
                    self.source_channels,
                    [row.source for row in members if row.source],
                )
        ordered = [row for _, members in parts for row in members]
        np.save(
            self.folder / f"{name}.labels.npy",
            np.array(
                [self.number.get(row.label or "", 0) for row in ordered], dtype=np.int64
            ),
        )
        with (self.folder / f"{name}.jsonl").open("w", encoding="utf-8") as file:
            for row in ordered:
                file.write(
                    json.dumps(
                        {**row.meta, "name": row.name, "caption": row.caption},
                        ensure_ascii=False,
                    )
                    + "\n"
                )
        return {
            "count": len(ordered),
            "shapes": [[*shape, len(members)] for shape, members in parts],
        }

    def array(
        self, target: Path, channels: int, places: list[Place], binarise: bool = False
    ) -> None:
        """uint8 [N, channels, H, W] of the staged pictures."""
        draw = np.random.Generator(np.random.PCG64([BINARISATION, len(places)]))
        with target.open(
            "wb"
        ) as file:  # written, not mapped: a full disk is then an error and no crash
            np.lib.format.write_array_header_1_0(
                file,
                {
                    "shape": (len(places), channels, *places[0].shape[1:]),
                    "fortran_order": False,
                    "descr": "|u1",
                },
            )
            for start in range(0, len(places), BLOCK):
                block = self.staging.read(places[start : start + BLOCK], channels)
                if binarise:
                    block = np.where(
                        draw.random(block.shape, dtype=np.float32) * 255 < block, 255, 0
                    ).astype(np.uint8)
                file.write(block.data)
