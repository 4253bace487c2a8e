"""The wheel, installed outside any clone with the core or one extra alone, does what
that extra promises. Slow: each extra gets an environment of its own.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import threading
import tomllib
import venv
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
CORE = "core"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
EXTRAS = [extra for extra in PROJECT["optional-dependencies"] if extra != "dev"]
TORCH = "torch==2.13.0"
"""The version of the lock file: its CPU build is what a machine without a GPU has."""

SAMPLES = "data sample"
TRAIN = "train recipes/text/my_corpus.yaml --data.path samples/my.txt --name tale"
STEP = "--train.max_steps 1 --data.context_length 32"
PICTURES = (
    "train recipes/image/my_pictures.yaml --data.path samples/photos --name views"
)
BATCH = "batch samples/requests.jsonl --out results.jsonl"
WRITE = "generate text --model smollm2 --prompt Hello --max-new-tokens 4"
SERVING = """
import subprocess, sys, time, httpx
server = subprocess.Popen(["miaobi", "serve", "--port", "{port}"])
try:
    for _ in range(600):
        time.sleep(0.2)
        assert server.poll() is None, "the server has ended"
        try:
            answer = httpx.get("http://127.0.0.1:{port}{path}", follow_redirects=True)
        except httpx.TransportError:
            continue
        shown = f"{answer.status_code} {answer.text}"
        if "{expected}" in shown:
            break
    print(shown)
finally:
    server.terminate()
    server.wait()
"""

Step = tuple[str, str]
"""A command line of miaobi, or Python after a line break, and what it prints."""
PROMISES: dict[str, list[Step]] = {
    CORE: [
        ("doctor", "miaobi"),
        (SAMPLES, "sample files"),
        ("data inspect samples/chats.jsonl", "messages (120)"),
        ("chat {server}", "Good day from afar."),
    ],
    "train": [
        (SAMPLES, ""),
        (f"{TRAIN} {STEP}", "tale@1"),
        ("generate text --model tale --prompt Once --max-new-tokens 4", "· native ·"),
        ("evaluate tale --samples 4", "tale@1"),
    ],
    "engines": [
        (f"{WRITE} --engine llamacpp", "· llamacpp ·"),
        (f"{WRITE} --engine openvino", "· openvino ·"),
    ],
    "onnx": [
        (SAMPLES, ""),
        (f"{TRAIN} {STEP} --family lstm", "tale@1"),
        ("export tale --to onnx", "onnx"),
    ],
    "images": [
        (SAMPLES, ""),
        ("data inspect samples/photos", "day (40), night (40)"),
        (f"{PICTURES} --dry-run", "views"),
    ],
    "audio": [
        (
            "import numpy\nfrom miaobi.data.audio import media\n"
            "file = media.encode(numpy.zeros(2400, 'f'), 24000, '.mp3')\n"
            "print(media.probe(file).codec)",
            "mp3",
        ),
    ],
    "espeak": [
        ("import espeakng_loader\nprint(espeakng_loader.__name__)", "espeakng"),
    ],
    "tune": [
        (SAMPLES, ""),
        (
            "finetune --base efficientnet-lite0 --task image-classification"
            " --data samples/photos --name views --train.max_steps 1",
            "views@1",
        ),
    ],
    "search": [
        (SAMPLES, ""),
        (
            "search recipes/text/my_corpus.yaml --data.path samples/my.txt --trials 1"
            f" {STEP}",
            "trial",
        ),
    ],
    "serve": [
        (SAMPLES, ""),
        ("keys create team", "team"),
        (BATCH, "4 of 4"),
        (SERVING.replace("{path}", "/health"), "200"),
    ],
    "remote": [
        (SAMPLES, ""),
        ("data inspect file://{folder}/samples/my.jsonl", "documents      120"),
    ],
    "postgres": [
        ("keys list", "127.0.0.1"),
    ],
    "telemetry": [
        (SERVING.replace("{path}", "/health"), "200"),
    ],
    "studio": [
        (SERVING.replace("{path}", "/studio/en/chat"), "htmx"),
    ],
    "wandb": [
        (SAMPLES, ""),
        (f"{TRAIN} {STEP} --train.trackers wandb", "tale@1"),
    ],
    "all": [
        ("doctor", "✓"),
        (SAMPLES, ""),
        (f"{PICTURES} {STEP.split(' --data')[0]}", "views@1"),
        ("evaluate views --samples 8", "views@1"),
    ],
}
ENVIRONMENT = {
    "postgres": {
        "MIAOBI_DATABASE_URL": "postgresql+psycopg://nobody@127.0.0.1:1/nothing"
    },
    "telemetry": {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1"},
    "wandb": {"WANDB_MODE": "offline"},
}
REFUSED = {"postgres"}
"""Extras whose promise ends, without their server, in an error that names its address."""


class Remote(BaseHTTPRequestHandler):
    """A server with one model, in OpenAI's shapes, which always says the same."""

    def do_GET(self) -> None:
        self.answer({"object": "list", "data": [{"id": "afar", "object": "model"}]})

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.end_headers()
        for delta, finish in (({"content": "Good day from afar."}, None), ({}, "stop")):
            choice = {"index": 0, "delta": delta, "finish_reason": finish}
            event = {"id": "1", "object": "chat.completion.chunk", "choices": [choice]}
            self.wfile.write(f"data: {json.dumps(event)}\n\n".encode())
        self.wfile.write(b"data: [DONE]\n\n")

    def answer(self, content: dict[str, Any]) -> None:
        body = json.dumps(content).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    """The address of a remote server."""
    httpd = ThreadingHTTPServer(("127.0.0.1", 0), Remote)
    threading.Thread(target=httpd.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{httpd.server_port}/v1"
    httpd.shutdown()
    httpd.server_close()


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of this tree, built from a copy of it, as `make release` builds it."""
    source = tmp_path_factory.mktemp("source")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    shutil.copytree(
        ROOT / "src",
        source / "src",
        ignore=shutil.ignore_patterns("*.egg-info", "__pycache__"),
    )
    out = tmp_path_factory.mktemp("dist")
    build = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(out)]
    subprocess.run([*build, str(source)], check=True, stdout=subprocess.DEVNULL)
    assert len(list(out.glob("*.tar.gz"))) == 1
    (built,) = out.glob("*.whl")
    return built


@pytest.fixture
def programs(
    request: pytest.FixtureRequest, wheel: Path, tmp_path: Path
) -> Iterator[Path]:
    """The folder of programs of a new environment with the wheel and one extra."""
    extra: str = request.param
    environment = tmp_path / "environment"
    venv.create(environment, with_pip=True)
    constraints = tmp_path / "constraints.txt"
    constraints.write_text(TORCH)
    what = str(wheel) if extra == CORE else f"{wheel}[{extra}]"
    pip = [str(environment / "bin" / "python"), "-m", "pip", "install", "--quiet"]
    subprocess.run([*pip, "--constraint", str(constraints), what], check=True)
    yield environment / "bin"
    shutil.rmtree(environment)


@pytest.fixture
def unused_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


def test_every_extra_has_a_promise() -> None:
    assert set(PROMISES) == {CORE, *EXTRAS}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("extra", "programs"), [(extra, extra) for extra in PROMISES], indirect=["programs"]
)
def test_it_does_what_the_extra_promises(
    extra: str,
    programs: Path,
    server: str,
    miaobi_home: Path,
    tmp_path: Path,
    unused_port: int,
) -> None:
    environment = {
        "PATH": f"{programs}:/usr/bin:/bin",
        "HOME": os.environ["HOME"],
        "MIAOBI_HOME": str(miaobi_home),
        "MIAOBI_LANG": "en",
        "HF_HUB_OFFLINE": "1",
        **ENVIRONMENT.get(extra, {}),
    }
    work = tmp_path / "work"
    work.mkdir()
    for step, expected in PROMISES[extra]:
        filled = step.replace("{server}", server).replace("{folder}", str(work))
        filled = filled.replace("{port}", str(unused_port))
        filled = filled.replace("{expected}", expected)
        argv = ["miaobi", *filled.split()]
        if "\n" in filled:
            argv = ["python", "-c", filled]
        done = subprocess.run(
            [str(programs / argv[0]), *argv[1:]],
            cwd=work,
            env=environment,
            input="Hello\n",
            capture_output=True,
            text=True,
        )
        shown = f"{filled}\n{done.stdout[-2000:]}\n{done.stderr[-3000:]}"
        assert (done.returncode == 0) == (extra not in REFUSED), shown
        assert expected in done.stdout + done.stderr, shown
