"""The `sentences` data set: whole short documents, one a row, for models that take in a
text before they write it.

    ids       <|endoftext|> w_1 ... w_n         padded
    targets   w_1 ... w_n <|endoftext|>         -100 where ids are padded

The tokens are those of the `tokens` data set (packing.py). What is longer than the
context is left out.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from miaobi.core.errors import BadInput
from miaobi.core.language import say
from miaobi.data.text import tokens
from miaobi.data.text.bucketing import Buckets
from miaobi.data.text.config import IGNORED, SPLITS, Config
from miaobi.data.text.tokens import CONTENT, Tokens, TokenSpec, holds, inspect

if TYPE_CHECKING:
    from torch import Tensor

    from miaobi.data.text.tokenizer import Tokenizer

__all__ = ["CONTENT", "Config", "Sentences", "holds", "inspect", "prepare"]


def prepare(
    config: Config, *, cache: Path | None = None, progress: bool = True
) -> Sentences:
    """Return the prepared data of this configuration, made now or by an earlier run.

    Args:
        config: the source of the text and how it becomes tokens
        cache: where prepared data is kept; $MIAOBI_HOME/prepared by default
        progress: show a bar on stderr
    """
    return Sentences(tokens.prepare(config, cache=cache, progress=progress))


@dataclass(frozen=True, eq=False)
class Sentences:
    """Prepared splits. Batches are a pure function of (split, index, size, seed)."""

    text: Tokens

    @property
    def folder(self) -> Path:
        return self.text.folder

    @property
    def fingerprint(self) -> str:
        return self.text.fingerprint

    @property
    def spec(self) -> TokenSpec:
        return self.text.spec

    @property
    def tokenizer(self) -> Tokenizer:
        return self.text.tokenizer

    def save(self, folder: Path) -> None:
        """Write the tokenizer's files into a bundle."""
        self.text.save(folder)

    def count(self, split: str) -> int:
        """Return the sentences of a split that fit the context."""
        return len(self._spans(split))

    def batch(self, split: str, index: int, size: int, seed: int) -> dict[str, Tensor]:
        """Return batch `index` of the endless shuffled stream: {"ids", "targets"}, both
        int64 [size, T], T the longest of these sentences with its end token.

        Raises BadInput for a split without a sentence.
        """
        spans = self._spans(split)
        if not len(spans):
            longest = self.text.context_length - 1
            raise BadInput(
                say(
                    f"The {split} split has no sentence of 1 to {longest} tokens.",
                    f"{split} 划分中没有 1 到 {longest} 个词元的句子。",
                ),
                say(
                    "Give one sentence a document (data.separator: \\n), or a larger data.context_length.",
                    "请让每个句子成为一个文档（data.separator: \\n），或增大 data.context_length。",
                ),
            )
        positions = np.arange(index * size, (index + 1) * size)
        epochs, within = np.divmod(positions, len(spans))
        rows = [
            _order(len(spans), seed, int(epoch))[row]
            for epoch, row in zip(epochs, within, strict=True)
        ]
        return self._rows(split, spans[rows])

    def batches(self, split: str, size: int) -> Iterator[dict[str, Tensor]]:
        """Yield every sentence of a split once, rows of about equal length."""
        spans = self._spans(split)
        lengths = spans[:, 1] - spans[:, 0]
        for rows in Buckets(lengths).each_once(size):
            yield self._rows(split, spans[rows])

    def documents(self, split: str) -> Iterator[str]:
        """Yield the documents of a split as text."""
        return self.text.documents(split)

    def _spans(self, split: str) -> np.ndarray:
        if split not in self._all_spans:
            raise BadInput(
                say(f"There is no split {split!r}.", f"没有名为 {split!r} 的划分。"),
                ", ".join(SPLITS),
            )
        return self._all_spans[split]

    @cached_property
    def _all_spans(self) -> dict[str, np.ndarray]:
        """First token and end token of each sentence that fits, int64 [sentences, 2]."""
        return {split: self._find_spans(split) for split in SPLITS}

    def _find_spans(self, split: str) -> np.ndarray:
        ends = np.flatnonzero(self.text.stream(split) == self.spec.eos_id).tolist()
        spans = [
            (before + 1, end)
            for before, end in pairwise(ends)
            if 1 <= end - before - 1 < self.text.context_length
        ]
        return np.array(spans, dtype=np.int64).reshape(-1, 2)

    def _rows(self, split: str, spans: np.ndarray) -> dict[str, Tensor]:
        import torch

        stream = self.text.stream(split)
        width = int((spans[:, 1] - spans[:, 0]).max()) + 1
        ids = np.full((len(spans), width), self.spec.pad_id, dtype=np.int64)
        targets = np.full((len(spans), width), IGNORED, dtype=np.int64)
        for row, (first, end) in enumerate(spans.tolist()):
            length = end - first + 1
            ids[row, :length] = stream[first - 1 : end]
            targets[row, :length] = stream[first : end + 1]
        return {"ids": torch.from_numpy(ids), "targets": torch.from_numpy(targets)}


@lru_cache(maxsize=4)
def _order(count: int, seed: int, epoch: int) -> np.ndarray:
    """The order of the sentences in an epoch, drawn from (seed, epoch) alone."""
    draw = np.random.Generator(np.random.PCG64([seed, epoch]))
    return draw.permutation(count)
