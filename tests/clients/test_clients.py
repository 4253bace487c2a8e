"""OpenAI's own clients, Python and JavaScript, against `miaobi serve` in a process of
its own, with real models.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest
from tests.conftest import SHARED

HERE = Path(__file__).parent
OPENAI_JS = "openai@7.57.0"


@pytest.fixture(scope="module")
def url(
    pack: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    """A server's base URL; its store is empty but for the packs."""
    for name in ("smollm2", "use-multilingual"):
        pack(name)
    home = tmp_path_factory.mktemp("served")
    for name in ("packs", "converted"):
        (home / name).symlink_to(SHARED / name)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    log = (home / "log").open("w")
    process = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "miaobi.cli",
            "serve",
            "--port",
            str(port),
            "--no-studio",
        ],
        stdout=log,
        stderr=log,
        env={**os.environ, "MIAOBI_HOME": str(home)},
    )
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


def run(*command: str, cwd: Path = HERE) -> list[str]:
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=1500, cwd=cwd
    )
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
    return done.stdout.splitlines()


@pytest.fixture(scope="module")
def javascript() -> Path:
    """A folder in which the official client is installed and the flows lie; skipped
    where there is no Node.
    """
    if shutil.which("node") is None or shutil.which("npm") is None:
        pytest.skip("needs Node.js: apt-get install nodejs npm")
    folder = SHARED / "node"
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "node_modules" / "openai").exists():
        run(
            "npm",
            "install",
            "--silent",
            "--no-audit",
            "--no-fund",
            OPENAI_JS,
            cwd=folder,
        )
    shutil.copy(HERE / "flows.mjs", folder)
    return folder


def test_the_python_client(url: str) -> None:
    assert len(run(sys.executable, str(HERE / "flows.py"), url)) == 10


def test_the_clients_of_conversations(url: str) -> None:
    for name, package in (("anthropic", "anthropic"), ("agents", "openai-agents")):
        pytest.importorskip(name, reason=f"pip install {package}")
    assert len(run(sys.executable, str(HERE / "flows_responses.py"), url)) == 10


def test_the_javascript_client(url: str, javascript: Path) -> None:
    assert len(run("node", "flows.mjs", url, cwd=javascript)) == 9


@pytest.mark.slow
def test_the_python_client_tunes(url: str) -> None:
    assert (
        "tuned model answers"
        in run(sys.executable, str(HERE / "flows.py"), url, "tune")[-1]
    )


@pytest.mark.slow
def test_the_javascript_client_tunes(url: str, javascript: Path) -> None:
    assert (
        "tuned model answers"
        in run("node", "flows.mjs", url, "tune", cwd=javascript)[-1]
    )
