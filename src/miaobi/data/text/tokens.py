"""The `tokens` data set: documents as packed token numbers in memory-mapped files, and
batches drawn from them.

A split is one file of uint16 or uint32:

    <|endoftext|> document <|endoftext|> document ... <|endoftext|>

Every token but the first is a target once an epoch. `prepare` (data/text/packing.py)
writes the files once for each content and configuration; later runs only map them.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from miaobi.core.errors import BadInput
from miaobi.core.language import say
from miaobi.data.cache import manifest
from miaobi.data.text.config import IGNORED, MANIFEST, SPLITS, Config

if TYPE_CHECKING:
    from torch import Tensor

    from miaobi.data.text.filling import Filling
    from miaobi.data.text.survey import TextSurvey
    from miaobi.data.text.tokenizer import Tokenizer

__all__ = ["IGNORED", "Config", "TokenSpec", "Tokens", "holds", "inspect", "prepare"]

CONTENT = (
    "text: plain, JSONL, JSON, CSV or Parquet, each also gzip, or a folder of these",
    "文本：纯文本、JSONL、JSON、CSV 或 Parquet（均可为 gzip），或含这些文件的文件夹",
)

WORKS = "works.json"
"""What the training text was taken from, with licences, in a bundle."""
TEMPLATE_SAMPLE = 1_000_000
"""Training tokens among which a conversation is looked for."""
BLOCK = 1 << 24
"""Tokens searched at once for the ends of documents."""


@dataclass(frozen=True)
class TokenSpec:
    """What a family needs to build a model for this data."""

    vocab_size: int
    context_length: int
    bos_id: int
    eos_id: int
    pad_id: int
    tokenizer: str
    """Name of the tokenizer, for reports: metrics by token compare only within one."""


def prepare(
    config: Config, *, cache: Path | None = None, progress: bool = True
) -> Tokens:
    """Return the prepared data of this configuration, made now or by an earlier run.

    Args:
        config: the source of the text and how it becomes tokens
        cache: where prepared data is kept; $MIAOBI_HOME/prepared by default
        progress: show a bar on stderr
    """
    from miaobi.data.text.packing import prepare_folder

    folder = prepare_folder(config, cache, progress)
    fill = Fill(config.fill_rate, config.fill_suffix_first)
    return Tokens(folder, config.context_length, fill)


def holds(path: Path) -> bool:
    """Return whether `path` is a file that may be text, or a folder with text files."""
    from miaobi.data.text import files

    return files.may_be_text(path)


def inspect(
    path: Path,
    *,
    strict: bool = False,
    text_column: str | None = None,
    separator: str | None = None,
    encoding: str = "",
) -> TextSurvey:
    """Return what the text at `path` is, and its problems; see text/survey.py."""
    from miaobi.data.text import survey

    return survey.inspect(
        path,
        strict=strict,
        text_column=text_column,
        separator=separator,
        encoding=encoding,
    )


class Fill(NamedTuple):
    """How much of the training text is rearranged for filling in; see text/filling.py."""

    rate: float = 0.0
    suffix_first: float = 0.0


NO_FILL = Fill()


@dataclass(frozen=True, eq=False)
class Tokens:
    """Prepared splits, memory-mapped. Batches are a pure function of (split, index, size, seed)."""

    folder: Path
    context_length: int
    fill: Fill = NO_FILL

    def __post_init__(self) -> None:
        if self.context_length < 1:
            raise BadInput(
                say(
                    f"context_length is {self.context_length}.",
                    f"context_length 为 {self.context_length}。",
                ),
                say(
                    "Give at least 1; 64 to 1024 is usual here.",
                    "至少为 1；通常为 64 到 1024。",
                ),
            )

    @property
    def fingerprint(self) -> str:
        """Identifies the content, configuration and format."""
        return self.folder.name

    @cached_property
    def meta(self) -> dict[str, Any]:
        """The manifest of the preparation: splits {name: {tokens, documents,
        characters, bytes}}, duplicates, problems, config.
        """
        return manifest(self.folder, MANIFEST)

    @cached_property
    def spec(self) -> TokenSpec:
        end = self.meta["end_id"]
        size = self.meta["vocab_size"]
        return TokenSpec(
            vocab_size=self.tokenizer.vocab_size if self.fill.rate else size,
            context_length=self.context_length,
            bos_id=end,
            eos_id=end,
            pad_id=end,
            tokenizer=self.meta["tokenizer"],
        )

    @cached_property
    def tokenizer(self) -> Tokenizer:
        from miaobi.data.text.filling import for_filling
        from miaobi.data.text.tokenizer import load

        tokenizer = load(self.folder / "tokenizer")
        return for_filling(tokenizer) if self.fill.rate else tokenizer

    def save(self, folder: Path) -> None:
        """Write the tokenizer's files into a bundle; its chat template only where the
        data held conversations; the works with their licences where it names any.

        A model with a template reads a plain prompt as a question, which one that was
        trained on poems never saw.
        """
        from miaobi.data.text.documents import TURN_START

        self.tokenizer.save(folder)
        turn = self.tokenizer.backend.token_to_id(TURN_START)
        sample = self._tokens("train")[:TEMPLATE_SAMPLE]
        if turn is None or not (sample == turn).any():
            (folder / "chat_template.jinja").unlink(missing_ok=True)
        works = self.meta.get("works")  # data prepared before there were any is found
        if works:
            text = json.dumps(works, ensure_ascii=False, indent=1)
            (folder / WORKS).write_text(text, encoding="utf-8")

    def count(self, split: str) -> int:
        """Return the targets in a split: its tokens without the very first, which
        nothing precedes.
        """
        return max(0, len(self._tokens(split)) - 1)

    def batch(self, split: str, index: int, size: int, seed: int) -> dict[str, Tensor]:
        """Return batch `index` of the endless shuffled stream: {"ids", "targets"}, both
        int64 [size, context_length].

        An epoch is a seeded permutation of non-overlapping windows, which begin at a
        seeded phase, so that the cuts fall elsewhere in every epoch. A window may span
        documents. In training windows, texts may be rearranged (`fill`).
        """
        windows = self._windows(split)
        phases = self.count(split) - windows * self.context_length + 1
        positions = np.arange(index * size, (index + 1) * size)
        epochs, within = np.divmod(positions, windows)
        starts = np.empty(size, dtype=np.int64)
        for epoch in range(int(epochs[0]), int(epochs[-1]) + 1):
            phase, order = _epoch(windows, phases, seed, epoch)
            rows = epochs == epoch
            starts[rows] = phase + order[within[rows]] * self.context_length
        window = self._window(split, starts)
        if self.fill.rate and split == "train":
            for row, position in zip(window, positions.tolist(), strict=True):
                draw = np.random.Generator(np.random.PCG64([seed, position]))
                row[:] = self._filling.rearranged(row, draw)
        return self._pairs(window)

    def batches(self, split: str, size: int) -> Iterator[dict[str, Tensor]]:
        """Yield the whole split once, in order: every token but the first is a target
        exactly once.

        The last window may be short; its other targets are -100. The last batch may
        have fewer rows.
        """
        starts = np.arange(0, self.count(split), self.context_length)
        for first in range(0, len(starts), size):
            yield self._pairs(self._window(split, starts[first : first + size]))

    def documents(self, split: str) -> Iterator[str]:
        """Yield the documents of a split as text, in the order of the source. Special
        tokens are as they are written.
        """
        tokens = self._tokens(split)
        end = self.meta["end_id"]
        first = 1
        for block in range(1, len(tokens), BLOCK):
            for stop in np.flatnonzero(tokens[block : block + BLOCK] == end) + block:
                yield self.tokenizer.decode(tokens[first:stop])
                first = int(stop) + 1

    def stream(self, split: str) -> np.ndarray:
        """Return the tokens of a split, documents between end tokens, as they are mapped."""
        return self._tokens(split)

    def text(self, split: str) -> str:
        """Return the whole split as one text, documents joined by line ends."""
        return "\n".join(self.documents(split))

    @cached_property
    def _files(self) -> dict[str, np.ndarray]:
        dtype = np.dtype(self.meta["dtype"])
        arrays = dict[str, np.ndarray]()
        for split in SPLITS:
            if self.meta["splits"][split]["tokens"]:
                file = self.folder / f"{split}.bin"
                arrays[split] = np.asarray(np.memmap(file, dtype=dtype, mode="r"))
        return arrays

    def _tokens(self, split: str) -> np.ndarray:
        if split not in SPLITS:
            raise BadInput(
                say(f"There is no split {split!r}.", f"没有名为 {split!r} 的划分。"),
                ", ".join(SPLITS),
            )
        return self._files.get(split, np.empty(0, dtype=np.uint16))

    def _windows(self, split: str) -> int:
        """Whole windows in every epoch; what their phase leaves out, less than two
        windows, is another part each time.
        """
        targets = self.count(split)
        if not targets:
            raise BadInput(
                say(f"The {split} split is empty.", f"{split} 划分为空。"),
                say(
                    "Give more text, or another share for it (data.validation, data.test).",
                    "请增加文本，或调整其比例（data.validation、data.test）。",
                ),
            )
        return max(1, (targets - self.context_length + 1) // self.context_length)

    @cached_property
    def _filling(self) -> Filling:
        from miaobi.data.text.filling import Filling

        return Filling(self.tokenizer, *self.fill)

    def _window(self, split: str, starts: np.ndarray) -> np.ndarray:
        """The tokens from each start on, int64 [starts, context_length + 1]; IGNORED
        past the end of the split.
        """
        tokens = self._tokens(split)
        positions = starts[:, None] + np.arange(self.context_length + 1)
        past_end = positions >= len(tokens)
        window = tokens[np.minimum(positions, len(tokens) - 1)].astype(np.int64)
        return np.where(past_end, IGNORED, window) if past_end.any() else window

    def _pairs(self, window: np.ndarray) -> dict[str, Tensor]:
        """Inputs, and the tokens that follow them."""
        import torch

        ids = window[:, :-1]
        ids = np.where(ids == IGNORED, self.meta["end_id"], ids)
        return {
            "ids": torch.from_numpy(np.ascontiguousarray(ids)),
            "targets": torch.from_numpy(np.ascontiguousarray(window[:, 1:])),
        }


@lru_cache(maxsize=4)
def _epoch(windows: int, phases: int, seed: int, epoch: int) -> tuple[int, np.ndarray]:
    """(phase, permutation of the windows) of an epoch, drawn from (seed, epoch) alone."""
    draw = np.random.Generator(np.random.PCG64([seed, epoch]))
    return int(draw.integers(max(1, phases))), draw.permutation(windows)
