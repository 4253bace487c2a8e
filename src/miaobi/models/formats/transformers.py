"""Transformers' folders of language models."""

from __future__ import annotations

from pathlib import Path

from miaobi.core.engine import Weights
from miaobi.models.weights import read_json, refuse_foreign_code


def weights_of(folder: Path, name: str) -> Weights:
    """Raise Unsupported for a checkpoint that needs Python code of its own."""
    refuse_foreign_code(read_json(folder / "config.json"), name)
    return Weights("transformers", str(folder), name)
