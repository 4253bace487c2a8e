"""Files that a visitor can see and download: each under a random name, in the studio's
own folder, for a day.
"""

from __future__ import annotations

import secrets
import shutil
import time
from pathlib import Path

SECONDS = 24 * 3600


def folder_of(server: Path) -> Path:
    """Gradio keeps its copies and what visitors send in the same place."""
    return server / "studio"


def keep(folder: Path, name: str, content: bytes) -> str:
    """The path of a new file with that name. What is older than a day goes."""
    for old in folder.glob("*"):
        if old.is_dir() and time.time() - old.stat().st_mtime > SECONDS:
            shutil.rmtree(old, ignore_errors=True)
    place = folder / secrets.token_hex(16)
    place.mkdir(parents=True)
    path = place / name
    path.write_bytes(content)
    return str(path)
