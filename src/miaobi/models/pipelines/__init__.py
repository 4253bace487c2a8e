"""Diffusers folders, and the pipelines of several tasks that share their weights.

Text-to-image, image-to-image and inpainting are three classes over the same parts: a
sibling is built of the loaded parts on first use and needs no weights of its own.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from inspect import signature
from pathlib import Path
from typing import Any, Literal

import diffusers
import torch
from safetensors.torch import load_file

from miaobi.core.errors import BadInput, MissingPart, Unsupported
from miaobi.core.language import say
from miaobi.core.requests import recorded
from miaobi.models.pipelines import folder as diffusers_folder
from miaobi.models.resolvers.hub import part
from miaobi.models.weights import PIPELINE, read_json

Task = Literal["text", "image", "mask"]
AUTO: dict[Task, Any] = {
    "text": diffusers.AutoPipelineForText2Image,
    "image": diffusers.AutoPipelineForImage2Image,
    "mask": diffusers.AutoPipelineForInpainting,
}


@dataclass(frozen=True)
class Extras:
    """What is added to a pipeline when it is loaded: files, and a ControlNet's folder."""

    lora: tuple[Path, ...] = ()
    lora_scale: float = 1.0
    embeddings: tuple[Path, ...] = ()
    controlnet: Path | None = None

    @property
    def notes(self) -> dict[str, Any]:
        """Hashes of the extras for the facts of every picture, which make it reproducible."""
        controlnet = tuple[Path, ...]()
        if self.controlnet:
            controlnet = tuple(sorted(self.controlnet.glob("*.safetensors")))
        files = {
            "lora": self.lora,
            "embeddings": self.embeddings,
            "controlnet": controlnet,
        }
        notes: dict[str, Any] = {
            name: " ".join(recorded(path) for path in paths)
            for name, paths in files.items()
            if paths
        }
        if self.lora:
            notes["lora_scale"] = self.lora_scale
        return notes


def extras(
    lora: Sequence[str | Path],
    lora_scale: float | None,
    embeddings: Sequence[str | Path],
    controlnet: str | Path | None,
) -> Extras:
    """Return the extras of an engine's options, each a path or a hub id.

    Raises NotFound, BadInput, Unsupported for pickles, Damaged, MissingPart.

    Args:
        lora: LoRA files.
        lora_scale: strength of all; 1 when None.
        embeddings: files of textual inversions.
        controlnet: a ControlNet's folder.
    """
    if lora_scale is not None and not lora:
        raise BadInput(
            say(
                f"lora_scale is {lora_scale:g}, and there is no lora.",
                f"lora_scale 为 {lora_scale:g}，但没有给出 lora。",
            ),
            say("Give lora as well.", "请同时给出 lora。"),
        )
    if lora and not find_spec("peft"):
        raise MissingPart(
            say("LoRA needs the package peft.", "LoRA 需要 peft 包。"),
            'pip install "miaobi[images]"',
        )
    return Extras(
        lora=_files(lora, "lora"),
        lora_scale=1.0 if lora_scale is None else lora_scale,
        embeddings=_files(embeddings, "embeddings"),
        controlnet=part(controlnet, "controlnet") if controlnet else None,
    )


def _files(names: Sequence[str | Path], option: str) -> tuple[Path, ...]:
    return tuple(diffusers_folder.file_of(part(name, option), option) for name in names)


@dataclass
class Pipelines:
    """The pipelines of one set of weights."""

    own: Any
    """As the folder describes it."""
    controlnet: Any = None
    notes: dict[str, Any] = field(default_factory=dict)
    """`Extras.notes`."""
    _built: dict[tuple[Task, bool], Any] = field(default_factory=dict)

    def of(self, task: Task, control: bool = False) -> Any | None:
        """Return the pipeline for a task; None where these weights cannot do it.

        control: with the ControlNet.
        """
        if (task, control) not in self._built:
            self._built[task, control] = self._build(task, control)
        return self._built[task, control]

    def _build(self, task: Task, control: bool) -> Any | None:
        has_control = _is_controlnet(self.own)
        if control == has_control and task == own_task(self.own):
            return self.own
        if control and self.controlnet is None:
            return None
        if not _sees_latents_alone(self.own):
            return None
        parts = dict[str, Any]()
        if control:
            parts["controlnet"] = self.controlnet
        elif has_control:
            parts["controlnet"] = None
        try:
            pipeline = AUTO[task].from_pipe(self.own, **parts)
        except ValueError:  # Diffusers has no class for this task and these parts
            return None
        pipeline.set_progress_bar_config(disable=True)
        return pipeline


def own_task(pipeline: Any) -> Task:
    """Return the task of the folder's own class, which its parameters show."""
    parameters = signature(pipeline.__call__).parameters
    if "mask_image" in parameters:
        return "mask"
    if "image" in parameters and not _is_controlnet(pipeline):
        return "image"
    return "text"


def _is_controlnet(pipeline: Any) -> bool:
    return "ControlNet" in type(pipeline).__name__


def _sees_latents_alone(pipeline: Any) -> bool:
    """Return whether the denoiser sees nothing but noisy latents.

    Then it serves other tasks too; inpainting networks see more.
    """
    unet = pipeline.components.get("unet")
    vae = pipeline.components.get("vae")
    if unet is None or vae is None:
        return True
    return bool(unet.config.in_channels == vae.config.latent_channels)


def load(
    folder: Path, name: str, device: str, dtype: torch.dtype, extras: Extras
) -> Pipelines:
    """Load the pipelines of a folder, after checking it.

    Only safetensors are read, and no code that came along is run. Raises what
    diffusers_folder.check raises, and BadInput or Unsupported for extras that do not fit.

    Args:
        folder: a Diffusers folder.
        name: what users call it, for errors.
        device: where the weights go.
        dtype: of the weights.
        extras: what is added to the pipeline.
    """
    diffusers_folder.check(folder, name)
    options = dict[str, Any]()
    if "safety_checker" in read_json(folder / PIPELINE):
        options = {"safety_checker": None, "requires_safety_checker": False}
    options |= dict.fromkeys(diffusers_folder.spared(folder))
    options["variant"] = diffusers_folder.variant(folder)
    opener: Any = diffusers.DiffusionPipeline
    pipeline = opener.from_pretrained(
        str(folder), dtype=dtype, use_safetensors=True, local_files_only=True, **options
    )
    pipeline.set_progress_bar_config(disable=True)
    pipeline.to(device)
    for file in extras.embeddings:
        _add_embeddings(pipeline, file)
    for number, file in enumerate(extras.lora):
        _add_lora(pipeline, file, f"lora{number}")
    if extras.lora:
        names = [f"lora{number}" for number in range(len(extras.lora))]
        pipeline.set_adapters(names, [extras.lora_scale] * len(names))
    controlnet = pipeline.components.get("controlnet")
    if extras.controlnet:
        controlnet = _open_controlnet(extras.controlnet, dtype).to(device)
    pipelines = Pipelines(pipeline, controlnet, extras.notes)
    if extras.controlnet and pipelines.of("text", control=True) is None:
        raise Unsupported(
            say(
                f"controlnet: {name} ({type(pipeline).__name__}) has no variant with a ControlNet.",
                f"controlnet：{name}（{type(pipeline).__name__}）没有 ControlNet 版本。",
            ),
            say(
                "Leave controlnet out, or choose another model.",
                "请去掉 controlnet，或选用其他模型。",
            ),
        )
    return pipelines


def _misfit(option: str, path: Path, pipeline: Any, why: str) -> BadInput:
    """Return the error for an extra of another kind of model."""
    return BadInput(
        say(
            f"{option}: {path} does not fit a {type(pipeline).__name__}: ",
            f"{option}：{path} 与 {type(pipeline).__name__} 不匹配：",
        )
        + why,
        say(
            "Choose one that was trained for this kind of model.",
            "请选用为同类模型训练的文件。",
        ),
    )


def _add_lora(pipeline: Any, path: Path, name: str) -> None:
    """Add a LoRA under the name `name`. Raises BadInput, Unsupported."""
    if "load_lora_weights" not in dir(pipeline):
        raise Unsupported(
            say(
                f"lora: a {type(pipeline).__name__} takes no LoRA.",
                f"lora：{type(pipeline).__name__} 不支持 LoRA。",
            )
        )
    try:
        with warnings.catch_warnings():
            # Several LoRAs are what the caller wants.
            warnings.filterwarnings("ignore", "Already found a `peft_config`")
            pipeline.load_lora_weights(
                str(path.parent),
                weight_name=path.name,
                adapter_name=name,
                use_safetensors=True,
                local_files_only=True,
            )
    except (ValueError, RuntimeError, KeyError) as error:
        raise _misfit("lora", path, pipeline, str(error).strip()) from None
    if not any(name in adapters for adapters in pipeline.get_list_adapters().values()):
        raise _misfit(
            "lora",
            path,
            pipeline,
            say(
                "none of its weights belongs to a part of it.",
                "其中没有任何权重属于该模型。",
            ),
        )


def _add_embeddings(pipeline: Any, path: Path) -> None:
    """Add a textual inversion (Gal et al. 2022, arXiv:2208.01618): new tokens.

    A token is named by its key in the file or, failing that, by the file.
    """
    if "load_textual_inversion" not in dir(pipeline):
        raise Unsupported(
            say(
                f"embeddings: a {type(pipeline).__name__} takes no textual inversion.",
                f"embeddings：{type(pipeline).__name__} 不支持文本反演。",
            )
        )
    encoders = {
        "clip_l": ("text_encoder", "tokenizer"),
        "clip_g": ("text_encoder_2", "tokenizer_2"),
    }
    tensors = load_file(path)
    try:
        for key, tensor in tensors.items():
            encoder, tokenizer = encoders.get(key, encoders["clip_l"])
            pipeline.load_textual_inversion(
                tensor,
                token=path.stem if key in (*encoders, "emb_params") else key,
                text_encoder=getattr(pipeline, encoder),
                tokenizer=getattr(pipeline, tokenizer),
            )
    except (ValueError, AttributeError, RuntimeError) as error:
        raise _misfit("embeddings", path, pipeline, str(error).strip()) from None


def _open_controlnet(folder: Path, dtype: torch.dtype) -> Any:
    kind = diffusers_folder.of_controlnet(folder)
    return getattr(diffusers, kind).from_pretrained(
        str(folder), dtype=dtype, use_safetensors=True, local_files_only=True
    )


def multiple(pipeline: Any) -> int:
    """Return the number that widths and heights are multiples of.

    The autoencoder's factor times the patches of a transformer, and 8.
    """
    scale = 1
    for name in (
        "vae_scale_factor",
        "vae_scale_factor_spatial",
        "vae_spatial_compression_ratio",
    ):
        if name in dir(pipeline):
            scale = int(getattr(pipeline, name))
            break
    processor_scale = 1
    for name in ("image_processor", "video_processor"):
        if name in dir(pipeline):
            processor = getattr(pipeline, name)
            processor_scale = int(processor.config.get("vae_scale_factor", 1))
            break
    return math.lcm(8, scale * _patch_size(pipeline), processor_scale)


def _patch_size(pipeline: Any) -> int:
    """Return the sides of a transformer's patches; 1 for other denoisers."""
    transformer = pipeline.components.get("transformer")
    if transformer is None:
        return 1
    size = transformer.config.get("patch_size", 1)
    return int(size[-1] if isinstance(size, (list, tuple)) else size)
