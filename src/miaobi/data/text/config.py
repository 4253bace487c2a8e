"""The configuration of the `tokens` data set, and the names that its files share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from pydantic import Field

SPLITS = ("train", "validation", "test")
MANIFEST = "tokens.json"
IGNORED = -100
"""Target of a position that has none (PyTorch's ignore_index)."""


@dataclass(frozen=True)
class Config:
    """Where the text comes from and how it becomes tokens."""

    path: str = ""
    """A file or a folder: plain text, JSONL, JSON, CSV or Parquet, each also gzip."""
    pack: str = ""
    """A starter pack instead of a path; `miaobi data list` shows them."""
    source: str = ""
    """The reader: files or pack (by default whichever of the two above is given), or
    one that another package brings.
    """
    text_column: str | None = None
    """The column or key that holds the text, where the names do not show it."""
    separator: str | None = None
    """What divides the documents of a plain text file, such as \\\\n\\\\n.
    Without it a file is one document.
    """
    encoding: str = ""
    """Of files that are not UTF-8, such as cp1252 or big5; by default it is told from the
    text, or asked for where that is too little.
    """
    tokenizer: str = "char"
    """char, bpe (trained on this text), or a pretrained one: a folder with
    tokenizer.json, a GGUF file, a model pack.
    """
    vocab_size: Annotated[int, Field(ge=258, le=1_000_000)] = 8192
    """Tokens of a bpe trained here."""
    min_frequency: Annotated[int, Field(ge=0)] = 2
    """Characters seen less often are spelled in bytes by a char tokenizer."""
    context_length: Annotated[int, Field(ge=1, le=1_000_000)] = 256
    """Tokens of one training window, and of the model's context."""
    validation: Annotated[float, Field(ge=0, lt=1)] = 0.05
    """Share of the text that is held out to validate on."""
    test: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share that is held out to test on."""
    fill_rate: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Share of the training texts that are rearranged so that the model also learns to
    fill in what stands between two parts (data/text/filling.py): 0.5 to 0.9 for code.
    """
    fill_suffix_first: Annotated[float, Field(ge=0, le=1)] = 0.5
    """Share of these whose suffix comes before the prefix."""
    max_documents: Annotated[int, Field(ge=0)] = 0
    """Read only so many documents; 0 reads all."""
    strict: bool = True
    """Stop at the first broken line. Otherwise leave such lines out, count and report them."""
