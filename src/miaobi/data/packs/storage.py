"""Unpacked packs on the disk, under $MIAOBI_HOME/packs/NAME/VERSION.

A stamp beside the files notes size and time of each, so that a whole pack is recognised
without reading it again.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from miaobi.core.files import home, write_beside
from miaobi.data.packs.entries import Pack

STAMP = "pack.json"


def folder_of(pack: Pack) -> Path:
    """Return where the files of a pack lie, or will lie."""
    return home() / "packs" / pack.name / pack.version


def is_installed(pack: Pack) -> bool:
    """Return whether the pack is here and whole.

    Files whose size and time are as they were are not read again.
    """
    folder = folder_of(pack)
    try:
        stamp = json.loads((folder / STAMP).read_text(encoding="utf-8"))
        if stamp["content"] != pack.content:
            return False
        states = stamp["files"].items()
        if all(_state(folder / file) == state for file, state in states):
            return True
        if content_of(folder) != pack.content:
            return False
        write_stamp(pack, folder)
    except (OSError, ValueError, KeyError):
        return False
    return True


def content_of(folder: Path) -> str:
    """Return the SHA-256 over the names and contents of a folder's files."""
    content = hashlib.sha256()
    for file in _files(folder):
        with (folder / file).open("rb") as handle:
            digest = hashlib.file_digest(handle, "sha256").hexdigest()
        content.update(f"{file} {digest}\n".encode())
    return content.hexdigest()


def write_stamp(pack: Pack, folder: Path) -> None:
    """Note what the pack is and the state of each of its files."""
    stamp = {
        "content": pack.content,
        "licence": pack.licence,
        "credit": pack.credit,
        "files": {file: _state(folder / file) for file in _files(folder)},
    }
    text = json.dumps(stamp, ensure_ascii=False, indent=1)
    with write_beside(folder / STAMP) as draft:
        draft.write_text(text, encoding="utf-8")


def _files(folder: Path) -> list[str]:
    return sorted(
        file.relative_to(folder).as_posix()
        for file in folder.rglob("*")
        if file.is_file() and file.name != STAMP
    )


def _state(file: Path) -> list[int]:
    stat = file.stat()
    return [stat.st_size, stat.st_mtime_ns]
