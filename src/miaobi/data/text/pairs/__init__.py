"""The `pairs` data set: a text and what is to be written for it, as token numbers.

    {"text": "...", "summary": "..."}     data.source_columns: [text], target_column: summary
    {"zh": "打开文件", "en": "Open file"}   data.languages: [zh, en]

With languages, every two of them that a record has are two examples, one in each
direction, and a token in front of the source says which language is wanted (Johnson et
al. 2017, arXiv:1611.04558), in the form of Marian's models: >>en<< 打开文件.

The two texts share one vocabulary. Records of a group (data.group: package) are in one
split; what is asked in a held-out split is in no other.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from miaobi.core.errors import BadInput
from miaobi.core.language import say
from miaobi.data.cache import manifest
from miaobi.data.text.bucketing import Buckets, padded
from miaobi.data.text.config import SPLITS
from miaobi.data.text.pairs.config import MANIFEST, Config
from miaobi.data.text.pairs.languages import language_token, tagged
from miaobi.data.text.pairs.survey import holds, inspect

if TYPE_CHECKING:
    from torch import Tensor

    from miaobi.data.text.tokenizer import Tokenizer

__all__ = [
    "CONTENT",
    "Config",
    "PairSpec",
    "Pairs",
    "holds",
    "inspect",
    "language_token",
    "prepare",
    "tagged",
]

CONTENT = (
    "pairs of texts: JSONL, JSON, CSV, TSV or Parquet with a column for each side, or catalogues of gettext",
    "文本对：每侧一列的 JSONL、JSON、CSV、TSV 或 Parquet，或 gettext 目录文件",
)
IGNORED = -100


@dataclass(frozen=True)
class PairSpec:
    """What a family needs to build a model for this data."""

    vocab_size: int
    source_length: int
    target_length: int
    pad_id: int
    """Fills rows, and is what a target begins with."""
    eos_id: int
    """Ends sources and targets."""
    languages: tuple[str, ...]
    """Those that may be asked for by their token; none without languages."""
    tokenizer: str
    """Name of the tokenizer, for reports."""


def prepare(
    config: Config, *, cache: Path | None = None, progress: bool = True
) -> Pairs:
    """Return the prepared data of this configuration, made now or by an earlier run.

    Args:
        config: the source of the pairs and how they become tokens
        cache: where prepared data is kept; $MIAOBI_HOME/prepared by default
        progress: show a bar on stderr

    Raises BadInput, NotFound, Damaged.
    """
    from miaobi.data.text.pairs.packing import prepare_folder

    return Pairs(prepare_folder(config, cache, progress))


@dataclass(frozen=True, eq=False)
class Pairs:
    """Prepared pairs; batches are a pure function of (split, index, size, seed)."""

    folder: Path

    @property
    def fingerprint(self) -> str:
        return self.folder.name

    @cached_property
    def meta(self) -> dict[str, Any]:
        """The manifest of the preparation: splits, groups, problems, config."""
        return manifest(self.folder, MANIFEST)

    @cached_property
    def spec(self) -> PairSpec:
        config = self.meta["config"]
        return PairSpec(
            vocab_size=self.meta["vocab_size"],
            source_length=config["source_length"],
            target_length=config["target_length"],
            pad_id=self.meta["pad_id"],
            eos_id=self.meta["end_id"],
            languages=tuple(config["languages"]),
            tokenizer=self.meta["tokenizer"],
        )

    @cached_property
    def tokenizer(self) -> Tokenizer:
        from miaobi.data.text.tokenizer import load

        return load(self.folder / "tokenizer")

    def save(self, folder: Path) -> None:
        """Write the tokenizer's files into a bundle, as they were prepared."""
        for file in (self.folder / "tokenizer").iterdir():
            (folder / file.name).write_bytes(file.read_bytes())

    def count(self, split: str) -> int:
        """Return the examples of a split."""
        return len(self._arrays[split].bounds) // 2

    def batch(self, split: str, index: int, size: int, seed: int) -> dict[str, Tensor]:
        """Return batch `index` of the endless shuffled stream, rows of about equal length.

        source int64 [size, S], with its end token; source_lengths int64 [size]; ids int64
        [size, T], the target behind the padding token; targets int64 [size, T], the
        target and its end token, -100 behind it.
        """
        if not self.count(split):
            raise BadInput(
                say(f"The {split} split is empty.", f"{split} 划分为空。"),
                say(
                    "Give more pairs, or another share for it (data.validation, data.test).",
                    "请增加文本对，或调整其比例（data.validation、data.test）。",
                ),
            )
        return self._rows(split, self._buckets[split].rows(index, size, seed))

    def batches(self, split: str, size: int) -> Iterator[dict[str, Tensor]]:
        """Yield every example of a split once."""
        if self.count(split):
            for rows in self._buckets[split].each_once(size):
                yield self._rows(split, rows)

    def texts(self, split: str) -> Iterator[tuple[str, str]]:
        """Yield (source with its language token, target) of every example, as text."""
        for row in range(self.count(split)):
            source, target = self._tokens(split, row)
            yield self.tokenizer.decode(source), self.tokenizer.decode(target)

    @cached_property
    def _arrays(self) -> dict[str, _Arrays]:
        return {
            split: _Arrays(
                np.load(self.folder / f"{split}.npy", mmap_mode="r"),
                np.load(self.folder / f"{split}_bounds.npy"),
            )
            for split in SPLITS
        }

    @cached_property
    def _buckets(self) -> dict[str, Buckets]:
        return {
            split: Buckets(arrays.bounds[2::2] - arrays.bounds[:-2:2])
            for split, arrays in self._arrays.items()
        }

    def _tokens(self, split: str, row: int) -> tuple[np.ndarray, np.ndarray]:
        tokens, bounds = self._arrays[split]
        start, middle, stop = bounds[2 * row : 2 * row + 3]
        return tokens[start:middle], tokens[middle:stop]

    def _rows(self, split: str, rows: np.ndarray) -> dict[str, Tensor]:
        import torch

        spec = self.spec
        pairs = [self._tokens(split, row) for row in rows.tolist()]
        end, start = [spec.eos_id], [spec.pad_id]
        sources = [np.concatenate([source, end]) for source, _ in pairs]
        inputs = [np.concatenate([start, target]) for _, target in pairs]
        targets = [np.concatenate([target, end]) for _, target in pairs]
        return {
            "source": torch.from_numpy(padded(sources, spec.pad_id)),
            "source_lengths": torch.tensor([len(source) for source in sources]),
            "ids": torch.from_numpy(padded(inputs, spec.pad_id)),
            "targets": torch.from_numpy(padded(targets, IGNORED)),
        }


class _Arrays(NamedTuple):
    """The tokens of a split: source, target, source, target, ..."""

    tokens: np.ndarray
    bounds: np.ndarray
    """Where each begins, and where the last one ends: int64 [2 · examples + 1]."""
