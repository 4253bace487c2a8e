"""Readers of labelled examples: (location, record) pairs, in the names people gave the columns."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

Reader = Callable[[str, str], Iterator[tuple[str, Mapping[str, Any]]]]
"""Called as `reader(path, pack)`, one of them empty; yields (location, record)."""
