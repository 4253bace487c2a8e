"""Opening the source of pictures that a configuration names, and telling its content from any other's."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from miaobi.core.errors import BadInput
from miaobi.core.language import say
from miaobi.data import packs
from miaobi.data.encoding import Report
from miaobi.data.picture_record import Picture

if TYPE_CHECKING:
    from miaobi.data.pictures import Config


def pictures(config: Config, report: Report) -> Iterator[Picture]:
    """The pictures of a configuration's source, at most max_pictures of them."""
    found = packs.pictures(config.pack)
    return islice(found, config.max_pictures or None)


def identity(config: Config, root: Path) -> str:
    """A name for the source's content, the same wherever it lies."""
    if bool(config.path) == bool(config.pack):
        raise BadInput(say("path and pack are both given.", "path 与 pack 同时给出。") if config.path else say("No data is named.", "没有指定数据。"),
                       say("Give one of them: --data.path ./photos, or --data.pack digits.", "请二选一：--data.path ./photos 或 --data.pack digits。"))
    return packs.get(config.pack).identity
