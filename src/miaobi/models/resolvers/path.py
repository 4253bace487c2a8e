"""Files and folders: ./poet, models/qwen.gguf."""

from __future__ import annotations

from pathlib import Path

from miaobi.core.engine import Weights
from miaobi.models.weights import of_path


def resolve(name: str) -> Weights | None:
    path = Path(name).expanduser()
    return of_path(path) if path.exists() else None


def names() -> list[str]:
    """Return none: the files of a computer are not listed."""
    return []
