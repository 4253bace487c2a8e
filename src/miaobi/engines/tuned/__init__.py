"""What was tuned here and is asked in its task's own form: classifiers, taggers,
translators, questions about texts and pictures.

The prompt is the text, or a JSON object for a task that is asked with several
({"question": ..., "context": ...}); `image` is the picture. The answer is the label,
the text that was written, or JSON. This file is the door, and imports no torch.
"""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING

from miaobi.core.engine import Abilities, Weights
from miaobi.models.tuned import FAMILY, open_tuned

if TYPE_CHECKING:
    from miaobi.engines.tuned.engine import TunedEngine

FORMATS = ("bundle",)
ABILITIES = Abilities(frozenset({"seed", "prompt", "image"}))
"""Answers do not depend on the seed: the likeliest is given."""


def installed() -> str | None:
    return (
        None
        if find_spec("torch") and find_spec("transformers")
        else 'pip install "miaobi[train]"'
    )


def reads(weights: Weights) -> bool:
    return (
        weights.family == FAMILY
        and weights.modality != "image"
        and not open_tuned(weights).writes
    )


def open_engine(weights: Weights, *, streams: int = 1) -> TunedEngine:
    """On the CPU, one question after the other."""
    from miaobi.engines.tuned.engine import TunedEngine

    return TunedEngine(open_tuned(weights))
