"""Archives unpacked into folders, with nothing in them taken on trust.

Two kinds: the wheels, npm tarballs and Debian packages of starter packs, and ZIP files
of pictures that users upload. In both, names that lead out of the folder are refused
and links are never followed or made.
"""

from __future__ import annotations

import fnmatch
import lzma
import shutil
import stat
import struct
import subprocess
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import IO

from miaobi.core.errors import BadInput, Damaged
from miaobi.core.files import write_beside
from miaobi.core.language import say
from miaobi.data.image.listing import is_hidden, is_picture, visible
from miaobi.data.image.metadata import may_describe

BLOCK = 1 << 20
ENCRYPTED = 1
"""Bit of a ZIP entry's flags."""
DAMAGE = (
    zipfile.BadZipFile,
    tarfile.TarError,
    zlib.error,
    lzma.LZMAError,
    struct.error,
    EOFError,
    UnicodeDecodeError,
    RuntimeError,  # a method of compression or encryption that zipfile does not know
)
"""What the libraries raise for a damaged archive, each where it notices it."""
LONGEST_NAME = 255
"""Bytes of a file's name that every file system takes."""


def leads_outside(name: str) -> bool:
    """Return whether the name of an archive's member could lie outside of the folder it
    is unpacked into, on any system.
    """
    path = PurePosixPath(name)
    return path.is_absolute() or ".." in path.parts or "\\" in name or ":" in name


class BrokenArchive(Exception):
    """An archive is damaged; the message says how."""


@contextmanager
def _damage_noticed() -> Iterator[None]:
    """Raise BrokenArchive for what is found damaged within."""
    try:
        yield
    except DAMAGE as error:
        raise BrokenArchive(str(error)) from None
    except OSError as error:
        # bz2 and gzip say it by an OSError without a number; the disk's have one.
        if error.errno is not None:
            raise
        raise BrokenArchive(str(error)) from None


@contextmanager
def _opened_zip(archive: Path) -> Iterator[zipfile.ZipFile]:
    """Open a ZIP file. Raises BrokenArchive for damage, also while it is being read."""
    with _damage_noticed(), zipfile.ZipFile(archive) as zipped:
        if any(entry.header_offset < 0 for entry in zipped.infolist()):
            raise zipfile.BadZipFile("its directory points before its start")
        yield zipped


def unpack_package(archive: Path, patterns: tuple[str, ...], folder: Path) -> None:
    """Write the plain files of a package whose names match one of the patterns.

    Raises Damaged for names that lead out of the folder and for a cut-off archive.
    """
    with _members(archive) as members:
        for name, content in members:
            if not any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns):
                continue
            if leads_outside(name):
                raise Damaged(
                    say(
                        f"{archive.name} holds a file that points outside its folder: {name!r}.",
                        f"{archive.name} 含有指向文件夹之外的文件：{name!r}。",
                    ),
                    say(
                        "Nothing was kept; do not use this package.",
                        "未保留任何内容；请勿使用该软件包。",
                    ),
                )
            target = folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            with target.open("xb") as file:
                shutil.copyfileobj(content, file)


@contextmanager
def _members(archive: Path) -> Iterator[Iterator[tuple[str, IO[bytes]]]]:
    """(name, content) of the plain files in a wheel, an npm tarball or a Debian package."""
    try:
        if archive.suffix == ".whl":
            with _opened_zip(archive) as wheel:
                yield _zip_members(wheel)
        elif archive.suffix == ".tgz":
            with _damage_noticed(), tarfile.open(archive, "r:gz") as tarball:
                yield _tar_members(tarball)
        else:
            command = ["dpkg-deb", "--fsys-tarfile", str(archive)]
            with (
                _damage_noticed(),
                subprocess.Popen(command, stdout=subprocess.PIPE) as process,
                tarfile.open(fileobj=process.stdout, mode="r|") as tarball,
            ):
                yield _tar_members(tarball)
    except BrokenArchive as error:
        raise Damaged(
            say(
                f"{archive.name} is not a whole archive: {error}.",
                f"{archive.name} 不是完整的压缩包：{error}。",
            ),
            say("Fetch it again.", "请重新获取。"),
        ) from None


def _zip_members(wheel: zipfile.ZipFile) -> Iterator[tuple[str, IO[bytes]]]:
    for entry in wheel.infolist():
        if entry.filename and not entry.is_dir():
            yield entry.filename, wheel.open(entry)


def _tar_members(tarball: tarfile.TarFile) -> Iterator[tuple[str, IO[bytes]]]:
    for entry in tarball:
        content = tarball.extractfile(entry) if entry.isfile() else None
        if content is not None:
            yield entry.name.removeprefix("./"), content


def unpack_pictures(
    archive: Path, target: Path, most_bytes: int, most_files: int = 1_000_000
) -> Path:
    """Write the archive's pictures and their metadata to the folder `target`, whole or
    not at all; everything else in it is left out.

    Args:
        archive: a ZIP file
        target: a folder; where it is there already, nothing is unpacked
        most_bytes: limit of everything unpacked, counted as it is written, whatever
            the archive says of itself
        most_files: limit of the archive's entries

    Returns:
        The folder that holds the pictures: `target`, or the one folder in it when
        everything lies in one.

    Raises:
        BadInput: for what is no whole ZIP, holds no pictures, is encrypted, leads out
            of the folder or is larger than allowed
    """
    if not target.exists():
        with write_beside(target) as draft:
            draft.mkdir()
            _unpack_zip(archive, draft, most_bytes, most_files)
            if not any(map(is_picture, visible(draft))):
                raise _unusable(archive, say("it holds no pictures.", "其中没有图片。"))
    children = list(target.iterdir())
    if len(children) == 1 and children[0].is_dir():
        return children[0]
    return target


def _unpack_zip(archive: Path, folder: Path, most_bytes: int, most_files: int) -> None:
    try:
        with _opened_zip(archive) as zipped:
            entries = zipped.infolist()
            _check_entries(archive, entries, most_files)
            bytes_left = most_bytes
            for entry in entries:
                if not _is_wanted(archive, entry):
                    continue
                target = folder / entry.filename
                bytes_left -= _copy(zipped, entry, target, bytes_left)
                if bytes_left < 0:
                    raise _unusable(
                        archive,
                        say(
                            f"it unpacks to more than {most_bytes:,} bytes.",
                            f"解压后超过 {most_bytes:,} 字节。",
                        ),
                    )
    except BrokenArchive as error:
        raise _unusable(
            archive,
            say(
                f"it is not a sound ZIP file ({error}).",
                f"不是完好的 ZIP 文件（{error}）。",
            ),
        ) from None


def _check_entries(
    archive: Path, entries: list[zipfile.ZipInfo], most_files: int
) -> None:
    if len(entries) > most_files:
        raise _unusable(
            archive,
            say(
                f"it has {len(entries):,} entries, more than {most_files:,}.",
                f"含 {len(entries):,} 个条目，超过 {most_files:,}。",
            ),
        )


def _is_wanted(archive: Path, entry: zipfile.ZipInfo) -> bool:
    """Whether an entry is a picture or may describe one. Raises BadInput for one that leads out
    of the folder, and for a picture that is encrypted.
    """
    if leads_outside(entry.filename):
        raise _unusable(
            archive,
            say(
                f"the name {entry.filename[:100]!r} points outside it.",
                f"名称 {entry.filename[:100]!r} 指向压缩包之外。",
            ),
        )
    if not entry.filename:
        return False
    path = PurePosixPath(entry.filename)
    is_link = stat.S_ISLNK(entry.external_attr >> 16)
    if entry.is_dir() or is_link or is_hidden(path):
        return False
    if not is_picture(path) and not may_describe(path):
        return False
    longest = max(len(part.encode()) for part in path.parts)
    if longest > LONGEST_NAME:
        raise _unusable(
            archive,
            say(
                f"the name {entry.filename[:100]!r} … is too long ({longest} bytes, at most {LONGEST_NAME}).",
                f"名称 {entry.filename[:100]!r} … 过长（{longest} 字节，最多 {LONGEST_NAME}）。",
            ),
        )
    if entry.flag_bits & ENCRYPTED:
        raise _unusable(archive, say("it is encrypted.", "已加密。"))
    return True


def _copy(
    zipped: zipfile.ZipFile, entry: zipfile.ZipInfo, target: Path, most_bytes: int
) -> int:
    """Write one entry; return its size in bytes. Stops at `most_bytes`."""
    target.parent.mkdir(parents=True, exist_ok=True)
    size = 0
    with zipped.open(entry) as source, target.open("xb") as file:
        while block := source.read(BLOCK):
            size += len(block)
            if size > most_bytes:
                break
            file.write(block)
    return size


def _unusable(archive: Path, problem: str) -> BadInput:
    return BadInput(
        say(
            f"{archive.name} cannot be used: ",
            f"无法使用 {archive.name}：",
        )
        + problem,
        say(
            "Pack a folder of PNG, JPEG or WebP files anew, with folders for "
            "classes or metadata.csv where you have them.",
            "请重新打包 PNG、JPEG 或 WebP 图片文件夹；如有类别文件夹或 metadata.csv 请一并放入。",
        ),
    )
