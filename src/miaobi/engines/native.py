"""PyTorch, in this process: what was trained here, and any Transformers checkpoint, on CPU or CUDA.

This file is the door, and imports no torch; the work is in native_engine.py.
"""

from __future__ import annotations

from dataclasses import fields
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from miaobi.core import gguf
from miaobi.core.engine import Abilities, Weights
from miaobi.core.errors import MissingPart
from miaobi.core.language import say
from miaobi.core.requests import TextRequest

if TYPE_CHECKING:
    from miaobi.engines.native_engine import NativeEngine

FORMATS = ("bundle", "transformers", "gguf")
ABILITIES = Abilities(frozenset(item.name for item in fields(TextRequest)) - {"json_schema"}, score=True)


def installed() -> str | None:
    return None if find_spec("torch") and find_spec("transformers") else 'pip install "miaobi[train]"'


def reads(weights: Weights) -> bool:
    return weights.modality == "text" and (weights.format != "gguf" or gguf_fits(weights.path))


def gguf_fits(path: Path) -> bool:
    """Whether Transformers reads this GGUF's architecture (huggingface.co/docs/transformers/gguf); it asks for two packages."""
    return all(find_spec(name) for name in ("gguf", "accelerate")) and gguf.read(path).architecture in (
        "llama", "qwen2", "qwen3", "gemma2", "gemma3", "phi3", "mistral", "gpt2", "starcoder2", "falcon")


def open_engine(weights: Weights, *, streams: int = 1, device: str = "auto", dtype: str = "auto") -> NativeEngine:
    """`device`: auto, cpu, cuda, cuda:1. `dtype`: auto (float32 on a CPU, bfloat16 on CUDA), float32, bfloat16, float16."""
    import torch

    from miaobi.engines import checkpoints
    from miaobi.engines.native_engine import NativeEngine

    place = ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
    if place.startswith("cuda") and not torch.cuda.is_available():
        raise MissingPart(say(f"There is no CUDA device here (asked for {device}).", f"本机没有 CUDA 设备（要求 {device}）。"),
                          say("Leave device out, or use cpu.", "请去掉 device，或使用 cpu。"))
    if dtype == "auto":
        dtype = "bfloat16" if place.startswith("cuda") else "float32"
    return NativeEngine(checkpoints.load(weights, place, getattr(torch, dtype)), ABILITIES)
