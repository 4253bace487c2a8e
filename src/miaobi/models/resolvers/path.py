"""Files and folders, here or at a URL: ./poet, models/qwen.gguf, s3://bucket/poet."""

from __future__ import annotations

from miaobi.core import storage
from miaobi.core.engine import Weights
from miaobi.models.weights import of_path


def resolve(name: str) -> Weights | None:
    if name.startswith(("http://", "https://")):
        return None  # a server: see url.py
    where = storage.location(name)
    if isinstance(where, storage.Url):
        return of_path(storage.local(where), name)
    return of_path(where) if where.exists() else None


def names() -> list[str]:
    """Return none: the files of a computer are not listed."""
    return []
