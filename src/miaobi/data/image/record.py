"""What every source of pictures yields. Nothing is decoded yet: image/files.py does that."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True, eq=False)
class Picture:
    """One picture to learn from, with what its source says of it."""

    name: str
    """Unique within the source: a relative path, or a file with a row."""
    content: Path | bytes | np.ndarray
    """A picture file, its bytes, or its pixels: uint8 [H, W] or [H, W, C]."""
    path: Path
    """The file that problems name."""
    line: int = 0
    """From 1: the row within `path`; 0 where the file is the picture."""
    source: Path | bytes | np.ndarray | None = None
    """For pairs: the picture it is made from."""
    label: str | int | None = None
    """A class by name, or by number of `classes`."""
    classes: tuple[str, ...] = ()
    """The source's own names of its classes, in order."""
    meta: Mapping[str, str] = field(default_factory=dict)
    """Columns of text that may serve as captions, the usual one first."""
    split: str = ""
    """"train", "validation" or "test", where the source names one."""
