"""PyTorch, in this process: what was trained or tuned here, and any Transformers
checkpoint, on CPU or CUDA, with adapters.

This file is the door, and imports no torch; the work is in native_engine.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from miaobi.core import gguf
from miaobi.core.engine import Abilities, Weights
from miaobi.core.requests import TextRequest
from miaobi.models.tuned import FAMILY, open_tuned

if TYPE_CHECKING:
    from miaobi.engines.native.engine import NativeEngine

FORMATS = ("bundle", "transformers", "gguf")
ABILITIES = Abilities(
    frozenset(item.name for item in fields(TextRequest))
    - {"json_schema", "image", "tools"},
    score=True,
)


def installed() -> str | None:
    return (
        None
        if find_spec("torch") and find_spec("transformers")
        else 'pip install "miaobi[train]"'
    )


def reads(weights: Weights) -> bool:
    if weights.family == FAMILY:
        return open_tuned(weights).writes
    return weights.modality == "text" and (
        weights.format != "gguf" or gguf_fits(weights.path)
    )


def gguf_fits(path: Path) -> bool:
    """Whether Transformers reads this GGUF's architecture
    (huggingface.co/docs/transformers/gguf); it asks for two packages.
    """
    return all(find_spec(name) for name in ("gguf", "accelerate")) and gguf.read(
        path
    ).architecture in (
        "llama",
        "qwen2",
        "qwen3",
        "gemma2",
        "gemma3",
        "phi3",
        "mistral",
        "gpt2",
        "starcoder2",
        "falcon",
    )


def open_engine(
    weights: Weights,
    *,
    streams: int = 1,
    device: str = "auto",
    dtype: str = "auto",
    adapters: str | Sequence[str] = (),
) -> NativeEngine:
    """`device`: auto, cpu, cuda, cuda:1. `dtype`: auto (float32 on a CPU, bfloat16 on
    CUDA), float32, bfloat16, float16.
    `adapters`: tuned models whose base these weights are; a request's `adapter` names
        the one that answers it."""
    from miaobi.engines import devices
    from miaobi.engines.native import checkpoints
    from miaobi.engines.native.engine import NativeEngine

    place = devices.place(device)
    numbers, names = (
        devices.number_type(dtype, place),
        (adapters,) if isinstance(adapters, str) else tuple(adapters),
    )
    if names:
        return NativeEngine(
            checkpoints.load_adapted(weights, names, place, numbers), ABILITIES
        )
    return NativeEngine(
        checkpoints.load(weights, place, numbers),
        Abilities(ABILITIES.controls - {"adapter"}, score=True),
    )
