"""What a single file of weights is, by its header, and what to do with it.

People bring checkpoints of one file (Stable Diffusion's .safetensors and .ckpt), LoRAs,
embeddings and loose weights of a folder. None of them is a model that opens by itself;
the error says which it is and what the next step is. Pickles are recognised by their
first bytes and never opened. Imports no torch.
"""

from __future__ import annotations

import json
import struct
import zipfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Literal

from miaobi.core.bundle import check_safetensors
from miaobi.core.errors import Unsupported
from miaobi.core.language import say

Kind = Literal[
    "pickle",
    "checkpoint",
    "lora",
    "adapter",
    "controlnet",
    "embedding",
    "weights",
    "unknown",
]
PICKLE = b"\x80"
"""The first byte of what torch.save wrote before 2020; since then it is a zip file."""
LORA = (".lora_A.", ".lora_B.", ".lora_up.", ".lora_down.", "lora_unet_", "lora_te")
EMBEDDING = ("emb_params", "clip_l", "clip_g")
WHOLE: tuple[Kind, ...] = ("pickle", "checkpoint", "controlnet")
MISFITS: dict[str, tuple[Kind, ...]] = {
    "lora": (*WHOLE, "embedding"),
    "embeddings": (*WHOLE, "lora"),
}
"""Kinds of file that an option does not take."""


def kind_of(path: Path) -> Kind:
    """Return what a file is. Raises Damaged for a safetensors file that is cut short."""
    with path.open("rb") as file:
        head = file.read(9)
    if head[8:9] != b"{":
        return "pickle" if _is_pickle(path, head) else "unknown"
    check_safetensors(path)
    return _kind_of_keys(_keys(path))


def _is_pickle(path: Path, head: bytes) -> bool:
    if head.startswith(PICKLE):
        return True
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any(name.endswith("data.pkl") for name in archive.namelist())


def _keys(path: Path) -> list[str]:
    """Return the names of the tensors of a safetensors file."""
    with path.open("rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        header = json.loads(file.read(length))
    return [key for key in header if key != "__metadata__"]


def _kind_of_keys(keys: Iterable[str]) -> Kind:
    names = list(keys)

    def any_begins(*prefixes: str) -> bool:
        return any(name.startswith(prefixes) for name in names)

    if any(part in name for name in names for part in LORA):
        return "adapter" if any_begins("base_model.model.") else "lora"
    if any_begins("control_model.", "controlnet_"):
        return "controlnet"
    if any_begins("model.diffusion_model.", "first_stage_model."):
        return "checkpoint"
    if any_begins("double_blocks.", "joint_blocks."):
        return "checkpoint"
    if 0 < len(names) <= 2 and all(name in EMBEDDING for name in names):
        return "embedding"
    return "weights" if names else "unknown"


def check_option(path: Path, option: str) -> None:
    """Raise Unsupported where an option (lora, embeddings) names a file of another kind.

    Args:
        path: of the file.
        option: what was to be given there.
    """
    kind = kind_of(path)
    if kind in MISFITS.get(option, WHOLE):
        raise _refusal(kind, path, f"{option}: {path}")


def refuse(path: Path) -> None:
    """Raise Unsupported where a file is recognised and no model by itself."""
    kind = kind_of(path)
    if kind != "unknown":
        raise _refusal(kind, path, str(path))


def _refusal(kind: Kind, path: Path, where: str) -> Unsupported:
    what, remedy = SENTENCES[kind](path)
    return Unsupported(f"{where} {what}", remedy)


def _pickle(path: Path) -> tuple[str, str]:
    return (
        say(
            "is a pickle, which can run code when opened, so it is not read.",
            "是 pickle 文件，打开时可能执行代码，因此不予读取。",
        ),
        say(
            "Take the .safetensors of the same model; or convert it on a machine that may be lost: "
            f'diffusers.StableDiffusionPipeline.from_single_file("{path.name}").save_pretrained("{path.stem}"), '
            "and give that folder.",
            "请改用同一模型的 .safetensors；或在隔离的机器上转换："
            f'diffusers.StableDiffusionPipeline.from_single_file("{path.name}").save_pretrained("{path.stem}")，'
            "再给出该文件夹。",
        ),
    )


def _checkpoint(path: Path) -> tuple[str, str]:
    return (
        say(
            "is a whole diffusion model in one file; folders in Diffusers' layout are opened.",
            "是单文件的扩散模型；此处打开的是 Diffusers 布局的文件夹。",
        ),
        say(
            "Convert it once, where the network is (it fetches the configuration): "
            f'diffusers.StableDiffusionPipeline.from_single_file("{path.name}").save_pretrained("{path.stem}"), '
            "with StableDiffusionXLPipeline, StableDiffusion3Pipeline or FluxPipeline for those; then give the folder.",
            "请在有网络处转换一次（需获取配置）："
            f'diffusers.StableDiffusionPipeline.from_single_file("{path.name}").save_pretrained("{path.stem}")，'
            "XL、SD3、FLUX 请用相应的 Pipeline 类；然后给出该文件夹。",
        ),
    )


def _lora(path: Path) -> tuple[str, str]:
    return (
        say(
            "is a LoRA: it changes a diffusion model and is none by itself.",
            "是 LoRA：它用于修改扩散模型，本身不是模型。",
        ),
        say(
            f"Give it beside the model that it was made for: miaobi generate image --model FOLDER --lora {path}",
            f"请与其对应的模型一同给出：miaobi generate image --model FOLDER --lora {path}",
        ),
    )


def _adapter(path: Path) -> tuple[str, str]:
    return (
        say(
            "is an adapter in PEFT's layout, without its settings and its base.",
            "是 PEFT 布局的适配器，缺少其设置与基础模型。",
        ),
        say(
            "Merge it with PEFT (merge_and_unload, save_pretrained), and give that folder.",
            "请用 PEFT 合并（merge_and_unload、save_pretrained），再给出该文件夹。",
        ),
    )


def _controlnet(path: Path) -> tuple[str, str]:
    return (
        say("is a ControlNet in one file.", "是单文件的 ControlNet。"),
        say(
            f'Convert it: diffusers.ControlNetModel.from_single_file("{path.name}").save_pretrained("{path.stem}"); '
            f"then give it beside a model: --controlnet {path.stem}",
            f'请转换：diffusers.ControlNetModel.from_single_file("{path.name}").save_pretrained("{path.stem}")；'
            f"再与模型一同给出：--controlnet {path.stem}",
        ),
    )


def _embedding(path: Path) -> tuple[str, str]:
    return (
        say(
            "is a textual inversion: new words for a diffusion model.",
            "是文本反演：为扩散模型添加的新词。",
        ),
        say(
            f"Give it beside the model: miaobi generate image --model FOLDER --embeddings {path}",
            f"请与模型一同给出：miaobi generate image --model FOLDER --embeddings {path}",
        ),
    )


def _weights(path: Path) -> tuple[str, str]:
    return (
        say(
            "holds weights without the config.json that says what they are of.",
            "只含权重，缺少说明其结构的 config.json。",
        ),
        say(
            f"Give the whole folder of the model, not a file of it: {path.parent}",
            f"请给出模型的整个文件夹，而不是其中的文件：{path.parent}",
        ),
    )


SENTENCES: dict[Kind, Callable[[Path], tuple[str, str]]] = {
    "pickle": _pickle,
    "checkpoint": _checkpoint,
    "lora": _lora,
    "adapter": _adapter,
    "controlnet": _controlnet,
    "embedding": _embedding,
    "weights": _weights,
}
"""What each kind is, and the next step."""
