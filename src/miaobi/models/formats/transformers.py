"""Transformers' folders of language models and of encoders."""

from __future__ import annotations

from pathlib import Path

from miaobi.core.engine import Weights
from miaobi.models.weights import read_json, refuse_foreign_code


def weights_of(folder: Path, name: str) -> Weights:
    """Raise Unsupported for a checkpoint that needs Python code of its own."""
    config = read_json(folder / "config.json")
    refuse_foreign_code(config, name)
    architectures = [str(kind) for kind in config.get("architectures") or ()]
    has_no_head = architectures and architectures[0].endswith("Model")
    modality = "embedding" if has_no_head else "text"
    return Weights("transformers", str(folder), name, modality=modality)
