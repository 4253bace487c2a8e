"""PyTorch, in this process: what was trained or tuned here, and any Transformers
checkpoint, on CPU or CUDA, with adapters.

This module imports no torch; engine.py does what runs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from miaobi.core import gguf
from miaobi.core.engine import Abilities, Weights
from miaobi.core.requests import TextRequest
from miaobi.engines.text import constraint
from miaobi.models.tuned import FAMILY, open_tuned

if TYPE_CHECKING:
    from miaobi.engines.native.engine import NativeEngine

FORMATS = ("bundle", "transformers", "gguf")
TAKES = TextRequest
ABILITIES = Abilities(
    frozenset(item.name for item in fields(TextRequest)) - {"image", "tools"},
    score=True,
    tokenize=True,
    checks={"json_schema": constraint.check},
)
ENCODERS = ("bert",)
"""Families that read texts and do not continue them; engines of their own run them."""
GGUF_ARCHITECTURES = (
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
"""Those that Transformers reads (huggingface.co/docs/transformers/gguf)."""


def installed() -> str | None:
    if find_spec("torch") and find_spec("transformers"):
        return None
    return 'pip install "miaobi[train]"'


def reads(weights: Weights) -> bool:
    if weights.family == FAMILY:
        return open_tuned(weights).writes
    if weights.modality != TAKES.makes or weights.family in ENCODERS:
        return False
    return weights.format != "gguf" or gguf_fits(weights.path)


def gguf_fits(path: Path) -> bool:
    """Return whether Transformers reads this GGUF file; it needs two packages for it."""
    if not (find_spec("gguf") and find_spec("accelerate")):
        return False
    return gguf.read(path).architecture in GGUF_ARCHITECTURES


def open_engine(
    weights: Weights,
    *,
    streams: int = 1,
    device: str = "auto",
    dtype: str = "auto",
    adapters: str | Sequence[str] = (),
) -> NativeEngine:
    """Open weights with PyTorch.

    Args:
        weights: A bundle, a Transformers folder or a GGUF file.
        streams: Without effect: answers are made together, however many there are.
        device: auto, cpu, cuda, cuda:1.
        dtype: auto (float32 on a CPU, bfloat16 on CUDA), float32, bfloat16, float16.
        adapters: Tuned models whose base these weights are; a request's `adapter` names
            the one that answers it.
    """
    from miaobi.engines import devices
    from miaobi.engines.native import checkpoints
    from miaobi.engines.native.engine import NativeEngine

    torch_device = devices.torch_device(device)
    torch_dtype = devices.torch_dtype(dtype, torch_device)
    names = (adapters,) if isinstance(adapters, str) else tuple(adapters)
    if names:
        checkpoint = checkpoints.load_adapted(weights, names, torch_device, torch_dtype)
        return NativeEngine(checkpoint, ABILITIES)
    checkpoint = checkpoints.load(weights, torch_device, torch_dtype)
    abilities = replace(ABILITIES, controls=ABILITIES.controls - {"adapter"})
    return NativeEngine(checkpoint, abilities)
