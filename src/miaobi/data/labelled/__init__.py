"""Readers of labelled examples: (location, record) pairs, in the names people gave the columns."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from miaobi.core.registry import Registry

Reader = Callable[[str, str], Iterator[tuple[str, Mapping[str, Any]]]]
"""Called as `reader(path, pack)`, one of them empty; yields (location, record)."""

readers: Registry[Reader] = Registry(
    "readers",
    {
        "texts": "miaobi.data.labelled.texts:texts",
        "tagged": "miaobi.data.labelled.tagged:read",
        "squad": "miaobi.data.labelled.squad:read",
        "pictures": "miaobi.data.labelled.images:pictures",
        "boxes": "miaobi.data.labelled.boxes:boxes",
        "masks": "miaobi.data.labelled.masks:masks",
    },
)
