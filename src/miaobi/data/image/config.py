"""The configuration of the `pictures` data set, and the names that its files share."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal

from pydantic import Field

SPLITS = ("train", "validation", "test")
MANIFEST = "pictures.json"


@dataclass(frozen=True)
class Config:
    """Where the pictures come from, and how they are prepared."""

    path: str = ""
    """A folder of pictures (with metadata.jsonl or metadata.csv, with texts beside them,
    with class folders, or with source/ and target/ for pairs), Parquet, IDX, or a
    Hugging Face data set on disk.
    """
    pack: str = ""
    """A starter pack instead of a path: digits, fashion, emoji, openmoji-pairs;
    `miaobi data list` shows all.
    """
    source: str = ""
    """The reader, where the content does not show it: folder, pairs, side-by-side, tables
    or idx, or one that another package brings.
    """
    pairs: bool = False
    """Whether two folders are pairs even where others stand beside them, and pictures
    twice as wide as high are two side by side; families that need pairs set it.
    """
    image_size: Annotated[int, Field(ge=0, le=8192)] = 0
    """Pixels of a side. 0 leaves pictures as they are when they are all alike; drawings
    (SVG) then have 64.
    """
    channels: Literal[0, 1, 3] = 0
    """1 grey, 3 colour; 0 for grey when every picture is."""
    fit: Literal["crop", "pad", "stretch"] = "crop"
    """How a picture of another shape is brought to the size: crop cuts its middle out,
    pad adds white, stretch distorts it.
    """
    binarise: Literal["no", "static"] = "no"
    """static: each value is drawn once as black or white with its brightness as
    probability, the benchmark of likelihoods on digits (Salakhutdinov and Murray 2008).
    """
    caption_column: str = ""
    """The column with the captions; by default text, caption, or the first one of the source."""
    classes: list[str] = field(default_factory=list)
    """Train on these classes only, in this order; empty for all."""
    validation: Annotated[float, Field(ge=0, lt=1)] = 0.05
    """Share of the pictures that is held out to validate on, where the source
    has no such split.
    """
    test: Annotated[float, Field(ge=0, lt=1)] = 0.05
    """Share that is held out to test on, where the source has no test split."""
    near_duplicates: Literal["group", "drop", "keep"] = "group"
    """Pictures that look the same: group keeps them on one side of the split and drops
    exact copies, drop keeps one of each, keep looks for none.
    """
    buckets: Annotated[int, Field(ge=0)] = 0
    """So many aspect ratios of about image_size² pixels, each batch from one of them; 0
    for squares only.
    """
    augment: list[str] = field(default_factory=list)
    """Changes drawn anew for every training picture: flip, shift, rotate, crop, colour,
    cutout, noise.
    """
    max_pictures: Annotated[int, Field(ge=0)] = 0
    """Read only so many pictures; 0 reads all."""
    strict: bool = False
    """Stop at the first problem. Otherwise unusable pictures are left out, counted and reported."""
