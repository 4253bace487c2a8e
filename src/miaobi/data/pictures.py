"""The `pictures` data set: decoded pictures of one size (or a few sizes, in buckets) in memory-mapped files, and batches of them."""

from __future__ import annotations

from dataclasses import dataclass


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
