"""Opening the source of text that a configuration names, and identifying its content."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Protocol, runtime_checkable

from miaobi.core import storage
from miaobi.core.errors import BadInput
from miaobi.core.language import say
from miaobi.data import packs, readers
from miaobi.data.cache import content_hash
from miaobi.data.encoding import Report
from miaobi.data.text import files
from miaobi.data.text.config import Config
from miaobi.data.text.documents import Document


@runtime_checkable
class IdentifiesContent(Protocol):
    """A reader of something else than text files."""

    def identity(self, path: str, root: Path) -> str:
        """Return a name for the content at `path`.

        root: where the digests of files are remembered.
        """
        ...


def name_of(config: Config) -> str:
    """Return the source's registered name.

    Raises BadInput when path and pack are both or neither named, or contradict the
    other settings.
    """
    packs.check_one(config.path, config.pack, "my.txt", "chinese-poetry")
    source = config.source or ("pack" if config.pack else "files")
    if (source == "pack") != bool(config.pack):
        named = "pack" if config.pack else "path"
        raise BadInput(
            say(
                f"source is {source!r}, which does not go with {named}.",
                f"source 为 {source!r}，与 {named} 不符。",
            ),
            say("Leave source out.", "请去掉 source。"),
        )
    if source != "files":
        _check_unset("text_column", config.text_column, source)
        _check_unset("separator", config.separator, source)
        _check_unset("encoding", config.encoding or None, source)
    return source


def _check_unset(key: str, value: str | None, source: str) -> None:
    if value is not None:
        raise BadInput(
            say(
                f"{key} is for the files source, not for {source}.",
                f"{key} 只用于 files，不能用于 {source}。",
            ),
            say(f"Leave {key} out.", f"请去掉 {key}。"),
        )


def documents(config: Config, report: Report) -> Iterator[Document]:
    """Yield the documents of a configuration's source, at most max_documents of them."""
    name = name_of(config)
    source: Iterator[Document]
    if name == "files":
        source = files.read(
            config.path,
            text_column=config.text_column,
            separator=unescaped(config.separator),
            strict=config.strict,
            report=report,
            encoding=config.encoding,
        )
    else:
        source = readers.get(name, within="text/")(config.pack or config.path)
    if config.max_documents:
        return _first(source, config.max_documents)
    return source


def unescaped(separator: str | None) -> str | None:
    """Return a separator that was typed with "\\n" for a line end and "\\t" for a tab."""
    if separator is None:
        return None
    return separator.replace("\\n", "\n").replace("\\t", "\t")


def _first(source: Iterator[Document], count: int) -> Iterator[Document]:
    """The first `count` documents; the parts of a long one count as one."""
    for document in source:
        yield document
        if not document.continues:
            count -= 1
        if not count:
            return


def identity(config: Config, root: Path) -> str:
    """Return a name for the source's content, the same wherever it lies.

    root: where the digests of files are remembered.
    """
    source = name_of(config)
    if source == "pack":
        return packs.get(config.pack).identity
    reader = readers.get(source, within="text/")
    if isinstance(reader, IdentifiesContent):
        return f"{source}:{reader.identity(config.path, root)}"
    path = storage.location(config.path)
    return f"{source}:{content_hash(path, files.files_in(path), root)}"
