"""Opening the source of pictures that a configuration names, and telling its content
from any other's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from miaobi.core.errors import BadInput, NotFound, nearest
from miaobi.core.language import say
from miaobi.core.registry import Registry
from miaobi.data import packs
from miaobi.data.cache import content_hash
from miaobi.data.encoding import Report
from miaobi.data.image import folders as picture_folders
from miaobi.data.image import idx
from miaobi.data.image import tables as picture_tables
from miaobi.data.image.record import Picture
from miaobi.data.text import files

if TYPE_CHECKING:
    from miaobi.data.image.config import Config

picture_sources: Registry[Callable[[Path, Report], Iterator[Picture]]] = Registry(
    "picture_sources",
    {
        "folder": "miaobi.data.image.folders:read",
        "pairs": "miaobi.data.image.folders:pairs",
        "tables": "miaobi.data.image.tables:read",
        "idx": "miaobi.data.image.idx:read",
    },
)
"""What reads pictures, by the name of the source: called with a path and a report."""


def pictures(config: Config, report: Report) -> Iterator[Picture]:
    """The pictures of a configuration's source, at most max_pictures of them. Raises
    NotFound, BadInput.
    """
    found: Iterator[Picture]
    if config.pack:
        found = packs.pictures(config.pack)
    else:
        path = _path(config)
        found = picture_sources.get(config.source or _kind(path))(path, report)
    return islice(found, config.max_pictures or None)


def identity(config: Config, root: Path) -> str:
    """A name for the source's content, the same wherever it lies. Raises BadInput when
    path and pack leave it open or contradict.
    """
    packs.check_one(config.path, config.pack, "./photos", "digits")
    if config.pack:
        if config.source:
            raise BadInput(
                say(
                    f"source is {config.source!r}, but a pack has a reader of its own.",
                    f"source 为 {config.source!r}，但资源包有自己的读取方式。",
                ),
                say("Leave source out.", "请去掉 source。"),
            )
        return packs.get(config.pack).identity
    path = _path(config)
    source = config.source or _kind(path)
    found = (
        picture_folders.visible(path)
        if path.is_dir()
        else idx.beside(path)
        if source == "idx"
        else [path]
    )
    return (
        f"{source}:{content_hash(path if path.is_dir() else path.parent, found, root)}"
    )


def kind_of(path: Path) -> str | None:
    """The reader for what lies at `path`: a name in the picture_sources registry, or
    None where there are no pictures.
    """
    if path.is_file():
        return "idx" if idx.is_file(path) else "tables" if _has_pictures(path) else None
    seen = picture_folders.visible(path)
    count = sum(map(picture_folders.is_picture, seen))
    if count:
        words = [
            file
            for file in seen
            if file.suffix.lower() in files.FORMATS
            and file.name not in picture_folders.METADATA
        ]
        return (
            None
            if len(words) > count
            else "pairs"
            if picture_folders.are_pairs(path)
            else "folder"
        )
    tables = picture_tables.files_in(path)
    if tables and _has_pictures(tables[0]):
        return "tables"
    return "idx" if idx.files_in(path) else None


def _kind(path: Path) -> str:
    kind = kind_of(path)
    if kind is None:
        raise BadInput(
            say(f"{path} holds no pictures.", f"{path} 中没有图片。"),
            say(
                "Give a folder of PNG, JPEG, WebP, GIF, BMP or TIFF files, Parquet with pictures, or IDX files.",
                "请给出含 PNG、JPEG、WebP、GIF、BMP 或 TIFF 的文件夹、含图片的 Parquet，或 IDX 文件。",
            ),
        )
    return kind


def _path(config: Config) -> Path:
    path = Path(config.path).expanduser()
    if not path.exists():
        siblings = (
            [item.name for item in path.parent.iterdir() if item.name[0] != "."]
            if path.parent.is_dir()
            else []
        )
        raise NotFound(
            say(f"There is no folder or file {path}.", f"{path} 不存在。"),
            nearest(path.name, siblings) or say("Check the path.", "请检查路径。"),
        )
    return path


def _has_pictures(file: Path) -> bool:
    """Whether it is a table with a picture column; a damaged one counts as such where
    its name says so.
    """
    with file.open("rb") as handle:
        start = handle.read(6)
    if not start.startswith((b"PAR1", b"ARROW1", b"\xff\xff\xff\xff")):
        return file.suffix == ".arrow"
    import pyarrow

    try:
        return picture_tables.columns_of(file) is not None
    except (pyarrow.ArrowInvalid, OSError):
        return file.suffix == ".arrow"
