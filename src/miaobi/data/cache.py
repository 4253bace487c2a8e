"""Prepared data on the disk: made once for each content and configuration, found again at once, whole or not at all."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path

from miaobi.core.files import explain_full_disk, write_text


def prepared(root: Path, fingerprint: str, manifest: str, make: Callable[[Path], None]) -> Path:
    """The folder `fingerprint` under `root`. `make(folder)` fills it where it has no `manifest` yet; what it leaves when it
    fails is there when it is called again. Two processes that want the same wait for each other.
    """
    folder, part = root / fingerprint, root / f".{fingerprint}.part"
    with (root / f".{fingerprint}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / manifest).exists():
            with explain_full_disk(folder):
                make(part)
                os.replace(part, folder)
    return folder


def content_hash(path: Path, files: Sequence[Path], root: Path) -> str:
    """SHA-256 over `files`, which lie in the folder `path` or are `path`. Those whose size and time have not changed since
    the last time (noted under `root`) are not read again.
    """
    known_path = root / "hashes.json"
    known = json.loads(known_path.read_text(encoding="utf-8")) if known_path.exists() else {}
    whole, fresh = hashlib.sha256(), {}
    for file in files:
        state = file.stat()
        size, time, digest = known.get(str(file.absolute()), (None, None, None))
        if (size, time) != (state.st_size, state.st_mtime_ns):
            with file.open("rb") as handle:
                digest = hashlib.file_digest(handle, "sha256").hexdigest()
        fresh[str(file.absolute())] = [state.st_size, state.st_mtime_ns, digest]
        whole.update(f"{file.relative_to(path) if path.is_dir() else file.suffix} {digest}\n".encode())
    if any(known.get(key) != value for key, value in fresh.items()):
        write_text(known_path, json.dumps({**known, **fresh}))
    return whole.hexdigest()
