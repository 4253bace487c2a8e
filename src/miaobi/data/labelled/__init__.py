"""Readers of labelled examples: (location, record) pairs, in the names people gave the columns."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from miaobi.data.encoding import Report, raise_problem


@dataclass(frozen=True)
class ReadOptions:
    """How the files of records are read."""

    encoding: str = ""
    """Of text that is not UTF-8 and cannot be told; see data/encoding.py."""
    report: Report = raise_problem
    """Called with what cannot be read: raises, or lets the rest be read."""


STRICT = ReadOptions()
Reader = Callable[[str, str, ReadOptions], Iterator[tuple[str, Mapping[str, Any]]]]
"""Called as `reader(path, pack, options)`, one of the first two empty; yields (location,
record).
"""
