"""From a name to weights, through the registered resolvers, and from files to weights.
Imports no torch.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from miaobi.core import bundle, gguf
from miaobi.core.config import read_yaml
from miaobi.core.engine import Weights
from miaobi.core.errors import BadInput, Damaged, NotFound, Unsupported, nearest
from miaobi.core.language import say
from miaobi.core.recipes import all_packaged
from miaobi.core.storage import Location
from miaobi.models import single_file
from miaobi.models.formats import format_of, format_of_file
from miaobi.models.resolvers import (
    Resolver,
    listed_names,
    resolver_of,
    resolvers,
)

PIPELINE = "model_index.json"
"""The file that only a Diffusers folder has."""
LOOSE = (".safetensors", ".ckpt", ".pt", ".pth", ".bin")
"""Endings of weights that are not enough without a configuration."""


def find(name: str) -> Weights:
    """Return the weights called `name`, from the first resolver that knows it.

    Raises NotFound with the nearest names, or what is wrong with the files.
    """
    for resolver in _resolvers_for(name):
        weights = resolver.resolve(name)
        if weights is not None:
            return weights
    other = resolver_of(name)
    if other is not None:
        raise NotFound(
            say(f"There is no model named {name!r}.", f"没有名为 {name!r} 的模型。"),
            nearest(name, other.names()),
        )
    if "/" in name or Path(name).suffix:
        raise NotFound(
            say(f"There is no file or folder {name}.", f"文件或文件夹 {name} 不存在。"),
            say(
                "Check the path; `miaobi models list` shows the models in the store.",
                "请检查路径；`miaobi models list` 列出模型库中的模型。",
            ),
        )
    command = command_of_recipe(name)
    if command:
        raise NotFound(
            say(
                f"There is no model named {name!r}; it is a recipe, by which one is made.",
                f"没有名为 {name!r} 的模型；它是一个配方，可用来训练模型。",
            ),
            command,
        )
    raise NotFound(
        say(f"There is no model named {name!r}.", f"没有名为 {name!r} 的模型。"),
        nearest(name, listed_names())
        or say(
            "`miaobi models list` and `miaobi data list` show what there is.",
            "用 `miaobi models list` 与 `miaobi data list` 查看可用的模型。",
        ),
    )


def command_of_recipe(name: str) -> str:
    """Return the command that makes the model of a packaged recipe, which is named as
    its model or as its file; "" where no recipe is.
    """
    name = name.partition("@")[0].lower()
    for path, file in all_packaged():
        recipe = read_yaml(file)
        stem = file.stem.replace("_", "-")
        if name.replace("_", "-") in (recipe.get("name"), stem):
            verb = "train" if "family" in recipe else "finetune"
            return f"miaobi {verb} {path}"
    return ""


def _resolvers_for(name: str) -> Iterator[Resolver]:
    """The built-in resolvers in the order of their table; in place of the hub, whose
    ids look alike, that of another package for a name under its prefix.
    """
    other = resolver_of(name)
    for built_in in resolvers.built_in():
        if built_in == "hub" and other is not None:
            yield other
        else:
            yield resolvers.get(built_in)


def of_path(path: Path, name: str = "") -> Weights:
    """Return the weights in a file or folder, recognised by its content.

    Raises BadInput or Damaged when it is no model.
    """
    name = name or path.stem
    if path.is_file():
        return _of_file(path, name)
    weights_of = format_of(path)
    if weights_of is not None:
        return weights_of(path, name)
    inside = sorted(path.glob("*.gguf"))
    if len(inside) == 1:
        return of_path(inside[0], name)
    for file in sorted(path.iterdir()):
        if file.suffix in LOOSE:
            single_file.refuse(file)
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


def of_bundle(path: Location, name: str, version: str = "") -> Weights:
    """Return the weights of a folder written here, with its manifest, read once here."""
    manifest = bundle.read(path)
    return Weights(
        "bundle",
        str(path),
        name,
        version,
        manifest.family,
        manifest.modality,
        manifest,
    )


def _of_file(path: Path, name: str) -> Weights:
    """Return the weights of a GGUF file, or of a format by its ending. Raises Damaged or
    BadInput for another file.
    """
    if path.stat().st_size == 0:
        raise Damaged(
            say(f"{path} is empty.", f"{path} 是空文件。"),
            say("Copy or download it again.", "请重新复制或下载。"),
        )
    weights_of = format_of_file(path)
    if weights_of is not None:
        return weights_of(path, name)
    with path.open("rb") as file:
        is_gguf = file.read(4) == gguf.MAGIC
    if not is_gguf:
        single_file.refuse(path)
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


def configured_context(config: Mapping[str, Any]) -> int | None:
    """Return the tokens that a model holds by its config.json; None where none are said."""
    for key in ("max_position_embeddings", "n_positions", "max_seq_len"):
        if config.get(key):
            return int(config[key])
    return None


def context_length_of(weights: Weights) -> int | None:
    """Return the tokens of prompt and answer together that a model was trained for.

    None where its files do not say. Nothing is opened.
    """
    if weights.format == "gguf":
        return gguf.read(weights.path).of_model("context_length") or None
    config = weights.path / "config.json"
    return configured_context(read_json(config)) if config.exists() else None


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
