"""Texts to vectors: the packaged sentence encoder, and what was tuned for `embedding`.

This module imports no torch; engine.py does what runs.
"""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING

from miaobi.core.engine import Abilities, Weights
from miaobi.core.requests import EmbeddingRequest
from miaobi.models.tuned import FAMILY, open_tuned

if TYPE_CHECKING:
    from miaobi.engines.embedding.engine import EmbeddingEngine

FORMATS = ("base", "bundle")
TAKES = EmbeddingRequest
ABILITIES = Abilities(frozenset({"texts", "seed"}), tokenize=True)
"""Vectors do not depend on the seed."""


def installed() -> str | None:
    if find_spec("torch") and find_spec("transformers"):
        return None
    return 'pip install "miaobi[train]"'


def reads(weights: Weights) -> bool:
    if weights.format == "base":
        return True
    return weights.family == FAMILY and open_tuned(weights).task_name == "embedding"


def open_engine(weights: Weights, *, streams: int = 1) -> EmbeddingEngine:
    """Open on the CPU; one request runs after the other."""
    from miaobi.engines.embedding.engine import EmbeddingEngine

    return EmbeddingEngine(weights, ABILITIES)
