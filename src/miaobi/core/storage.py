"""Files that may lie elsewhere: a plain path here, or a URL that fsspec reads
(s3://, gs://, sftp://, memory://, ...), behind the same calls.

On a plain path (or file://) everything is as in core/files.py, and fsspec is not
imported. At a URL there is no rename and no lock, so:

    a file   is written in one piece: an object is there whole or not at all
    a tree   counts as there once its complete.json is, which is written last

What needs a local file (memory-mapped tokens, weights given to an engine) gets a copy
under $MIAOBI_HOME/fetched, named by its URL and version: `local`.
"""

from __future__ import annotations

import fnmatch
import hashlib
import importlib.util
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path, PurePosixPath
from typing import IO, Any, TypeAlias
from urllib.parse import unquote

from miaobi.core import files as disk
from miaobi.core.errors import (
    BadInput,
    Conflict,
    Damaged,
    MiaobiError,
    MissingPart,
    NotFound,
)
from miaobi.core.language import say

MARKER = "complete.json"
"""Of a tree at a URL: {"files": {name: bytes}}, written last."""
WILDCARDS = set("*?[")
TIMES = ("mtime", "LastModified", "last_modified", "updated", "created")
"""Keys of a file's time in the answers of fsspec's file systems."""
LOCK_SECONDS = 120.0
"""A lock at a URL that is older was left by a process that died."""
POLL_SECONDS = 0.2


@dataclass(frozen=True)
class Url:
    """A file or folder elsewhere, with as much of `Path` as readers need."""

    text: str

    def __str__(self) -> str:
        return self.text

    def __truediv__(self, name: str | PurePosixPath) -> Url:
        return Url(f"{self.text.rstrip('/')}/{name}")

    @property
    def _path(self) -> PurePosixPath:
        return PurePosixPath(self.text.partition("://")[2])

    @property
    def parts(self) -> tuple[str, ...]:
        return self._path.parts

    @property
    def name(self) -> str:
        return self._path.name

    @property
    def suffix(self) -> str:
        return self._path.suffix

    @property
    def parent(self) -> Url:
        protocol = self.text.partition("://")[0]
        return Url(f"{protocol}://{self._path.parent}")

    def with_suffix(self, suffix: str) -> Url:
        return self.parent / self._path.with_suffix(suffix).name

    def relative_to(self, folder: Url) -> PurePosixPath:
        return self._path.relative_to(folder._path)


Location: TypeAlias = Path | Url


def location(text: str | Path | Url) -> Location:
    """Return where a text points: a Path for a plain path or file://, else a Url."""
    if isinstance(text, Path | Url):
        return text
    protocol, divider, rest = text.partition("://")
    if not divider:
        return Path(text).expanduser()
    if protocol == "file":
        return Path(unquote(rest))
    return Url(text.rstrip("/"))


def root() -> Location:
    """Return where models, uploads and outputs are stored: $MIAOBI_STORAGE, a folder or
    a URL, or $MIAOBI_HOME.
    """
    text = os.environ.get("MIAOBI_STORAGE")
    return location(text) if text else disk.home()


def absolute(where: Location) -> Location:
    """Return a location that means the same in every working folder."""
    return where.absolute() if isinstance(where, Path) else where


def exists(where: Location) -> bool:
    """Return whether there is a file or folder."""
    if isinstance(where, Path):
        return where.exists()
    with _remote(where) as (system, path):
        return bool(system.exists(path))


def is_folder(where: Location) -> bool:
    """Return whether there is a folder (at a URL: something under this name)."""
    if isinstance(where, Path):
        return where.is_dir()
    with _remote(where) as (system, path):
        return bool(system.isdir(path))


def relative(file: Location, folder: Location) -> str:
    """Return the name of a file within a folder, with "/" between its parts."""
    if isinstance(file, Url):
        assert isinstance(folder, Url)
        return str(file.relative_to(folder))
    assert isinstance(folder, Path)
    return file.relative_to(folder).as_posix()


def is_complete(folder: Location) -> bool:
    """Return whether a tree that `copy_tree` writes is there, whole."""
    return folder.exists() if isinstance(folder, Path) else exists(folder / MARKER)


def read(where: Location) -> bytes:
    """Return the content of a file. Raise FileNotFoundError."""
    if isinstance(where, Path):
        return where.read_bytes()
    with _remote(where) as (system, path):
        content: bytes = system.cat_file(path)
        return content


@contextmanager
def open_read(where: Location) -> Iterator[IO[bytes]]:
    """Open a file for reading; it can seek. Raise FileNotFoundError."""
    if isinstance(where, Path):
        with where.open("rb") as file:
            yield file
        return
    with _remote(where) as (system, path):
        opened = system.open(path, "rb")
    with opened as file:
        yield file


def write(where: Location, content: bytes) -> None:
    """Write a file, whole or not at all, in place of one that is there."""
    if isinstance(where, Path):
        with disk.write_beside(where) as draft:
            draft.write_bytes(content)
    else:
        _put(where, content, mode="overwrite")


def create(where: Location, content: bytes = b"") -> bool:
    """Write a file that must not be there yet; return False where it is.

    Of two that try at the same time one succeeds (O_EXCL; on S3 a conditional put).
    """
    try:
        if isinstance(where, Path):
            where.parent.mkdir(parents=True, exist_ok=True)
            with where.open("xb") as file:
                file.write(content)
        else:
            _put(where, content, mode="create")
    except FileExistsError:
        return False
    return True


def _put(where: Url, content: bytes, mode: str) -> None:
    _writing(where, lambda system, path: system.pipe_file(path, content, mode=mode))


def put(source: Path, where: Url) -> None:
    """Copy a local file to a URL."""
    _writing(where, lambda system, path: system.put_file(str(source), path))


def _writing(where: Url, write_to: Callable[[Any, str], None]) -> None:
    """Write to a path of a file system; where that has folders, make the missing ones."""
    with _remote(where) as (system, path):
        try:
            write_to(system, path)
        except FileNotFoundError:
            system.makedirs(system._parent(path), exist_ok=True)
            write_to(system, path)


def delete(where: Location) -> None:
    """Delete a file or a tree, if it is there; a tree stops counting as there first."""
    if isinstance(where, Path):
        if where.is_dir():
            trash = where.with_name(f".{where.name}.removed")
            where.rename(trash)
            shutil.rmtree(trash)
        else:
            where.unlink(missing_ok=True)
        return
    with _remote(where) as (system, path):
        marker = f"{path}/{MARKER}"
        if system.exists(marker):
            system.rm_file(marker)
        if system.exists(path):
            system.rm(path, recursive=True)


def names(folder: Location) -> list[str]:
    """Return the names of what lies directly in a folder, sorted; none where it is not
    there.
    """
    if isinstance(folder, Path):
        return sorted(os.listdir(folder)) if folder.is_dir() else []
    with _remote(folder) as (system, path):
        try:
            entries = system.ls(path, detail=False)
        except (FileNotFoundError, NotADirectoryError):
            return []
    # A file's own name is listed as its content; some list the folder itself.
    inside = {str(entry).rstrip("/") for entry in entries} - {path.rstrip("/")}
    return sorted(PurePosixPath(entry).name for entry in inside)


def files(where: Location) -> list[Location]:
    """Return all files under a folder, or those that a pattern (*, ?, [ab]) fits,
    sorted; none where nothing is there.
    """
    if isinstance(where, Path):
        return [*sorted(file for file in where.rglob("*") if file.is_file())]
    return [file for file, _ in _listed(where)]


def folder_of(where: Url) -> Url:
    """Return the part of a pattern before its first folder with a wildcard; anything
    else as it is.
    """
    while WILDCARDS & set(where.text):
        where = where.parent
    return where


def base(where: Location) -> Location:
    """Return the folder whose files `files` lists."""
    return folder_of(where) if isinstance(where, Url) else where


def state(file: Location) -> list[Any]:
    """Return [bytes, what changes when the content does]: the time in nanoseconds, or
    what the file system at a URL says of it.
    """
    if isinstance(file, Path):
        stat = file.stat()
        return [stat.st_size, stat.st_mtime_ns]
    with _remote(file) as (system, path):
        info = system.info(path)
    return [info["size"], _digest(_version(info))]


def age(file: Location) -> float:
    """Return the seconds since a file was written; 0 where nothing says when."""
    if isinstance(file, Path):
        return time.time() - file.stat().st_mtime
    with _remote(file) as (system, path):
        info = system.info(path)
    written = next((info[key] for key in TIMES if info.get(key) is not None), None)
    if isinstance(written, str):
        written = datetime.fromisoformat(written)
    if isinstance(written, datetime):
        written = written.timestamp()
    return time.time() - written if isinstance(written, int | float) else 0.0


def size(folder: Location) -> int:
    """Return the bytes of all files under a folder."""
    if isinstance(folder, Path):
        return sum(state(file)[0] for file in files(folder))
    marked = _marked(folder)
    return sum((marked or _sizes_under(folder)).values())


def copy_tree(source: Path, target: Location) -> None:
    """Copy a local folder to a folder or URL, in place of a tree that is there at a URL.

    It counts as there when it is whole: by its name on a disk, by its marker at a URL.
    """
    if isinstance(target, Path):
        with disk.write_beside(target) as draft:
            shutil.copytree(source, draft)
        return
    delete(target)
    sizes = dict[str, int]()
    for file in sorted(source.rglob("*")):
        if file.is_file():
            name = file.relative_to(source).as_posix()
            sizes[name] = file.stat().st_size
            put(file, target / name)
    write(target / MARKER, json.dumps({"files": sizes}).encode())


def fetch_tree(source: Url, target: Path) -> Path:
    """Copy a tree at a URL to a local folder, whole or not at all.

    Raise Damaged where a file has not the size that its marker names.
    """
    sizes = _marked(source)
    if sizes is None:
        sizes = _sizes_under(source)
    with disk.write_beside(target) as draft:
        for name, size in sizes.items():
            _fetch(source / name, draft / name, size)
    return target


def local(where: str | Location) -> Path:
    """Return a local file or folder with the content of `where`.

    A plain path is returned as it is. A URL is copied once for each version of it, to
    $MIAOBI_HOME/fetched; processes that want the same wait for the first. Of a pattern
    the files that fit are copied, under the names they have there.

    Raise NotFound.
    """
    where = location(where)
    if isinstance(where, Path):
        return where
    sizes = _marked(where)
    is_file = False
    if sizes is not None:
        version = _digest(sizes | {"marker": state(where / MARKER)})
    else:
        listed = _listed(where)
        if not listed:
            raise NotFound(
                say(f"There is nothing at {where}.", f"{where} 处没有内容。"),
                say("Check the address.", "请检查地址。"),
            )
        is_file = listed[0][0] == where
        base = folder_of(where)
        infos = {str(file.relative_to(base)): info for file, info in listed}
        version = _digest({name: _version(info) for name, info in infos.items()})
        sizes = {name: info["size"] for name, info in infos.items()}
    folder = disk.home() / "fetched" / f"{_digest(str(where))}-{version}"
    target = folder / (folder_of(where).name or "content")
    if not target.exists():
        folder.mkdir(parents=True, exist_ok=True)
        with disk.locked(folder / ".lock"):
            if not target.exists():
                _fetch_all(where, target, sizes, is_file)
    return target


def _fetch_all(
    where: Url, target: Path, sizes: Mapping[str, int], is_file: bool
) -> None:
    base = folder_of(where)
    with disk.write_beside(target) as draft:
        if is_file:
            _fetch(where, draft, next(iter(sizes.values())))
        else:
            for name, size in sizes.items():
                _fetch(base / name, draft / name, size)


def _fetch(source: Url, target: Path, size: int) -> None:
    """Copy one file. Raise Damaged where it has not `size` bytes."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with _remote(source) as (system, path):
        system.get_file(path, str(target))
    if target.stat().st_size != size:
        raise Damaged(
            say(
                f"{source} has {target.stat().st_size:,} bytes where {size:,} were written.",
                f"{source} 有 {target.stat().st_size:,} 字节，应为 {size:,} 字节。",
            ),
            say("Copy it there again.", "请重新复制。"),
        )


def _marked(folder: Url) -> dict[str, int] | None:
    """The files of a tree with a marker, by name with their bytes; None without one."""
    try:
        sizes: dict[str, int] = json.loads(read(folder / MARKER))["files"]
    except (FileNotFoundError, NotADirectoryError):
        return None
    return sizes


def _sizes_under(folder: Url) -> dict[str, int]:
    return {
        str(file.relative_to(folder)): info["size"] for file, info in _listed(folder)
    }


def _listed(where: Url) -> list[tuple[Url, Mapping[str, Any]]]:
    """(file, what the file system says of it) of the file itself, the files under a
    folder, or those that a pattern fits; sorted.
    """
    base = folder_of(where)
    with _remote(base) as (system, path):
        infos = system.find(path, detail=True)
        if not infos and system.isfile(path):
            infos = {path: {}}
        infos = {name: info or system.info(name) for name, info in infos.items()}
    rows = list[tuple[Url, Mapping[str, Any]]]()
    for name, info in infos.items():
        inner = name.strip("/").removeprefix(path.strip("/")).strip("/")
        file = base / inner if inner else base
        is_meant = base == where or _fits(file.text, where.text)
        if is_meant and file.name != MARKER:
            rows.append((file, info))
    # As paths are sorted: folder by folder.
    return sorted(rows, key=lambda row: row[0].parts)


def _fits(name: str, pattern: str) -> bool:
    """Whether a pattern fits a name, folder by folder; ** stands for any folders."""
    heads, tails = name.split("/"), pattern.split("/")
    return _parts_fit(heads, tails)


def _parts_fit(parts: list[str], patterns: list[str]) -> bool:
    if not patterns:
        return not parts
    if patterns[0] == "**":
        rest = patterns[1:]
        return any(_parts_fit(parts[at:], rest) for at in range(len(parts) + 1))
    return (
        bool(parts)
        and fnmatch.fnmatchcase(parts[0], patterns[0])
        and _parts_fit(parts[1:], patterns[1:])
    )


@contextmanager
def locked(where: Location) -> Iterator[None]:
    """Within: nobody else is inside `locked` of the same file.

    At a URL the file is there as long as the block runs, which should be short: after
    LOCK_SECONDS it counts as left behind. Raise Conflict where others never let go.
    """
    if isinstance(where, Path):
        with disk.locked(where):
            yield
        return
    deadline = time.monotonic() + 2 * LOCK_SECONDS
    while not create(where):
        if time.monotonic() > deadline:
            raise Conflict(
                say(f"{where} stays locked.", f"{where} 一直被锁定。"),
                say("Delete it if nobody writes there.", "若无人写入，请删除该文件。"),
            )
        if _age_if_there(where) > LOCK_SECONDS:
            delete(where)
        else:
            time.sleep(POLL_SECONDS)
    try:
        yield
    finally:
        delete(where)


def _age_if_there(where: Url) -> float:
    try:
        return age(where)
    except FileNotFoundError:
        return 0.0


@contextmanager
def _remote(where: Url) -> Iterator[tuple[Any, str]]:
    """The file system of a URL, and the path in it; what goes wrong there is explained.

    Listings are never taken from a cache: others write there too.
    """
    if importlib.util.find_spec("fsspec") is None:
        raise MissingPart(
            say(
                f"{where} is read by fsspec, which is not installed.",
                f"读取 {where} 需要 fsspec，目前未安装。",
            ),
            "pip install 'miaobi[remote]'",
        )
    import fsspec

    try:
        system, path = fsspec.core.url_to_fs(where.text)
        system.invalidate_cache()
        yield system, path
    except (FileNotFoundError, FileExistsError, NotADirectoryError, MiaobiError):
        raise
    except ImportError as error:  # such as "Install s3fs to access S3"
        raise MissingPart(f"{where}: {error}", _install(where)) from None
    except Exception as error:  # each file system has errors of its own
        detail = f"{type(error).__name__}: {error}"
        raise BadInput(
            say(
                f"{where} cannot be used ({detail}).", f"无法使用 {where}（{detail}）。"
            ),
            say(
                "Check the address, the network and your credentials.",
                "请检查地址、网络与访问凭据。",
            ),
        ) from error


def _install(where: Url) -> str:
    from fsspec.registry import known_implementations

    protocol = where.text.partition("://")[0]
    module = known_implementations.get(protocol, {}).get("class", "").partition(".")[0]
    package = "" if module in ("", "fsspec") else module
    return f"pip install 'miaobi[remote]' {package}".rstrip()


def _version(info: Mapping[str, Any]) -> dict[str, str]:
    """What a file system says of a file, without what changes by reading it."""
    return {key: str(value) for key, value in info.items() if key != "atime"}


def _digest(value: Any) -> str:
    content = json.dumps(value, sort_keys=True).encode()
    return hashlib.sha256(content).hexdigest()[:16]
