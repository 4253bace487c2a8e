"""Where labelled examples come from and how they are divided."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal

from pydantic import Field

PROBLEMS_LISTED = 10
"""Unusable records that are listed in full; all are counted."""


@dataclass(frozen=True)
class Source:
    """Further examples to train on, see tune/mixing.py."""

    path: str = ""
    """In a recipe, under a name of your own: a further file or folder of training
    examples, of any format that data.path may have.
    """
    pack: str = ""
    """A starter pack instead of a path."""
    share: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0
    """Examples of it for each training example of data.path, as far as it has so many;
    0 leaves it out.
    """
    columns: dict[str, str] | None = None
    """Your names for its columns, where they are others than data.columns."""


@dataclass(frozen=True)
class Config:
    """Where the labelled examples come from and how they are divided."""

    path: str = ""
    """A file or folder: JSONL, JSON, CSV, Parquet (each also gzip), or what the task
    reads besides (class folders, CoNLL, COCO).
    """
    pack: str = ""
    """A starter pack instead of a path."""
    columns: dict[str, str] = field(default_factory=dict)
    """Your names for the task's columns: {text: review, label: stars}."""
    validation: float = 0.1
    """Share that is held out from training, for early stopping."""
    test: float = 0.1
    """Share that is held out from both, for the comparison with the base."""
    validation_path: str = ""
    """A file of its own for validation, instead of a share."""
    test_path: str = ""
    """A file of its own for the test, instead of a share."""
    max_examples: int = 0
    """Use only so many, chosen by chance; 0 uses all."""
    max_length: int = 0
    """Tokens of an example; 0 for enough to hold 99 % of them, at most 512 and at most
    what the base can hold.
    """
    too_long: Literal["truncate", "split", "drop"] = "truncate"
    """What becomes of longer ones."""
    allow_leakage: bool = False
    """Go on although questions of test_path stand in the training data."""
    strict: bool = True
    """Stop at the first unusable record. Otherwise leave such records out, count and
    report them.
    """
    mix: dict[str, Source] = field(default_factory=dict)
    """Further sources of training examples by name; what is held out comes from data.path alone."""
