"""Prepared data on the disk: named by its content, made by one process at a time."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from io import BufferedReader
from pathlib import Path
from typing import Any, cast

from miaobi.core import storage
from miaobi.core.errors import NotFound
from miaobi.core.files import locked, write_text
from miaobi.core.language import say
from miaobi.core.storage import Location


@contextmanager
def locked_folder(root: Path, fingerprint: str) -> Iterator[Path]:
    """Yield the folder `fingerprint` under `root`, whether or not it is there yet,
    while no other process prepares it.
    """
    with locked(root / f".{fingerprint}.lock"):
        yield root / fingerprint


def content_hash(path: Location, files: Sequence[Location], root: Path) -> str:
    """Return the SHA-256 over names and contents of files.

    Files whose size and time have not changed since the last time are not read again.

    Args:
        path: the folder of the files, a pattern at a URL, or the only file
        files: the files in it
        root: the folder where digests are remembered, in hashes.json
    """
    memory = root / "hashes.json"
    remembered = dict[str, list[Any]]()
    if memory.exists():
        remembered = json.loads(memory.read_text(encoding="utf-8"))
    whole = hashlib.sha256()
    folder = storage.base(path)
    current = dict[str, list[Any]]()
    for file in files:
        key = str(storage.absolute(file))
        entry = _entry(file, remembered.get(key))
        current[key] = entry
        name = file.suffix if file == path else storage.relative(file, folder)
        whole.update(f"{name} {entry[-1]}\n".encode("utf-8", "surrogateescape"))
    if any(remembered.get(key) != entry for key, entry in current.items()):
        write_text(memory, json.dumps({**remembered, **current}))
    return whole.hexdigest()


def _entry(file: Location, remembered: list[Any] | None) -> list[Any]:
    """[size, time, digest] of a file, the remembered one where it is unchanged."""
    state = storage.state(file)
    if remembered is not None and remembered[:2] == state:
        return remembered
    with storage.open_read(file) as handle:
        digest = hashlib.file_digest(cast("BufferedReader", handle), "sha256")
    return [*state, digest.hexdigest()]


def manifest(folder: Path, name: str) -> dict[str, Any]:
    """Return what preparation noted in the prepared `folder`.

    Raises NotFound where it is no longer there.
    """
    try:
        loaded: dict[str, Any] = json.loads((folder / name).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise NotFound(
            say(
                f"There is no prepared data in {folder}.",
                f"{folder} 中没有准备好的数据。",
            ),
            say(
                "Run the training again: it prepares what is missing.",
                "请重新运行训练，缺少的数据会自动准备。",
            ),
        ) from None
    return loaded
