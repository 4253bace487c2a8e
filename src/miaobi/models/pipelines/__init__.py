"""Opening a Diffusers folder, and the pipelines of several tasks that share its weights.

Text-to-image, image-to-image and inpainting are three classes over the same parts: a
sibling is made of the loaded parts when it is first asked for, and costs no weights.
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
from miaobi.models.weights import PIPELINE, part, read_json

Task = Literal["text", "image", "mask"]
AUTO: dict[Task, Any] = {
    "text": diffusers.AutoPipelineForText2Image,
    "image": diffusers.AutoPipelineForImage2Image,
    "mask": diffusers.AutoPipelineForInpainting,
}


@dataclass(frozen=True)
class Extras:
    """What is added to a pipeline when it is opened: files, and a ControlNet's folder."""

    lora: tuple[Path, ...] = ()
    lora_scale: float = 1.0
    embeddings: tuple[Path, ...] = ()
    controlnet: Path | None = None

    @property
    def notes(self) -> dict[str, Any]:
        """For the facts of every picture: the hashes of the extras, so that it can be
        made again.
        """
        files = {
            "lora": self.lora,
            "embeddings": self.embeddings,
            "controlnet": tuple(sorted(self.controlnet.glob("*.safetensors")))
            if self.controlnet
            else (),
        }
        noted = {
            name: " ".join(recorded(file) for file in found)
            for name, found in files.items()
            if found
        }
        return noted | {"lora_scale": self.lora_scale} if self.lora else noted


def extras(
    lora: Sequence[str | Path],
    lora_scale: float | None,
    embeddings: Sequence[str | Path],
    controlnet: str | Path | None,
) -> Extras:
    """The extras that paths and hub ids name. Raises NotFound, BadInput, Unsupported
    for pickles, Damaged, MissingPart.
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
    files = {
        option: tuple(
            diffusers_folder.file_of(part(name, option), option) for name in names
        )
        for option, names in (("lora", lora), ("embeddings", embeddings))
    }
    return Extras(
        files["lora"],
        1.0 if lora_scale is None else lora_scale,
        files["embeddings"],
        part(controlnet, "controlnet") if controlnet else None,
    )


@dataclass
class Pipelines:
    """One set of weights. `own`: the pipeline as its folder describes it."""

    own: Any
    controlnet: Any = None
    notes: dict[str, Any] = field(default_factory=dict)
    _made: dict[tuple[Task, bool], Any] = field(default_factory=dict)

    def of(self, task: Task, control: bool = False) -> Any | None:
        """The pipeline for a task, with or without the ControlNet; None where these
        weights cannot do it.
        """
        if (task, control) not in self._made:
            self._made[task, control] = self._make(task, control)
        return self._made[task, control]

    def _make(self, task: Task, control: bool) -> Any | None:
        guided = "ControlNet" in type(self.own).__name__
        if control == guided and task == own_task(self.own):
            return self.own
        if (control and self.controlnet is None) or not _plain(self.own):
            return None
        try:
            made = AUTO[task].from_pipe(
                self.own,
                **(
                    {"controlnet": self.controlnet if control else None}
                    if control or guided
                    else {}
                ),
            )
        except ValueError:  # Diffusers knows no class for this task and these parts
            return None
        made.set_progress_bar_config(disable=True)
        return made


def own_task(pipeline: Any) -> Task:
    """What the folder's own class is for, told by what it takes."""
    takes = signature(pipeline.__call__).parameters
    if "mask_image" in takes:
        return "mask"
    return (
        "image"
        if "image" in takes and "ControlNet" not in type(pipeline).__name__
        else "text"
    )


def _plain(pipeline: Any) -> bool:
    """Whether the denoiser sees the noisy latents alone, so that other tasks can be
    made of it (inpainting networks see more).
    """
    unet, vae = (pipeline.components.get(name) for name in ("unet", "vae"))
    return (
        unet is None
        or vae is None
        or unet.config.in_channels == vae.config.latent_channels
    )


def load(
    folder: Path, name: str, place: str, dtype: torch.dtype, extras: Extras
) -> Pipelines:
    """Open a checked folder. Only safetensors are read and no code that came along is run.

    Raises what diffusers_folder.check raises, and BadInput or Unsupported for extras
    that do not fit.
    """
    diffusers_folder.check(folder, name)
    guarded = (
        {"safety_checker": None, "requires_safety_checker": False}
        if "safety_checker" in read_json(folder / PIPELINE)
        else {}
    )
    opener: Any = diffusers.DiffusionPipeline
    pipeline = opener.from_pretrained(
        str(folder), dtype=dtype, use_safetensors=True, local_files_only=True, **guarded
    )
    pipeline.set_progress_bar_config(disable=True)
    pipeline.to(place)
    for file in extras.embeddings:
        _add_embeddings(pipeline, file)
    for number, file in enumerate(extras.lora):
        _add_lora(pipeline, file, f"lora{number}")
    if extras.lora:
        names = [f"lora{number}" for number in range(len(extras.lora))]
        pipeline.set_adapters(names, [extras.lora_scale] * len(names))
    net = (
        _open_controlnet(extras.controlnet, dtype).to(place)
        if extras.controlnet
        else pipeline.components.get("controlnet")
    )
    pipelines = Pipelines(pipeline, net, extras.notes)
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
    return BadInput(
        say(
            f"{option}: {path} does not fit a {type(pipeline).__name__}: {why}",
            f"{option}：{path} 与 {type(pipeline).__name__} 不匹配：{why}",
        ),
        say(
            "Choose one that was trained for this kind of model.",
            "请选用为同类模型训练的文件。",
        ),
    )


def _add_lora(pipeline: Any, path: Path, name: str) -> None:
    if "load_lora_weights" not in dir(pipeline):
        raise Unsupported(
            say(
                f"lora: a {type(pipeline).__name__} takes no LoRA.",
                f"lora：{type(pipeline).__name__} 不支持 LoRA。",
            )
        )
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings(
                "ignore", "Already found a `peft_config`"
            )  # several LoRAs are what was asked for
            pipeline.load_lora_weights(
                str(path.parent),
                weight_name=path.name,
                adapter_name=name,
                use_safetensors=True,
                local_files_only=True,
            )
    except (ValueError, RuntimeError, KeyError) as error:
        raise _misfit("lora", path, pipeline, str(error).splitlines()[0]) from None
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
    """A textual inversion (Gal et al. 2022, arXiv:2208.01618): new words, named by the
    file's key or, failing that, by the file.
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
            encoder, tokenizer = (
                getattr(pipeline, part)
                for part in encoders.get(key, encoders["clip_l"])
            )
            word = path.stem if key in (*encoders, "emb_params") else key
            pipeline.load_textual_inversion(
                tensor, token=word, text_encoder=encoder, tokenizer=tokenizer
            )
    except (ValueError, AttributeError, RuntimeError) as error:
        raise _misfit(
            "embeddings", path, pipeline, str(error).splitlines()[0]
        ) from None


def _open_controlnet(folder: Path, dtype: torch.dtype) -> Any:
    kind = diffusers_folder.of_controlnet(folder)
    return getattr(diffusers, kind).from_pretrained(
        str(folder), dtype=dtype, use_safetensors=True, local_files_only=True
    )


def multiple(pipeline: Any) -> int:
    """Widths and heights are multiples of this: the autoencoder's factor, times the
    patches of a transformer, and of 8.
    """
    scale = next(
        (
            int(getattr(pipeline, name))
            for name in (
                "vae_scale_factor",
                "vae_scale_factor_spatial",
                "vae_spatial_compression_ratio",
            )
            if name in dir(pipeline)
        ),
        1,
    )
    transformer = pipeline.components.get("transformer")
    patch = transformer.config.get("patch_size", 1) if transformer is not None else 1
    processor = next(
        (
            getattr(pipeline, name).config.get("vae_scale_factor", 1)
            for name in ("image_processor", "video_processor")
            if name in dir(pipeline)
        ),
        1,
    )
    return math.lcm(
        8,
        scale * int(patch[-1] if isinstance(patch, (list, tuple)) else patch),
        int(processor),
    )
