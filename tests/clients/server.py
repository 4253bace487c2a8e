"""`miaobi serve` in a process of its own, for clients that have nothing of ours."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
from tests.conftest import SHARED


@contextmanager
def serving(home: Path, *models: str) -> Iterator[str]:
    """The base URL of a server.

    Args:
        home: its MIAOBI_HOME; its store is empty but for the packs.
        models: what it serves, as --model takes it; by default all packs.
    """
    for name in ("packs", "converted"):
        (home / name).symlink_to(SHARED / name)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "miaobi.cli", "serve", "--no-studio"]
    command += ["--port", str(port)]
    for model in models:
        command += ["--model", model]
    log = (home / "log").open("w")
    environment = {**os.environ, "MIAOBI_HOME": str(home)}
    process = subprocess.Popen(command, stdout=log, stderr=log, env=environment)
    try:
        for _ in range(600):
            assert process.poll() is None, (home / "log").read_text()
            try:
                if httpx.get(f"http://127.0.0.1:{port}/ready").status_code == 200:
                    break
            except httpx.HTTPError:
                time.sleep(0.1)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        process.terminate()
        process.wait(60)
        log.close()
