"""Diffusers pipelines: any local folder or hub id, with LoRA, textual inversion, ControlNet and schedulers by name.

This file is the door, and imports neither torch nor Diffusers; the work is in diffusers_engine.py.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from miaobi.core.engine import Abilities, Weights
from miaobi.engines.safety import THRESHOLD

if TYPE_CHECKING:
    from miaobi.engines.diffusers_engine import DiffusersEngine

FORMATS = ("diffusers",)
ABILITIES = Abilities(frozenset({
    "n", "seed", "prompt", "negative_prompt", "width", "height", "num_inference_steps", "guidance_scale", "image", "mask", "strength",
    "control_image", "scheduler"}))
"""What pipelines offer among them; an opened one refuses what it cannot do."""


def installed() -> str | None:
    return None if all(find_spec(name) for name in ("torch", "transformers", "diffusers", "PIL")) else 'pip install "miaobi[train,images]"'


def reads(weights: Weights) -> bool:
    return weights.format == "diffusers"


def open_engine(weights: Weights, *, streams: int = 1, device: str = "auto", dtype: str = "auto", controlnet: Path | str | None = None,
                lora: Path | str | None = None, lora_scale: float = 1.0, embeddings: Path | str | None = None,
                safety_checker: bool = True, safety_threshold: float = THRESHOLD) -> DiffusersEngine:
    """`device`: auto, cpu, cuda, cuda:1. `dtype`: auto (float32 on a CPU, bfloat16 on CUDA), float32, bfloat16, float16.
    `controlnet`: a ControlNet's folder, heeded where the request has a control_image. `lora`: a .safetensors file, and
    `lora_scale` how strongly it acts. `embeddings`: textual inversion, a .safetensors file. `safety_checker`: replace
    unsafe pictures by grey ones; `safety_threshold`: the probability from which a picture counts as unsafe (safety.py)."""
    from miaobi.engines import devices, safety
    from miaobi.engines.diffusers_engine import DiffusersEngine
    from miaobi.engines.diffusers_parts import Extras, load

    checker = safety.open_checker(safety_threshold) if safety_checker else None
    place = devices.place(device)
    given = {"controlnet": controlnet, "lora": lora, "embeddings": embeddings}
    extras = Extras(**{name: Path(path).expanduser() for name, path in given.items() if path}, lora_scale=lora_scale)
    loaded = load(weights.path, weights.name, place, devices.number_type(dtype, place), extras)
    return DiffusersEngine(weights.name, loaded, checker)
