"""OpenAI's own clients, Python and JavaScript, against `miaobi serve` in a process of
its own, with real models.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.clients.server import serving
from tests.conftest import SHARED
from tests.serve.live import wait_until

HERE = Path(__file__).parent
OPENAI_JS = "openai@7.57.0"
CODEX = "@openai/codex@0.171.0"


@pytest.fixture(scope="module")
def url(
    pack: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    """A server's base URL; its store is empty but for the packs."""
    for name in ("smollm2", "use-multilingual"):
        pack(name)
    home = tmp_path_factory.mktemp("served")
    with serving(home) as url:
        yield url


def run(*command: str, cwd: Path = HERE) -> list[str]:
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=1500, cwd=cwd
    )
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
    return done.stdout.splitlines()


def installed(package: str, name: str) -> Path:
    """A folder in which an npm package is installed, as `name`; skipped where there is
    no Node.
    """
    if shutil.which("node") is None or shutil.which("npm") is None:
        pytest.skip("needs Node.js: apt-get install nodejs npm")
    folder = SHARED / "node"
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "node_modules" / name).exists():
        options = ("--silent", "--no-audit", "--no-fund")
        run("npm", "install", *options, package, cwd=folder)
    return folder


@pytest.fixture(scope="module")
def javascript() -> Path:
    """A folder in which the official client is installed and the flows lie."""
    folder = installed(OPENAI_JS, "openai")
    shutil.copy(HERE / "flows.mjs", folder)
    return folder


def test_the_python_client(url: str) -> None:
    assert len(run(sys.executable, str(HERE / "flows.py"), url)) == 10


@pytest.mark.slow
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


CONFIG = """
model = "echo"
model_provider = "here"
web_search = "disabled"
[model_providers.here]
name = "here"
base_url = "http://127.0.0.1:{port}/v1"
wire_api = "responses"
"""


@pytest.mark.slow
def test_codex_runs_a_command(tmp_path: Path) -> None:
    """Codex speaks /v1/responses. The model says everything again: the call that it is
    told, then what came of it.
    """
    codex = installed(CODEX, "@openai/codex") / "node_modules" / ".bin" / "codex"
    log = tmp_path / "port"
    with log.open("w") as out:
        server = subprocess.Popen(
            [sys.executable, "-m", "tests.serve.toyserver", '{"workers": 0}', "0"],
            stdout=out,
            stderr=subprocess.DEVNULL,
            cwd=HERE.parents[1],
            env={**os.environ, "MIAOBI_HOME": str(tmp_path / "home")},
        )
    try:
        wait_until(log.read_text)
        port = log.read_text().strip()
        (tmp_path / "codex").mkdir()
        (tmp_path / "codex" / "config.toml").write_text(CONFIG.format(port=port))
        arguments = {"cmd": "echo from the shell"}
        call = json.dumps({"name": "exec_command", "arguments": arguments})
        done = subprocess.run(
            [
                codex,
                "exec",
                "--skip-git-repo-check",
                "--sandbox",
                "danger-full-access",
                f"<tool_call>{call}</tool_call>",
            ],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=300,
            cwd=tmp_path,
            env={**os.environ, "CODEX_HOME": str(tmp_path / "codex")},
        )
    finally:
        server.terminate()
        server.wait(60)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.rstrip().endswith("Output:\nfrom the shell")
