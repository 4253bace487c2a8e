"""Generated pictures behind URLs that expire: /v1/images/files/{token}.png.

The token is 128 random bits and opens one picture for a while, without a key, as
OpenAI's signed URLs do: a page can show it. It is no API key and leads to no other
file. On disk a picture is called by the SHA-256 of its token, so who lists the folder,
or measures how long a look-up takes, learns no URL.
"""

from __future__ import annotations

import hashlib
import re
import secrets
import time
from collections.abc import Callable
from pathlib import Path

from miaobi.core.artifacts import Image
from miaobi.provenance.publish import publish

KINDS = {"png": "image/png", "jpeg": "image/jpeg", "webp": "image/webp"}
"""Endings, which are OpenAI's names of output formats, and their media types."""
NAME = re.compile(r"([0-9a-f]{32})\.(png|jpeg|webp)")


class TemporaryFiles:
    def __init__(
        self, folder: Path, seconds: int, clock: Callable[[], float] = time.time
    ) -> None:
        self.folder = folder
        self.seconds = seconds
        self.clock = clock

    def put(self, picture: Image, kind: str) -> str:
        """Publish a picture, labelled; the name under which `find` has it for `seconds`."""
        name = f"{secrets.token_hex(16)}.{kind}"
        publish(picture, self._path(name))
        return name

    def find(self, name: str) -> tuple[Path, float] | None:
        """The file and for how many seconds more it is there; None for what never was,
        has expired, or is no such name.
        """
        if NAME.fullmatch(name) is None:
            return None
        try:
            left = self._path(name).stat().st_mtime + self.seconds - self.clock()
        except FileNotFoundError:
            return None
        return (self._path(name), left) if left > 0 else None

    def sweep(self) -> None:
        """Remove what has expired."""
        now = self.clock()
        for path in self.folder.glob("*.*"):
            try:
                if path.stat().st_mtime + self.seconds <= now:
                    path.unlink()
            except FileNotFoundError:  # another server of this folder was quicker
                continue

    def _path(self, name: str) -> Path:
        token, ending = name.split(".")
        return self.folder / f"{hashlib.sha256(token.encode()).hexdigest()}.{ending}"
