"""What was tuned here and is asked in its task's own form: classifiers, taggers,
translators, questions about texts and images.

The prompt is the text, or a JSON object for a task that is asked with several fields
({"question": ..., "context": ...}); `image` is the image. The answer is the label, the
text that was written, or JSON. This module imports no torch; engine.py does what runs.
"""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING

from miaobi.core.engine import Abilities, Weights
from miaobi.core.requests import TextRequest
from miaobi.models.tuned import FAMILY, open_tuned

if TYPE_CHECKING:
    from miaobi.engines.tuned.engine import TunedEngine

FORMATS = ("bundle",)
TAKES = TextRequest
ABILITIES = Abilities(frozenset({"seed", "prompt", "image"}))
"""Answers do not depend on the seed: the likeliest is given."""
MAKES = (TextRequest.makes, "labels")
"""What the tuned models that it reads make."""


def installed() -> str | None:
    if find_spec("torch") and find_spec("transformers"):
        return None
    return 'pip install "miaobi[train]"'


def reads(weights: Weights) -> bool:
    if weights.family != FAMILY or weights.modality not in MAKES:
        return False
    return not open_tuned(weights).writes


def open_engine(weights: Weights, *, streams: int = 1) -> TunedEngine:
    """Open on the CPU; one question is answered after the other."""
    from miaobi.engines.tuned.engine import TunedEngine

    return TunedEngine(open_tuned(weights))
