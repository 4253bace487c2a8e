"""Prepared data on the disk: known by its content, made by one process at a time."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from miaobi.core.errors import NotFound
from miaobi.core.files import locked, write_text
from miaobi.core.language import say


@contextmanager
def locked_folder(root: Path, fingerprint: str) -> Iterator[Path]:
    """The folder `fingerprint` under `root`, whether or not it is there yet, while no
    other process prepares it.
    """
    with locked(root / f".{fingerprint}.lock"):
        yield root / fingerprint


def content_hash(path: Path, files: Sequence[Path], root: Path) -> str:
    """SHA-256 over `files`, which lie in the folder `path` or are `path`. Those whose
    size and time have not changed since the last time (noted under `root`) are not read
    again.
    """
    known_path = root / "hashes.json"
    known = (
        json.loads(known_path.read_text(encoding="utf-8"))
        if known_path.exists()
        else {}
    )
    whole, fresh = hashlib.sha256(), {}
    for file in files:
        state = file.stat()
        size, time, digest = known.get(str(file.absolute()), (None, None, None))
        if (size, time) != (state.st_size, state.st_mtime_ns):
            with file.open("rb") as handle:
                digest = hashlib.file_digest(handle, "sha256").hexdigest()
        fresh[str(file.absolute())] = [state.st_size, state.st_mtime_ns, digest]
        whole.update(
            f"{file.relative_to(path) if path.is_dir() else file.suffix} {digest}\n".encode()
        )
    if any(known.get(key) != value for key, value in fresh.items()):
        write_text(known_path, json.dumps({**known, **fresh}))
    return whole.hexdigest()


def manifest(folder: Path, name: str) -> dict[str, Any]:
    """What preparation noted in the prepared `folder`. Raises NotFound where it is no
    longer there.
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
