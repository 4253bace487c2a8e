"""What lies in a folder of pictures: its files, through symbolic links too, without what
systems leave behind.
"""

from __future__ import annotations

import os
import re
from collections import Counter, deque
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePath

from miaobi.data.image.files import ENDINGS, FOREIGN

PICTURE_ENDINGS = ENDINGS | FOREIGN
LITTER = frozenset(
    {
        "#recycle",
        "$recycle.bin",
        "@eadir",
        "@recycle",
        "@recently-snapshot",
        "@tmp",
        "__macosx",
        "__pycache__",
        "lost+found",
        "system volume information",
    }
)
"""Folders that macOS, Windows, Synology's and QNAP's storage leave among one's own, in
lower case.
"""


INDEX = "index.jsonl"
"""Where `miaobi generate` writes how it made the numbered pictures of a folder."""
SHEET = re.compile(r"sheet-\d+-\d+\.\w+")
"""The overview that it writes beside them."""


@dataclass(frozen=True)
class Listing:
    """A folder's content in any depth, without what is hidden."""

    folder: Path
    files: tuple[Path, ...]
    """Sorted."""
    broken: tuple[Path, ...]
    """Links that lead nowhere, and folders that cannot be opened."""
    empty: tuple[Path, ...]
    """Folders in which there is nothing."""

    @property
    def pictures(self) -> list[Path]:
        return [file for file in self.files if is_picture(file)]


def listing(folder: Path) -> Listing:
    """Return what lies in a folder.

    Each folder is listed once, however many links lead to it, so a link to a folder
    above it is no loop; where a folder is there itself, its links are passed over.
    """
    files = list[Path]()
    broken = list[Path]()
    empty = list[Path]()
    folders = deque([folder])
    links = deque[Path]()
    listed = set[tuple[int, int]]()
    while folders or links:
        current = folders.popleft() if folders else links.popleft()
        state = current.stat()
        identity = (state.st_dev, state.st_ino)
        if identity in listed:
            continue
        listed.add(identity)
        try:
            entries = list(os.scandir(current))
        except PermissionError:
            broken.append(current)
            continue
        if not entries:
            empty.append(current)
        is_generated = any(entry.name == INDEX for entry in entries)
        for entry in entries:
            path = Path(entry.path)
            if is_hidden(PurePath(entry.name)):
                continue
            if is_generated and SHEET.fullmatch(entry.name):
                continue
            if entry.is_dir():
                (links if entry.is_symlink() else folders).append(path)
            elif entry.is_file():
                files.append(path)
            elif entry.is_symlink():
                broken.append(path)
    return Listing(
        folder, tuple(sorted(files)), tuple(sorted(broken)), tuple(sorted(empty))
    )


def files_in(folder: Path) -> list[Path]:
    """Return every picture file of a folder and its folders, sorted; also those in
    formats that are not read here, so that they are named.
    """
    return listing(folder).pictures


def visible(folder: Path) -> list[Path]:
    """Return the files of a folder and its folders, sorted, without hidden ones."""
    return list(listing(folder).files)


def is_picture(file: PurePath) -> bool:
    """Return whether the ending of a file's name is that of a picture."""
    return file.suffix.lower() in PICTURE_ENDINGS


def is_hidden(path: PurePath) -> bool:
    """Return whether a file, or a folder on the way to it, is hidden or a system's own."""
    return any(part.startswith(".") or part.lower() in LITTER for part in path.parts)


def readable(text: str) -> str:
    r"""Return a name or a sentence with bytes that are not UTF-8 as \xNN, as it can be
    printed and stored.
    """
    return os.fsencode(text).decode("utf-8", "backslashreplace")


def by_ending(files: Iterable[Path]) -> Counter[str]:
    """Return how many files have each ending, in lower case; "" for none."""
    return Counter(readable(file.suffix.lower()) for file in files)
