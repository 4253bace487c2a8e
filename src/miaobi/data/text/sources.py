"""Opening the source that a configuration names, and telling its content from any other's."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from miaobi.core.errors import BadInput
from miaobi.core.language import say
from miaobi.core.registry import Registry
from miaobi.data import packs
from miaobi.data.cache import content_hash
from miaobi.data.encoding import Report
from miaobi.data.text import files
from miaobi.data.text.documents import Document

if TYPE_CHECKING:
    from miaobi.data.text.config import Config

sources: Registry[Callable[[str], Iterator[Document]]] = Registry(
    "sources",
    {
        "files": "miaobi.data.text.files:read",
        "pack": "miaobi.data.packs:read",
    },
)
"""What reads documents, by the name of the source: called with a path or a pack's name."""


def name_of(config: Config) -> str:
    """The source's registered name. Raises BadInput when path and pack leave it open or
    contradict each other.
    """
    packs.check_one(config.path, config.pack, "my.txt", "chinese-poetry")
    source = config.source or ("pack" if config.pack else "files")
    if (source == "pack") != bool(config.pack):
        raise BadInput(
            say(
                f"source is {source!r}, which does not go with {'pack' if config.pack else 'path'}.",
                f"source 为 {source!r}，与 {'pack' if config.pack else 'path'} 不符。",
            ),
            say("Leave source out.", "请去掉 source。"),
        )
    for key in ("text_column", "separator"):
        if getattr(config, key) is not None and source != "files":
            raise BadInput(
                say(
                    f"{key} is for the files source, not for {source}.",
                    f"{key} 只用于 files，不能用于 {source}。",
                ),
                say(f"Leave {key} out.", f"请去掉 {key}。"),
            )
    return source


def documents(config: Config, report: Report) -> Iterator[Document]:
    """The documents of a configuration's source, at most max_documents of them."""
    source = name_of(config)
    if source == "files":
        separator = config.separator and config.separator.replace("\\n", "\n").replace(
            "\\t", "\t"
        )
        found = files.read(
            config.path,
            text_column=config.text_column,
            separator=separator,
            strict=config.strict,
            report=report,
        )
    else:
        found = sources.get(source)(config.pack or config.path)
    return _first(found, config.max_documents) if config.max_documents else found


def _first(found: Iterator[Document], count: int) -> Iterator[Document]:
    """The first `count` documents; the parts of a long one count as one."""
    for document in found:
        yield document
        count -= not document.continues
        if not count:
            return


def identity(config: Config, root: Path) -> str:
    """A name for the source's content, the same wherever it lies."""
    source = name_of(config)
    if source == "pack":
        return packs.get(config.pack).identity
    path = Path(config.path).expanduser()
    return f"{source}:{content_hash(path, files.files_in(path), root)}"
