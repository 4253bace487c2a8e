"""Diffusers pipelines: any local folder, hub id or tuned one, with LoRA, textual
inversion, ControlNet and schedulers by name.

This file is the door, and imports neither torch nor Diffusers; the work is in diffusers_engine.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from miaobi.core.engine import Abilities, Weights
from miaobi.core.errors import Unsupported
from miaobi.core.language import say
from miaobi.engines.moderation.images import THRESHOLD
from miaobi.models.quiet import quiet_diffusers
from miaobi.models.tuned import FAMILY, PIPELINE_LORA, open_tuned
from miaobi.models.weights import PIPELINE

if TYPE_CHECKING:
    from miaobi.engines.diffusers.engine import DiffusersEngine

Part = str | Path
FORMATS = ("diffusers", "bundle")
ABILITIES = Abilities(
    frozenset(
        {
            "n",
            "seed",
            "prompt",
            "negative_prompt",
            "width",
            "height",
            "num_inference_steps",
            "guidance_scale",
            "image",
            "mask",
            "strength",
            "control_image",
            "scheduler",
        }
    )
)
"""What pipelines offer among them; an opened one refuses what it cannot do."""


def installed() -> str | None:
    return (
        None
        if all(
            find_spec(name) for name in ("torch", "transformers", "diffusers", "PIL")
        )
        else 'pip install "miaobi[train,images]"'
    )


def reads(weights: Weights) -> bool:
    return weights.format == "diffusers" or (
        weights.family == FAMILY and weights.modality == "image"
    )


def open_engine(
    weights: Weights,
    *,
    streams: int = 1,
    device: str = "auto",
    dtype: str = "auto",
    lora: Part | Sequence[Part] = (),
    lora_scale: float | None = None,
    embeddings: Part | Sequence[Part] = (),
    controlnet: Part | None = None,
    safety_checker: bool = True,
    safety_threshold: float = THRESHOLD,
) -> DiffusersEngine:
    """`device`: auto, cpu, cuda, cuda:1. `dtype`: auto (float32 on a CPU, bfloat16 on
    CUDA), float32, bfloat16, float16. `lora`, `embeddings` (textual inversion): a
    .safetensors file, a folder with one, or a hub id; or several of them.
    `lora_scale`: how strongly the LoRAs act, 1 when left out. `controlnet`: a
        ControlNet's folder or hub id, heeded where the request has a control_image.
        `safety_checker`: replace unsafe pictures by grey ones; `safety_threshold`: the
        probability from which a picture counts as unsafe (safety.py)."""
    from miaobi.engines.moderation import images as safety

    if not reads(weights):
        raise Unsupported(
            say(
                f"The diffusers engine does not read {weights.label} (family: {weights.family}).",
                f"diffusers 引擎无法读取 {weights.label}（模型族：{weights.family}）。",
            ),
            say("Leave --engine out to have one chosen.", "去掉 --engine 可自动选择。"),
        )
    checker = safety.open_checker(safety_threshold) if safety_checker else None
    with quiet_diffusers():
        from miaobi.engines import devices
        from miaobi.engines.diffusers.engine import DiffusersEngine
        from miaobi.models import pipelines as diffusers_parts

        torch_device = devices.torch_device(device)
        folder, own = _opened(weights)
        extras = diffusers_parts.extras(
            [*own, *_several(lora)], lora_scale, _several(embeddings), controlnet
        )
        loaded = diffusers_parts.load(
            folder,
            weights.name,
            torch_device,
            devices.torch_dtype(dtype, torch_device),
            extras,
        )
        return DiffusersEngine(weights.name, loaded, checker)


def _opened(weights: Weights) -> tuple[Path, list[Path]]:
    """The pipeline's folder, and the LoRA that it was tuned by."""
    if weights.family != FAMILY or (weights.path / PIPELINE).exists():
        return weights.path, []
    tuned = open_tuned(weights)
    return tuned.base.folder, [tuned.folder / PIPELINE_LORA]


def _several(parts: Part | Sequence[Part]) -> Sequence[Part]:
    return (parts,) if isinstance(parts, str | Path) else parts
