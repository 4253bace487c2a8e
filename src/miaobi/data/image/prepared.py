"""The `pictures` data set: decoded pictures of one size (or a few sizes, in buckets) in
memory-mapped files, and batches of them.

`prepare` (data/image/packing.py) writes the files once for each content and
configuration; later runs only map them:

    pictures.json                    what follows, counts, classes, problems
    train.0.npy                      uint8 [N, C, H, W]; .1 and so on for further buckets
    train.0.source.npy               uint8 [N, C_source, H, W], for pairs
    train.labels.npy, train.jsonl    int64 [N]; name, caption and the source's own columns, in the order of the pictures
"""

from __future__ import annotations

import json
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

__all__ = ["Config", "PictureSpec", "Pictures", "of_bundle", "prepare"]

AUGMENTATION = 7
"""Sets the draws of augmentations apart from those of the order."""


@dataclass(frozen=True)
class PictureSpec:
    """What a family needs to know to build a model for this data."""

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
    config: Config, *, cache: Path | None = None, progress: bool = True
) -> Pictures:
    """The prepared pictures of this configuration, made now or found from an earlier run.

    Args:
        cache: Where prepared data is kept; $MIAOBI_HOME/prepared by default.
        progress: Show a bar on stderr.
    """
    from miaobi.data.image import augment
    from miaobi.data.image.packing import prepare_folder

    augment.check(config.augment)
    return Pictures(prepare_folder(config, cache, progress), tuple(config.augment))


def of_bundle(folder: Path) -> Pictures | None:
    """The prepared pictures that a bundle's model was trained on, where they are still here."""
    from miaobi.core import bundle

    prepared = Path(str(bundle.read(folder).data.get("folder", "")))
    return Pictures(prepared) if (prepared / MANIFEST).exists() else None


@dataclass(frozen=True, eq=False)
class Pictures:
    """Prepared splits, memory-mapped. Batches are a pure function of (split, index, size, seed)."""

    folder: Path
    augment: tuple[str, ...] = ()

    @property
    def fingerprint(self) -> str:
        """Tells data sets apart by their content, configuration and format."""
        return self.folder.name

    @cached_property
    def meta(self) -> dict[str, Any]:
        """What preparation found: splits, classes, duplicates, near_duplicates,
        left_out_of_train, problems, config.
        """
        return manifest(self.folder, MANIFEST)

    @cached_property
    def spec(self) -> PictureSpec:
        meta = self.meta
        return PictureSpec(
            meta["channels"],
            meta["height"],
            meta["width"],
            tuple(meta["classes"]),
            meta["source_channels"],
            meta["config"]["buckets"],
        )

    def save(self, folder: Path) -> None:
        """Write what brings a user's picture to the model's shape, and names its classes."""
        spec, config = self.spec, self.meta["config"]
        (folder / "preprocessor_config.json").write_text(
            json.dumps(
                {
                    "size": {"height": spec.height, "width": spec.width},
                    "channels": spec.channels,
                    "source_channels": spec.source_channels,
                    "classes": list(spec.classes),
                    "fit": config["fit"],
                    "binarise": config["binarise"],
                    "range": [-1, 1],
                },
                ensure_ascii=False,
                indent=1,
            ),
            encoding="utf-8",
        )

    def count(self, split: str) -> int:
        """Pictures in a split."""
        return int(self._split(split)["count"])

    def batch(self, split: str, index: int, size: int, seed: int) -> dict[str, Tensor]:
        """Batch `index` of the endless shuffled stream: {"pixels": float32 [size, C, H,
        W] in [-1, 1], "label": int64 [size]}, and "source", float32 [size, C_source, H,
        W] in [-1, 1], for pairs. Labels are 0 where there are no classes.

        An epoch is a permutation drawn from (seed, epoch). With buckets a batch comes
        from one of them, and each epoch leaves out the few pictures that do not fill a
        batch. Augmentations of the train split are drawn from (seed, index).
        """
        part, rows = self._rows(split, index, size, seed)
        made = self._gather(split, part, rows)
        if self.augment and split == "train":
            from miaobi.data.image import augment

            made = augment.apply(
                self.augment,
                made,
                np.random.Generator(np.random.PCG64([seed, index, AUGMENTATION])),
            )
        return made

    def batches(self, split: str, size: int) -> Iterator[dict[str, Tensor]]:
        """The whole split once, in order, without augmentation. The last batch of a
        bucket may be smaller.
        """
        for part, shape in enumerate(self._split(split)["shapes"]):
            for start in range(0, shape[2], size):
                yield self._gather(
                    split, part, np.arange(start, min(start + size, shape[2]))
                )

    def pixels(self, split: str) -> np.ndarray:
        """All pictures of a split, uint8 [N, C, H, W]. Raises BadInput where they are
        of several sizes (buckets).
        """
        return self._whole(split, "")

    def sources(self, split: str) -> np.ndarray:
        """For pairs: what each picture of a split is made from, uint8 [N, C_source, H,
        W]. Raises BadInput where there are no pairs.
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
        return self._whole(split, ".source")

    def labels(self, split: str) -> np.ndarray:
        """The class of each picture, int64 [N]; all 0 where there are no classes."""
        self._split(split)
        return self._mapped(f"{split}.labels")

    def names(self, split: str) -> list[str]:
        """The source's name of each picture: a relative path, or a file with a row."""
        return [row["name"] for row in self.records(split)]

    def captions(self, split: str) -> list[str]:
        """The caption of each picture, empty where it has none."""
        return [row["caption"] for row in self.records(split)]

    def records(self, split: str) -> list[dict[str, str]]:
        """What the source knows of each picture: name, caption, and its own columns."""
        self._split(split)
        with (self.folder / f"{split}.jsonl").open(encoding="utf-8") as file:
            return [json.loads(line) for line in file]

    def _split(self, split: str) -> dict[str, Any]:
        if split not in SPLITS:
            raise BadInput(
                say(f"There is no split {split!r}.", f"没有名为 {split!r} 的划分。"),
                ", ".join(SPLITS),
            )
        found: dict[str, Any] = self.meta["splits"][split]
        return found

    def _whole(self, split: str, kind: str) -> np.ndarray:
        shapes = self._split(split)["shapes"]
        if len(shapes) > 1:
            raise BadInput(
                say(
                    f"The pictures of {split} have {len(shapes)} sizes.",
                    f"{split} 的图片有 {len(shapes)} 种尺寸。",
                ),
                say(
                    "Prepare them with data.buckets=0 for what needs one size.",
                    "需要统一尺寸时请设 data.buckets=0。",
                ),
            )
        if shapes:
            return self._mapped(f"{split}.0{kind}")
        channels = self.spec.source_channels if kind else self.spec.channels
        return np.empty(
            (0, channels, self.spec.height, self.spec.width), dtype=np.uint8
        )

    @cached_property
    def _arrays(self) -> dict[str, np.ndarray]:
        return {}

    def _mapped(self, name: str) -> np.ndarray:
        if name not in self._arrays:
            self._arrays[name] = np.asarray(
                np.load(self.folder / f"{name}.npy", mmap_mode="r")
            )
        return self._arrays[name]

    def _rows(
        self, split: str, index: int, size: int, seed: int
    ) -> tuple[int, np.ndarray]:
        """(bucket, rows in it) of a batch."""
        counts = tuple(shape[2] for shape in self._split(split)["shapes"])
        if not counts:
            raise BadInput(
                say(f"The {split} split is empty.", f"{split} 划分为空。"),
                say(
                    "Give more pictures, or another share for it (data.validation, data.test).",
                    "请增加图片，或调整其比例（data.validation、data.test）。",
                ),
            )
        if len(counts) == 1:
            places = np.arange(index * size, (index + 1) * size)
            epochs = places // counts[0]
            return 0, np.concatenate(
                [
                    _order(counts, seed, int(epoch))[0][
                        places[epochs == epoch] % counts[0]
                    ]
                    for epoch in np.unique(epochs)
                ]
            )
        batches = [max(1, count // size) for count in counts]
        epoch, within = divmod(index, sum(batches))
        orders, turn = (
            _order(counts, seed, epoch),
            _turns(tuple(batches), seed, epoch)[within],
        )
        part = int(np.searchsorted(np.cumsum(batches), turn, side="right"))
        first = (int(turn) - sum(batches[:part])) * size
        return part, orders[part][np.arange(first, first + size) % counts[part]]

    def _gather(self, split: str, part: int, rows: np.ndarray) -> dict[str, Tensor]:
        import torch

        before = sum(shape[2] for shape in self._split(split)["shapes"][:part])
        made = {
            "pixels": _floats(self._mapped(f"{split}.{part}")[rows]),
            "label": torch.from_numpy(self._mapped(f"{split}.labels")[rows + before]),
        }
        if self.spec.source_channels:
            made["source"] = _floats(self._mapped(f"{split}.{part}.source")[rows])
        return made


def _floats(pixels: np.ndarray) -> Tensor:
    """uint8 -> float32 in [-1, 1], of the same shape."""
    import torch

    return torch.from_numpy(pixels).float().mul_(2 / 255).sub_(1)


@lru_cache(maxsize=4)
def _order(counts: tuple[int, ...], seed: int, epoch: int) -> list[np.ndarray]:
    """For each bucket the permutation of its pictures in an epoch, drawn from (seed,
    epoch) alone.
    """
    draw = np.random.Generator(np.random.PCG64([seed, epoch]))
    return [draw.permutation(count) for count in counts]


@lru_cache(maxsize=4)
def _turns(batches: tuple[int, ...], seed: int, epoch: int) -> np.ndarray:
    """The order in which the batches of all buckets come in an epoch."""
    return np.random.Generator(np.random.PCG64([seed, epoch, 1])).permutation(
        sum(batches)
    )
