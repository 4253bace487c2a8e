"""Diffusers pipelines: any local folder, hub id or tuned one, with LoRA, textual
inversion, ControlNet and schedulers by name.

This module imports neither torch nor Diffusers; engine.py does what runs.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from miaobi.core.engine import Abilities, Weights
from miaobi.core.errors import Unsupported
from miaobi.core.language import say
from miaobi.core.requests import ImageRequest
from miaobi.engines.moderation.images import THRESHOLD
from miaobi.models.quiet import quiet_diffusers
from miaobi.models.tuned import FAMILY, PIPELINE_LORA, open_tuned
from miaobi.models.weights import PIPELINE

if TYPE_CHECKING:
    from miaobi.engines.diffusers.engine import DiffusersEngine

Part = str | Path
FORMATS = ("diffusers", "bundle")
TAKES = ImageRequest
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
PACKAGES = ("torch", "transformers", "diffusers", "PIL")


def installed() -> str | None:
    if all(find_spec(package) for package in PACKAGES):
        return None
    return 'pip install "miaobi[train,images]"'


def reads(weights: Weights) -> bool:
    if weights.format == "diffusers":
        return True
    return weights.family == FAMILY and weights.modality == TAKES.makes


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
    """Open a pipeline, and what is added to it.

    Parts are a .safetensors file, a folder with one, or a hub id.

    Args:
        weights: A Diffusers folder, or a pipeline that was tuned here.
        streams: Without effect: requests run one after the other.
        device: auto, cpu, cuda, cuda:1.
        dtype: auto (float32 on a CPU, bfloat16 on CUDA), float32, bfloat16, float16.
        lora: One or several parts.
        lora_scale: How strongly the LoRAs act, 1 when left out.
        embeddings: Textual inversion, one or several parts.
        controlnet: A ControlNet's folder or hub id, for requests with a control_image.
        safety_checker: Whether unsafe images are replaced by grey ones.
        safety_threshold: The probability from which an image counts as unsafe
            (engines/moderation/images.py).
    """
    from miaobi.engines.moderation import images

    if not reads(weights):
        raise Unsupported(
            say(
                f"The diffusers engine does not read {weights.label} (family: {weights.family}).",
                f"diffusers 引擎无法读取 {weights.label}（模型族：{weights.family}）。",
            ),
            say("Leave --engine out to have one chosen.", "去掉 --engine 可自动选择。"),
        )
    checker = images.open_checker(safety_threshold) if safety_checker else None
    with quiet_diffusers():
        from miaobi.engines import devices
        from miaobi.engines.diffusers.engine import DiffusersEngine
        from miaobi.models import pipelines

        torch_device = devices.torch_device(device)
        torch_dtype = devices.torch_dtype(dtype, torch_device)
        folder, own_lora = _folder_and_lora(weights)
        extras = pipelines.extras(
            [*own_lora, *_parts(lora)], lora_scale, _parts(embeddings), controlnet
        )
        loaded = pipelines.load(folder, weights.name, torch_device, torch_dtype, extras)
        return DiffusersEngine(weights.name, loaded, checker)


def _folder_and_lora(weights: Weights) -> tuple[Path, list[Path]]:
    """The pipeline's folder, and the LoRA that it was tuned by."""
    if weights.family != FAMILY or (weights.path / PIPELINE).exists():
        return weights.path, []
    tuned = open_tuned(weights)
    return tuned.base.folder, [tuned.folder / PIPELINE_LORA]


def _parts(parts: Part | Sequence[Part]) -> Sequence[Part]:
    return (parts,) if isinstance(parts, str | Path) else parts
