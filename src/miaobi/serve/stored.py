"""What the store holds, as others may read it: the card of a version, and the use of
the disk. No path of this machine is in either.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from miaobi.core import bundle, storage
from miaobi.core.files import home
from miaobi.core.language import spoken
from miaobi.core.store import Store, Version
from miaobi.data import packs
from miaobi.provenance.label import NOTICE, SOURCE_TYPE
from miaobi.serve.errors import without_paths
from miaobi.verbs import models

FOLDERS = {
    "packs": ("packs", "converted"),
    "prepared_data": ("prepared", "examples", "evaluate"),
    "server": ("server",),
}
"""Folders of $MIAOBI_HOME beside the models, by what they are reported as."""


def card_of(version: Version) -> dict[str, Any]:
    """Return the card of a version."""
    manifest = bundle.read(version.location)
    files = storage.files(version.location)
    return {
        "object": "model.card",
        "id": str(version),
        "name": version.name,
        "version": version.number,
        "family": manifest.family,
        "modality": manifest.modality,
        "created": manifest.created,
        "code_version": manifest.code_version,
        "parents": list(map(without_paths, manifest.parents)),
        "children": _children(version),
        "dependents": list(map(str, models.dependents([version]))),
        "data": _data(manifest),
        "recipe": _plain(manifest.recipe),
        "resumed": [_plain(change) for change in manifest.resumed],
        "metrics": dict(manifest.metrics),
        "hashes": dict(manifest.hashes),
        "files": [
            {
                "name": storage.relative(file, version.location),
                "bytes": storage.state(file)[0],
            }
            for file in files
        ],
        "licences": _licences(manifest),
        "label": {"notice": NOTICE, "digitalSourceType": SOURCE_TYPE},
    }


def _children(version: Version) -> list[str]:
    """Versions that were made from this one."""
    return [
        str(other)
        for other, manifest, _ in models.versions()
        if str(version) in manifest.parents
    ]


def _data(manifest: bundle.Manifest) -> dict[str, Any]:
    data = manifest.data
    return {
        "source": without_paths(str(data.get("source", ""))) or None,
        "fingerprint": data.get("fingerprint"),
    }


def _plain(values: Mapping[str, Any]) -> dict[str, Any]:
    """Settings without the paths in them."""

    def plain(value: Any) -> Any:
        if isinstance(value, Mapping):
            return _plain(value)
        if isinstance(value, list | tuple):
            return [plain(item) for item in value]
        return without_paths(value) if isinstance(value, str) else value

    return {key: plain(value) for key, value in values.items()}


def _licences(manifest: bundle.Manifest) -> list[dict[str, str]]:
    """The licences of the packs that it was made from: data and base. Of what people
    brought themselves, they know the licence.
    """
    recipe_data = manifest.recipe.get("data")
    base = manifest.data.get("base") or {}
    sources = [
        manifest.data.get("source"),
        recipe_data.get("pack") if isinstance(recipe_data, Mapping) else None,
        base.get("name"),
        *manifest.parents,
    ]
    names = [name for name in dict.fromkeys(sources) if name in packs.catalogue()]
    return [
        {
            "of": name,
            "licence": spoken(packs.get(name).licence),
            "credit": packs.get(name).credit,
        }
        for name in names
    ]


def disk_use() -> dict[str, Any]:
    """Return what lies on the disk by kind, and what is free, in bytes."""
    folder = home()
    folder.mkdir(parents=True, exist_ok=True)
    disk = shutil.disk_usage(folder)
    store = Store()
    return {
        "object": "store.disk",
        "models": storage.size(store.root) if storage.exists(store.root) else 0,
        **{
            name: sum(_size(folder / part) for part in parts)
            for name, parts in FOLDERS.items()
        },
        "free": disk.free,
        "total": disk.total,
    }


def _size(folder: Path) -> int:
    """Bytes of the files in a folder; one that goes meanwhile counts as nothing."""
    total = 0
    for parent, _, names in os.walk(folder):
        for name in names:
            with suppress(FileNotFoundError):
                total += os.lstat(os.path.join(parent, name)).st_size
    return total
