"""Texts to vectors: the packaged sentence encoder, and what was tuned with the task `embedding`.

This file is the door, and imports no torch; the work is in embedding_engine.py.
"""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING

from miaobi.core.engine import Abilities, Weights
from miaobi.models.tuned import FAMILY, open_tuned

if TYPE_CHECKING:
    from miaobi.engines.embedding.engine import EmbeddingEngine

FORMATS = ("base", "bundle")
ABILITIES = Abilities(frozenset({"texts", "seed"}))
"""Vectors do not depend on the seed."""


def installed() -> str | None:
    return (
        None
        if find_spec("torch") and find_spec("transformers")
        else 'pip install "miaobi[train]"'
    )


def reads(weights: Weights) -> bool:
    return weights.format == "base" or (
        weights.family == FAMILY
        and open_tuned(weights).manifest.recipe["task"] == "embedding"
    )


def open_engine(weights: Weights, *, streams: int = 1) -> EmbeddingEngine:
    """On the CPU, one request after the other."""
    from miaobi.engines.embedding.engine import EmbeddingEngine

    return EmbeddingEngine(weights, ABILITIES)
