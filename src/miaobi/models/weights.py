"""From a name to weights: the store, the starter packs, a path, a URL, a hub id.
Imports no torch.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from miaobi.core import bundle, gguf
from miaobi.core.engine import Weights
from miaobi.core.errors import (
    BadInput,
    Damaged,
    MissingPart,
    NotFound,
    Unsupported,
    nearest,
)
from miaobi.core.language import say
from miaobi.core.store import NAME, Store

PIPELINE = "model_index.json"
"""The file that only a Diffusers folder has."""
FETCHED = (".safetensors", ".json", ".jinja", ".model", ".txt")
"""Endings of the files that are fetched from a hub."""
VARIANTS = ["*.fp16*", "*.bf16*", "*non_ema*"]
"""Pipelines are often published several times: in half precision, before averaging. These
are not fetched.
"""


def find(name: str) -> Weights:
    """Return the weights called `name`.

    Raises NotFound with the nearest names, or what is wrong with the files.
    """
    if name.startswith(("http://", "https://")):
        return Weights("url", name.rstrip("/"), name.rstrip("/"))
    path = Path(name).expanduser()
    reference, _, _ = name.partition("@")
    if NAME.fullmatch(reference) and reference in Store().names():
        version = Store().resolve(name)
        manifest = bundle.read(version.path)
        return Weights(
            "bundle",
            str(version.path),
            version.name,
            str(version.number),
            manifest.family,
            manifest.modality,
        )
    if NAME.fullmatch(name) and name in _packed():
        return _of_pack(name)
    if path.exists():
        return of_path(path)
    if _is_hub_id(name) and path.suffix != ".gguf":
        return of_path(_from_hub(name), name)
    if "/" in name or path.suffix:
        raise NotFound(
            say(f"There is no file or folder {name}.", f"文件或文件夹 {name} 不存在。"),
            say(
                "Check the path; `miaobi models list` shows the models in the store.",
                "请检查路径；`miaobi models list` 列出模型库中的模型。",
            ),
        )
    raise NotFound(
        say(f"There is no model named {name!r}.", f"没有名为 {name!r} 的模型。"),
        nearest(name, [*Store().names(), *_packed()])
        or say(
            "`miaobi models list` and `miaobi data list` show what there is.",
            "用 `miaobi models list` 与 `miaobi data list` 查看可用的模型。",
        ),
    )


def _is_hub_id(name: str) -> bool:
    """Whether a name has the form of a hub id: owner/model."""
    return name.count("/") == 1 and not name.startswith((".", "/", "~"))


def of_path(path: Path, name: str = "") -> Weights:
    """Return the weights in a file or folder, recognised by its content.

    Raises BadInput or Damaged when it is no model.
    """
    name = name or path.stem
    if path.is_file():
        return _of_file(path, name)
    if (path / bundle.MANIFEST).exists():
        manifest = bundle.read(path)
        return Weights(
            "bundle",
            str(path),
            name,
            family=manifest.family,
            modality=manifest.modality,
        )
    if (path / PIPELINE).exists():
        return Weights("diffusers", str(path), name, modality="image")
    if (path / "openvino_model.xml").exists():
        return Weights("openvino", str(path), name)
    if (path / "config.json").exists():
        refuse_foreign_code(read_json(path / "config.json"), name)
        return Weights("transformers", str(path), name)
    inside = sorted(path.glob("*.gguf"))
    if len(inside) == 1:
        return of_path(inside[0], name)
    raise BadInput(
        say(
            f"{path} holds no model that is known here.", f"{path} 中没有可识别的模型。"
        ),
        say(
            "Expected miaobi.json (made by `miaobi train`), config.json (Transformers), model_index.json (Diffusers), "
            "openvino_model.xml, or one .gguf file.",
            "应包含 miaobi.json（由 `miaobi train` 生成）、config.json（Transformers）、model_index.json（Diffusers）、"
            "openvino_model.xml，或单个 .gguf 文件。",
        ),
    )


def _of_file(path: Path, name: str) -> Weights:
    """Return the weights of a GGUF file. Raises Damaged or BadInput for another file."""
    if path.stat().st_size == 0:
        raise Damaged(
            say(f"{path} is empty.", f"{path} 是空文件。"),
            say("Copy or download it again.", "请重新复制或下载。"),
        )
    gguf.read(path)
    return Weights("gguf", str(path), name)


def bos_token_of(weights: Weights) -> str:
    """Return the text of the token before every document that a model was trained on
    here; empty for other models.
    """
    path = weights.path / "tokenizer_config.json"
    if weights.format != "bundle" or weights.family == "tuned" or not path.exists():
        return ""
    return str(read_json(path).get("bos_token") or "")


def read_json(path: Path) -> dict[str, Any]:
    """Return the contents of a model folder's JSON file. Raises NotFound or Damaged."""
    if not path.exists():
        raise NotFound(
            say(
                f"{path.parent} has no {path.name}.",
                f"{path.parent} 中没有 {path.name}。",
            ),
            say(
                "Copy or download the whole model folder again.",
                "请重新复制或下载整个模型文件夹。",
            ),
        )
    try:
        contents: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise Damaged(
            say(
                f"{path} is not valid JSON: {error}.",
                f"{path} 不是有效的 JSON：{error}。",
            ),
            say("Copy or download it again.", "请重新复制或下载。"),
        ) from None
    return contents


def refuse_foreign_code(config: dict[str, Any], name: str) -> None:
    """Raise Unsupported for a checkpoint that needs Python code of its own."""
    if config.get("auto_map"):
        raise Unsupported(
            say(
                f"{name} needs Python code of its own (auto_map in config.json), which is never run here.",
                f"{name} 需要运行自带的 Python 代码（config.json 中的 auto_map），此处绝不运行。",
            ),
            say(
                "Choose a model of an architecture that Transformers itself supports, or a GGUF file of it.",
                "请选用 Transformers 自身支持的架构，或该模型的 GGUF 文件。",
            ),
        )


def _packed() -> list[str]:
    """Return the names of the packaged models."""
    from miaobi.data import packs

    return [name for name, pack in packs.catalogue().items() if pack.kind == "model"]


def _of_pack(name: str) -> Weights:
    """Return a packaged model, of the catalogue's format or its file's."""
    from miaobi.data import packs

    kind = packs.get(name).format
    if kind == "base":
        raise Unsupported(
            say(
                f"{name} is a base to tune; by itself it makes nothing.",
                f"{name} 是用于微调的基础模型，本身不能生成内容。",
            ),
            f"miaobi finetune --base {name} --task text-classification --data mine.csv --name mine",
        )
    if kind == "part":
        models = [
            other
            for other in _packed()
            if packs.get(other).format not in ("part", "base")
        ]
        raise Unsupported(
            say(
                f"{name} evaluates pictures and generates nothing.",
                f"{name} 只用于评判图片，不能生成内容。",
            ),
            nearest("", models),
        )
    path = packs.path(name)
    if kind:
        return Weights(kind, str(path), name, modality="image")
    return of_path(path, name)


def part(name: str | os.PathLike[str], option: str) -> Path:
    """Return the file or folder that an engine's option names. Raises NotFound.

    Args:
        name: a path, or a hub id, of which the safetensors are fetched.
        option: the option's name, for the error.
    """
    path = Path(name).expanduser()
    if path.exists():
        return path
    text = os.fspath(name)
    if _is_hub_id(text) and not path.suffix:
        return _snapshot(
            text,
            allow_patterns=["*.safetensors", "*.json"],
            ignore_patterns=VARIANTS,
        )
    raise NotFound(
        say(
            f"{option}: there is no file or folder {path}.",
            f"{option}：文件或文件夹 {path} 不存在。",
        ),
        say("Check the path.", "请检查路径。"),
    )


def _from_hub(name: str) -> Path:
    """Return the snapshot of a hub repository: safetensors and text files only."""
    index = _snapshot(name, allow_patterns=[PIPELINE]) / PIPELINE
    if not index.exists():
        return _snapshot(name, allow_patterns=[f"*{ending}" for ending in FETCHED])
    # Its own safety checker is never opened: pictures are checked by engines/moderation.
    parts = [
        part
        for part, kind in read_json(index).items()
        if isinstance(kind, list) and part != "safety_checker"
    ]
    files = [f"{part}/*{ending}" for part in parts for ending in FETCHED]
    return _snapshot(name, allow_patterns=[PIPELINE, *files], ignore_patterns=VARIANTS)


def _snapshot(
    name: str, allow_patterns: list[str], ignore_patterns: list[str] | None = None
) -> Path:
    """Return the folder of a hub repository's files, without network if HF_HUB_OFFLINE is set."""
    try:
        from huggingface_hub import snapshot_download
    except ImportError:
        raise MissingPart(
            say(
                f"{name} is a hub id, and huggingface_hub is not installed.",
                f"{name} 是 Hub 上的模型，但未安装 huggingface_hub。",
            ),
            'pip install "miaobi[train]"',
        ) from None
    try:
        folder = snapshot_download(
            name, allow_patterns=allow_patterns, ignore_patterns=ignore_patterns
        )
    except Exception as error:
        setting = os.environ.get("HF_HUB_OFFLINE", "").lower()
        reason = str(error).splitlines()[0]
        if setting in ("1", "true", "yes", "on"):
            reason = say(
                "the network is switched off by HF_HUB_OFFLINE, and it is not in the local cache",
                "HF_HUB_OFFLINE 已关闭网络，且本地缓存中没有它",
            )
        raise NotFound(
            say(
                f"The hub model {name!r} cannot be fetched: {reason}.",
                f"无法获取 Hub 模型 {name!r}：{reason}。",
            ),
            say(
                "Check the id and the network, or give a local path.",
                "请检查名称与网络，或给出本地路径。",
            ),
        ) from None
    return Path(folder)
