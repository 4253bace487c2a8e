"""Opening the source of pictures that a configuration names, and identifying its
content.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from miaobi.core import storage
from miaobi.core.errors import BadInput, NotFound, nearest
from miaobi.core.language import joined, say
from miaobi.data import packs, readers
from miaobi.data.cache import content_hash
from miaobi.data.encoding import Report
from miaobi.data.image import folders, idx, loaders, metadata, pairs, tables
from miaobi.data.image.config import Config
from miaobi.data.image.listing import by_ending, is_picture, listing, visible
from miaobi.data.image.record import Picture
from miaobi.data.text import files

TABLES = (b"PAR1", b"ARROW1", b"\xff\xff\xff\xff")
"""How Parquet, Arrow files and Arrow streams begin."""
READING = {"folder": 2, "pairs": 2}
"""Counts the changes in how a source is read, so that none is taken from what an
earlier version prepared.
"""


def pictures(config: Config, report: Report) -> Iterator[Picture]:
    """Yield the pictures of a configuration's source, at most max_pictures of them.

    Raises NotFound, BadInput.
    """
    source: Iterator[Picture]
    if config.pack:
        source = loaders.read(config.pack)
    else:
        path = _path(config)
        read = readers.get(reader_of(config, path), within="image/")
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
    kind = reader_of(config, path)
    if path.is_dir():
        digest = content_hash(path, visible(path), root)
    elif kind == "idx":
        digest = content_hash(path.parent, idx.beside(path), root)
    else:
        digest = content_hash(path.parent, [path], root)
    return f"{kind}{READING.get(kind, '')}:{digest}"


def reader_of(config: Config, path: Path) -> str:
    """Return the reader that a configuration names, or what lies at `path` asks for.

    Raises BadInput where there are no pictures.
    """
    if config.source:
        return config.source
    kind = kind_of(path, pairs_wanted=config.pairs)
    if kind is None:
        raise BadInput(
            say(f"{path} holds no pictures.", f"{path} 中没有图片。"),
            say(
                "Give a folder of PNG, JPEG, WebP, GIF, BMP or TIFF files, Parquet with pictures, or IDX files.",
                "请给出含 PNG、JPEG、WebP、GIF、BMP 或 TIFF 的文件夹、含图片的 Parquet，或 IDX 文件。",
            ),
        )
    return kind


def holds(path: Path) -> bool:
    """Return whether pictures lie at `path`; not where there are more texts than they,
    apart from those that describe them.
    """
    kind = kind_of(path)
    if kind not in ("folder", "pairs"):
        return kind is not None
    content = listing(path)
    by_key = metadata.pictures_by_key(content)
    described = metadata.descriptions(content, by_key).files
    texts = [file for file in content.files if _is_text(file) and file not in described]
    return len(texts) <= len(by_key) or bool(described)


def kind_of(path: Path, pairs_wanted: bool = False) -> str | None:
    """Return the reader of what lies at `path`, as a recipe names it; None where there
    are no pictures.

    Args:
        path: a file or folder
        pairs_wanted: the model needs pairs: they need not stand alone, and may be side
            by side
    """
    if path.is_file():
        return _kind_of_file(path)
    if listing(path).pictures:
        if pairs.are_pairs(path, pairs_wanted):
            return "pairs"
        if pairs_wanted and pairs.are_side_by_side(path):
            return "side-by-side"
        return "folder"
    table_files = tables.files_in(path)
    if table_files and _has_pictures(table_files[0]):
        return "tables"
    return "idx" if idx.files_in(path) else None


def remarks(config: Config) -> list[str]:
    """Return what a user should know of how the source of a configuration is read,
    beyond its problems: its layout, and what is passed over.
    """
    if config.pack:
        return []
    path = _path(config)
    kind = reader_of(config, path)
    if not path.is_dir() or kind not in ("folder", "pairs", "side-by-side"):
        return []
    content = listing(path)
    notes = list[str]()
    used = set[Path]()
    if kind == "pairs":
        notes = pairs.remarks(path)
    elif kind == "side-by-side":
        notes.append(
            say(
                "pairs side by side: the left half is the source, the right half the target",
                "左右拼接的成对图片：左半为源图，右半为目标",
            )
        )
    elif kind == "folder":
        by_key = metadata.pictures_by_key(content)
        texts = metadata.descriptions(content, by_key)
        notes = folders.remarks(by_key, texts)
        used = texts.files
    others = [
        file for file in content.files if not is_picture(file) and file not in used
    ]
    endings = by_ending(others).most_common()
    if endings:
        counts = [
            (ending or say("no ending", "无扩展名")) + f" ({count:,})"
            for ending, count in endings
        ]
        notes.append(say("passed over: ", "略过的文件：") + joined(counts, ", "))
    if content.empty:
        names = ", ".join(str(folder.relative_to(path)) for folder in content.empty)
        notes.append(say(f"empty folders: {names}", f"空文件夹：{names}"))
    return notes


def _kind_of_file(path: Path) -> str | None:
    if idx.is_file(path):
        return "idx"
    return "tables" if _has_pictures(path) else None


def _is_text(file: Path) -> bool:
    return file.suffix.lower() in files.FORMATS


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
