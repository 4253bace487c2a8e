"""What is hidden in a text, by a `bert` trained here: ranked fills with probabilities.

This module imports no torch; engine.py does what runs.
"""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING

from miaobi.core.engine import Abilities, Weights
from miaobi.core.requests import TextRequest

if TYPE_CHECKING:
    from miaobi.engines.fills.engine import FillsEngine

FORMATS = ("bundle",)
TAKES = TextRequest
ABILITIES = Abilities(frozenset({"prompt", "prompt_ids", "seed", "top_k"}))
"""Fills are ranked, not drawn: they do not depend on the seed."""
FAMILY = "bert"


def installed() -> str | None:
    return None if find_spec("torch") else 'pip install "miaobi[train]"'


def reads(weights: Weights) -> bool:
    return weights.family == FAMILY


def open_engine(weights: Weights, *, streams: int = 1) -> FillsEngine:
    """Open on the CPU; one request runs after the other."""
    from miaobi.engines.fills.engine import FillsEngine

    return FillsEngine(weights, ABILITIES)
