"""Data for training: packs, files and folders in; tokens and pictures out."""

from __future__ import annotations

from typing import TYPE_CHECKING

from miaobi.core.registry import Registry

if TYPE_CHECKING:
    from miaobi.data.dataset import DatasetModule

datasets: Registry[DatasetModule] = Registry(
    "datasets",
    {
        "pictures": "miaobi.data.image.prepared",
        "tokens": "miaobi.data.text.tokens",
    },
)
