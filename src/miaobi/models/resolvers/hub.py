"""Models of the Hugging Face hub, fetched when they are not here yet: owner/model."""

from __future__ import annotations

import os
from pathlib import Path

from miaobi.core.engine import Weights
from miaobi.core.errors import MiaobiError, MissingPart, NotFound
from miaobi.core.language import say
from miaobi.models.resolvers import store
from miaobi.models.weights import PIPELINE, of_path, read_json

FETCHED = (".safetensors", ".json", ".jinja", ".model", ".txt")
"""Endings of the files that are fetched from a hub."""
VARIANTS = ["*.fp16*", "*.bf16*", "*non_ema*"]
"""Pipelines are often published several times: in half precision, before averaging. These
are not fetched.
"""


def resolve(name: str) -> Weights | None:
    if not _is_hub_id(name) or Path(name).suffix == ".gguf":
        return None
    return of_path(_from_hub(name), name)


def names() -> list[str]:
    """Return none: the hub has millions."""
    return []


def _is_hub_id(name: str) -> bool:
    """Whether a name has the form of a hub id: owner/model."""
    return name.count("/") == 1 and not name.startswith((".", "/", "~"))


def is_pipeline(name: str) -> bool:
    """Return whether a name in the store, a path or a hub id is a Diffusers folder; of
    the hub, only the small index is fetched.
    """
    path = Path(name).expanduser()
    try:
        stored = store.resolve(name)
        if stored is not None:
            path = stored.path
        elif _is_hub_id(name) and not path.exists():
            path = _snapshot(name, allow_patterns=[PIPELINE])
    except MiaobiError:  # it is named again when the base is opened
        return False
    return (path / PIPELINE).is_file()


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
    folder = _snapshot(name, [PIPELINE, *files], VARIANTS)
    if any(_lacks_weights(folder / part) for part in parts):
        # Published in half precision only.
        folder = _snapshot(name, [PIPELINE, *files], ["*non_ema*"])
    return folder


def _lacks_weights(part: Path) -> bool:
    """Return whether a part has a configuration of a net and no weights."""
    return (part / "config.json").exists() and not any(part.glob("*.safetensors"))


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
        reason = str(error).strip().removesuffix(".")
        if setting in ("1", "true", "yes", "on"):
            reason = say(
                "the network is switched off by HF_HUB_OFFLINE, and it is not in the local cache",
                "HF_HUB_OFFLINE 已关闭网络，且本地缓存中没有它",
            )
        raise NotFound(
            say(
                f"The hub model {name!r} cannot be fetched: ",
                f"无法获取 Hub 模型 {name!r}：",
            )
            + reason
            + say(".", "。"),
            say(
                "Check the id and the network, or give a local path.",
                "请检查名称与网络，或给出本地路径。",
            ),
        ) from None
    return Path(folder)
