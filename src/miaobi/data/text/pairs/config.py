"""The configuration of the `pairs` data set, and the names that its files share."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated

from pydantic import Field

MANIFEST = "pairs.json"
PAD = "[PAD]"


@dataclass(frozen=True)
class Config:
    path: str = ""
    """A file or a folder: JSONL, JSON, CSV, TSV, Parquet, or catalogues of gettext."""
    pack: str = ""
    """A starter pack instead of a path, or several divided by commas."""
    source: str = ""
    """The reader: texts, gettext, or one that another package brings; by default gettext
    where the path holds .po or .mo files, else texts.
    """
    source_columns: list[str] = field(default_factory=lambda: ["source"])
    """Columns of what is given, joined by line ends. One inside another is named with a
    dot, as answers.text; of a list the first item is taken.
    """
    target_column: str = "target"
    """The column of what is to be written."""
    languages: list[str] = field(default_factory=list)
    """Columns that are languages, in place of the two above: every two of them in a
    record are learned in both directions. Without a tag, texts are translated into the
    second of them.
    """
    group: str = ""
    """The column whose values stay together in one split, such as package."""
    validation_groups: list[str] = field(default_factory=list)
    """Groups held out to validate on, in place of a share."""
    test_groups: list[str] = field(default_factory=list)
    """Groups held out to test on, in place of a share."""
    tokenizer: str = "bpe"
    """bpe (trained on these texts), or a pretrained one: a folder with tokenizer.json, a
    GGUF file.
    """
    vocab_size: Annotated[int, Field(ge=258, le=1_000_000)] = 8192
    """Tokens of a bpe trained here; a small corpus gives fewer."""
    source_length: Annotated[int, Field(ge=2, le=100_000)] = 128
    """Tokens of a source at most; examples with a longer one are left out and counted."""
    target_length: Annotated[int, Field(ge=2, le=100_000)] = 128
    """Tokens of a target at most; likewise."""
    validation: Annotated[float, Field(ge=0, lt=1)] = 0.05
    """Share of the groups that is held out to validate on."""
    test: Annotated[float, Field(ge=0, lt=1)] = 0.05
    """Share that is held out to test on."""
    encoding: str = ""
    """Of files that are not UTF-8, such as cp1252 or big5."""
    strict: bool = True
    """Stop at the first broken record or empty text. Otherwise leave such records out,
    count and report them.
    """
