"""The `pictures` data set: decoded pictures of one size (or a few sizes, in buckets) in
memory-mapped files, and batches of them.

`prepare` (data/image/packing.py) writes the files once for each content and
configuration; later runs only map them:

    pictures.json           what follows, counts, classes, problems
    train.0.npy             uint8 [N, C, H, W]; .1 and so on for further buckets
    train.0.source.npy      uint8 [N, C_source, H, W], for pairs
    train.labels.npy        int64 [N]
    train.jsonl             name, caption and the source's own columns, in the order of
                            the pictures
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from miaobi.core.errors import BadInput
from miaobi.core.language import say
from miaobi.data.cache import manifest
from miaobi.data.image.config import MANIFEST, SPLITS, Config

if TYPE_CHECKING:
    from torch import Tensor

    from miaobi.core.bundle import Manifest
    from miaobi.data.image.survey import PictureSurvey

__all__ = [
    "Config",
    "PictureSpec",
    "Pictures",
    "holds",
    "inspect",
    "of_bundle",
    "prepare",
]

CONTENT = (
    "pictures: files in a folder, pairs of folders, Parquet, Arrow or IDX",
    "图片：文件夹中的图片文件、成对的文件夹、Parquet、Arrow 或 IDX",
)

BATCH_ORDER, AUGMENTATION = 1, 7
"""Separate the random numbers of the batches' order and of augmentations from those of
the pictures' order.
"""


@dataclass(frozen=True)
class PictureSpec:
    """What a family needs to build a model for this data."""

    channels: int
    """1 grey, 3 colour."""
    height: int
    width: int
    classes: tuple[str, ...] = ()
    """Names of the classes, in the order of their numbers; empty where the pictures have none."""
    source_channels: int = 0
    """Channels of the picture each one is made from, for pairs; 0 where there are no pairs."""
    buckets: int = 0
    """Above 0: batches come in several aspect ratios, of about height × width pixels."""


def prepare(
    config: Config,
    *,
    cache: Path | None = None,
    progress: bool = True,
    summary: bool = True,
) -> Pictures:
    """Return the prepared pictures of this configuration, made now or by an earlier run.

    Args:
        config: the source of the pictures and what they are brought to
        cache: where prepared data is kept; $MIAOBI_HOME/prepared by default
        progress: show a bar on stderr
        summary: with progress, say there in a line what was prepared
    """
    from miaobi.data.image import augment, overview
    from miaobi.data.image.packing import prepare_folder

    augment.check(config.augment)
    folder = prepare_folder(config, cache, progress)
    pictures = Pictures(folder, tuple(config.augment))
    if progress and summary and os.environ.get("RANK", "0") == "0":
        for text in overview.summary(config.path or config.pack, pictures.meta):
            print(text, file=sys.stderr)
    return pictures


def holds(path: Path) -> bool:
    """Return whether pictures lie at `path`; not where there are more texts than they,
    apart from those that describe them.
    """
    from miaobi.data.image import sources

    return sources.holds(path)


def inspect(
    path: Path, *, strict: bool = False, text_column: str | None = None
) -> PictureSurvey:
    """Return what the pictures at `path` are, and their problems; see image/survey.py."""
    from miaobi.data.image import survey

    return survey.inspect(path, strict=strict, text_column=text_column)


def of_bundle(manifest: Manifest | None) -> Pictures | None:
    """Return the prepared pictures that a bundle's model was trained on, where they are
    still here; None for a model that is no bundle.
    """
    if manifest is None:
        return None
    prepared = Path(str(manifest.data.get("folder", "")))
    return Pictures(prepared) if (prepared / MANIFEST).exists() else None


@dataclass(frozen=True, eq=False)
class Pictures:
    """Prepared splits, memory-mapped. Batches are a pure function of (split, index, size, seed)."""

    folder: Path
    augment: tuple[str, ...] = ()

    @property
    def fingerprint(self) -> str:
        """Identifies the content, configuration and format."""
        return self.folder.name

    @cached_property
    def meta(self) -> dict[str, Any]:
        """The manifest of the preparation: splits, classes, pictures, duplicates,
        near_duplicates, distinct, left_out_of_train, problems, remarks, config.
        """
        return manifest(self.folder, MANIFEST)

    @cached_property
    def spec(self) -> PictureSpec:
        meta = self.meta
        return PictureSpec(
            channels=meta["channels"],
            height=meta["height"],
            width=meta["width"],
            classes=tuple(meta["classes"]),
            source_channels=meta["source_channels"],
            buckets=meta["config"]["buckets"],
        )

    def save(self, folder: Path) -> None:
        """Write what brings a user's picture to the model's shape, and names its classes."""
        spec, config = self.spec, self.meta["config"]
        settings = {
            "size": {"height": spec.height, "width": spec.width},
            "channels": spec.channels,
            "source_channels": spec.source_channels,
            "classes": list(spec.classes),
            "fit": config["fit"],
            "binarise": config["binarise"],
            "range": [-1, 1],
        }
        (folder / "preprocessor_config.json").write_text(
            json.dumps(settings, ensure_ascii=False, indent=1), encoding="utf-8"
        )

    def count(self, split: str) -> int:
        """Return the number of pictures in a split."""
        return int(self._split(split)["count"])

    def batch(self, split: str, index: int, size: int, seed: int) -> dict[str, Tensor]:
        """Return batch `index` of the endless shuffled stream.

        {"pixels": float32 [size, C, H, W] in [-1, 1], "label": int64 [size]}, and for
        pairs "source", float32 [size, C_source, H, W] in [-1, 1]. Labels are 0 where
        there are no classes. Where there are captions, "caption" is their UTF-8, uint8
        [size, bytes of the longest], padded with 0 (`nn.image.captions_of`).

        An epoch is a permutation drawn from (seed, epoch). With buckets a batch comes
        from one of them, and each epoch leaves out the few pictures that do not fill a
        batch. Augmentations of the train split are drawn from (seed, index).
        """
        bucket, rows = self._rows(split, index, size, seed)
        batch = self._gather(split, bucket, rows)
        if self.augment and split == "train":
            from miaobi.data.image import augment

            draw = np.random.Generator(np.random.PCG64([seed, index, AUGMENTATION]))
            return augment.apply(self.augment, batch, draw)
        return batch

    def batches(self, split: str, size: int) -> Iterator[dict[str, Tensor]]:
        """Yield the whole split once, in order, without augmentation. The last batch of
        a bucket may be smaller.
        """
        for bucket, count in enumerate(self._counts(split)):
            for first in range(0, count, size):
                rows = np.arange(first, min(first + size, count))
                yield self._gather(split, bucket, rows)

    def pixels(self, split: str) -> np.ndarray:
        """Return all pictures of a split, uint8 [N, C, H, W].

        Raises BadInput where they are of several sizes (buckets).
        """
        return self._all_of(split, "", self.spec.channels)

    def sources(self, split: str) -> np.ndarray:
        """Return the sources of a split's pairs, uint8 [N, C_source, H, W].

        Raises BadInput where there are no pairs, or several sizes (buckets).
        """
        if not self.spec.source_channels:
            raise BadInput(
                say(
                    "These pictures are no pairs: they have no sources.",
                    "这些图片不是成对的，没有源图。",
                ),
                say(
                    "Prepare a folder with source/ and target/, or the pack openmoji-pairs.",
                    "请使用含 source/ 与 target/ 的文件夹，或资源包 openmoji-pairs。",
                ),
            )
        return self._all_of(split, ".source", self.spec.source_channels)

    def labels(self, split: str) -> np.ndarray:
        """Return the class of each picture, int64 [N]; all 0 where there are no classes."""
        self._split(split)
        return self._mapped(f"{split}.labels")

    def names(self, split: str) -> list[str]:
        """Return the source's name of each picture: a relative path, or a file with a row."""
        return [record["name"] for record in self.records(split)]

    def captions(self, split: str) -> list[str]:
        """Return the caption of each picture, empty where it has none."""
        return [record["caption"] for record in self.records(split)]

    def records(self, split: str) -> list[dict[str, str]]:
        """Return name, caption and the source's own columns of each picture."""
        self._split(split)
        with (self.folder / f"{split}.jsonl").open(encoding="utf-8") as file:
            return [json.loads(line) for line in file]

    def _split(self, split: str) -> dict[str, Any]:
        """What the manifest says of a split. Raises BadInput for a name that is none."""
        if split not in SPLITS:
            raise BadInput(
                say(f"There is no split {split!r}.", f"没有名为 {split!r} 的划分。"),
                ", ".join(SPLITS),
            )
        entry: dict[str, Any] = self.meta["splits"][split]
        return entry

    def _counts(self, split: str) -> tuple[int, ...]:
        """Pictures in each bucket of a split."""
        return tuple(count for _, _, count in self._split(split)["shapes"])

    def _all_of(self, split: str, kind: str, channels: int) -> np.ndarray:
        sizes = len(self._counts(split))
        if sizes > 1:
            raise BadInput(
                say(
                    f"The pictures of {split} have {sizes} sizes.",
                    f"{split} 的图片有 {sizes} 种尺寸。",
                ),
                say(
                    "Prepare them with data.buckets=0 for what needs one size.",
                    "需要统一尺寸时请设 data.buckets=0。",
                ),
            )
        if sizes:
            return self._mapped(f"{split}.0{kind}")
        shape = (0, channels, self.spec.height, self.spec.width)
        return np.empty(shape, dtype=np.uint8)

    @cached_property
    def _arrays(self) -> dict[str, np.ndarray]:
        return {}

    def _mapped(self, name: str) -> np.ndarray:
        if name not in self._arrays:
            array = np.load(self.folder / f"{name}.npy", mmap_mode="r")
            self._arrays[name] = np.asarray(array)
        return self._arrays[name]

    def _rows(
        self, split: str, index: int, size: int, seed: int
    ) -> tuple[int, np.ndarray]:
        """(bucket, rows in it) of a batch."""
        counts = self._counts(split)
        if not counts:
            raise BadInput(
                say(f"The {split} split is empty.", f"{split} 划分为空。"),
                say(
                    "Give more pictures, or another share for it (data.validation, data.test).",
                    "请增加图片，或调整其比例（data.validation、data.test）。",
                ),
            )
        if len(counts) == 1:
            return 0, _rows_of_one_size(counts[0], index, size, seed)
        return _rows_of_a_bucket(counts, index, size, seed)

    def _gather(self, split: str, bucket: int, rows: np.ndarray) -> dict[str, Tensor]:
        """The pictures at `rows` of a bucket, as a batch."""
        import torch

        before = sum(self._counts(split)[:bucket])
        labels = self._mapped(f"{split}.labels")[rows + before]
        batch = {
            "pixels": _floats(self._mapped(f"{split}.{bucket}")[rows]),
            "label": torch.from_numpy(labels),
        }
        if self.spec.source_channels:
            sources = self._mapped(f"{split}.{bucket}.source")[rows]
            batch["source"] = _floats(sources)
        captions = self._encoded_captions(split)
        if captions:
            texts = [captions[row] for row in rows + before]
            batch["caption"] = torch.from_numpy(_padded(texts))
        return batch

    def _encoded_captions(self, split: str) -> list[bytes]:
        """The captions of a split in UTF-8; none at all where no picture has one."""
        if split not in self._captions:
            captions = [caption.encode() for caption in self.captions(split)]
            self._captions[split] = captions if any(captions) else []
        return self._captions[split]

    @cached_property
    def _captions(self) -> dict[str, list[bytes]]:
        return {}


def _padded(texts: list[bytes]) -> np.ndarray:
    """uint8 [B, bytes of the longest], padded with 0."""
    padded = np.zeros((len(texts), max(map(len, texts))), np.uint8)
    for row, text in zip(padded, texts, strict=True):
        row[: len(text)] = np.frombuffer(text, np.uint8)
    return padded


def _rows_of_one_size(count: int, index: int, size: int, seed: int) -> np.ndarray:
    """The rows of a batch, which may span epochs."""
    positions = np.arange(index * size, (index + 1) * size)
    epochs, within = np.divmod(positions, count)
    parts = list[np.ndarray]()
    for epoch in np.unique(epochs):
        [order] = _orders((count,), seed, int(epoch))
        parts.append(order[within[epochs == epoch]])
    return np.concatenate(parts)


def _rows_of_a_bucket(
    counts: tuple[int, ...], index: int, size: int, seed: int
) -> tuple[int, np.ndarray]:
    """(bucket, rows in it) of a batch, which lies within one bucket and one epoch.

    counts: pictures in each bucket.
    """
    batches = tuple(max(1, count // size) for count in counts)
    epoch, within = divmod(index, sum(batches))
    number = int(_batch_order(batches, seed, epoch)[within])
    bucket = int(np.searchsorted(np.cumsum(batches), number, side="right"))
    first = (number - sum(batches[:bucket])) * size
    positions = np.arange(first, first + size) % counts[bucket]
    return bucket, _orders(counts, seed, epoch)[bucket][positions]


def _floats(pixels: np.ndarray) -> Tensor:
    """uint8 -> float32 in [-1, 1], of the same shape."""
    import torch

    return torch.from_numpy(pixels).float().mul_(2 / 255).sub_(1)


@lru_cache(maxsize=4)
def _orders(counts: tuple[int, ...], seed: int, epoch: int) -> list[np.ndarray]:
    """For each bucket the permutation of its pictures in an epoch, drawn from (seed,
    epoch) alone.
    """
    draw = np.random.Generator(np.random.PCG64([seed, epoch]))
    return [draw.permutation(count) for count in counts]


@lru_cache(maxsize=4)
def _batch_order(batches: tuple[int, ...], seed: int, epoch: int) -> np.ndarray:
    """The order in which the batches of all buckets come in an epoch."""
    draw = np.random.Generator(np.random.PCG64([seed, epoch, BATCH_ORDER]))
    return draw.permutation(sum(batches))
