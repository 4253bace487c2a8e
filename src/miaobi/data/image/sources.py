"""Opening the source of pictures that a configuration names, and identifying its
content.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from miaobi.core import storage
from miaobi.core.errors import BadInput, NotFound, nearest
from miaobi.core.language import say
from miaobi.data import packs, readers
from miaobi.data.cache import content_hash
from miaobi.data.encoding import Report
from miaobi.data.image import folders, idx, loaders, tables
from miaobi.data.image.config import Config
from miaobi.data.image.record import Picture
from miaobi.data.text import files

TABLES = (b"PAR1", b"ARROW1", b"\xff\xff\xff\xff")
"""How Parquet, Arrow files and Arrow streams begin."""


def pictures(config: Config, report: Report) -> Iterator[Picture]:
    """Yield the pictures of a configuration's source, at most max_pictures of them.

    Raises NotFound, BadInput.
    """
    source: Iterator[Picture]
    if config.pack:
        source = loaders.read(config.pack)
    else:
        path = _path(config)
        read = readers.get(config.source or _kind(path), within="image/")
        source = read(path, report)
    return islice(source, config.max_pictures or None)


def identity(config: Config, root: Path) -> str:
    """Return a name for the source's content, the same wherever it lies.

    Args:
        config: names the source
        root: where the digests of files are remembered

    Raises BadInput when path and pack are both or neither named, or contradict source.
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
    kind = config.source or _kind(path)
    if path.is_dir():
        digest = content_hash(path, folders.visible(path), root)
    elif kind == "idx":
        digest = content_hash(path.parent, idx.beside(path), root)
    else:
        digest = content_hash(path.parent, [path], root)
    return f"{kind}:{digest}"


def kind_of(path: Path) -> str | None:
    """Return the reader of what lies at `path`, as a recipe names it; None where there
    are no pictures.
    """
    if path.is_file():
        return _kind_of_file(path)
    visible = folders.visible(path)
    pictures = sum(map(folders.is_picture, visible))
    if pictures:
        texts = sum(map(_is_text, visible))
        if texts > pictures:
            return None
        return "pairs" if folders.are_pairs(path) else "folder"
    table_files = tables.files_in(path)
    if table_files and _has_pictures(table_files[0]):
        return "tables"
    return "idx" if idx.files_in(path) else None


def _kind_of_file(path: Path) -> str | None:
    if idx.is_file(path):
        return "idx"
    return "tables" if _has_pictures(path) else None


def _is_text(file: Path) -> bool:
    """Whether a file beside pictures is text to learn from, and no metadata."""
    return file.suffix.lower() in files.FORMATS and file.name not in folders.METADATA


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
    path = storage.local(config.path)
    if not path.exists():
        siblings = list[str]()
        if path.parent.is_dir():
            names = [item.name for item in path.parent.iterdir()]
            siblings = [name for name in names if not name.startswith(".")]
        raise NotFound(
            say(f"There is no folder or file {path}.", f"{path} 不存在。"),
            nearest(path.name, siblings) or say("Check the path.", "请检查路径。"),
        )
    return path


def _has_pictures(file: Path) -> bool:
    """Whether it is a table with a picture column; a damaged one counts as such where
    its name says so.
    """
    by_name = file.suffix == ".arrow"
    with file.open("rb") as handle:
        magic = handle.read(6)
    if not magic.startswith(TABLES):
        return by_name
    import pyarrow

    try:
        return tables.columns_of(file) is not None
    except (pyarrow.ArrowInvalid, OSError):
        return by_name
