"""`miaobi serve`: words and environment to settings, a key demanded where others can
reach it, a real process from start to end.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.conftest import SHARED
from tests.serve.live import wait_until

from miaobi.cli import main
from miaobi.core.errors import BadInput, NotFound
from miaobi.serve import command
from miaobi.serve.settings import Settings


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[Settings]:
    """The settings a command leads to, without listening."""
    settings_list = list[Settings]()
    monkeypatch.setattr(
        command, "run", lambda settings, names: settings_list.append(settings)
    )
    for name in ("HOST", "PORT", "API_KEY", "LOG_LEVEL", "DATABASE_URL"):
        monkeypatch.delenv(f"MIAOBI_{name}", raising=False)
    return settings_list


def test_defaults_environment_and_options(
    started: list[Settings], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert main(["serve"]) == 0
    assert (
        started[-1].host,
        started[-1].port,
        started[-1].api_keys,
        started[-1].studio,
        started[-1].log_level,
    ) == ("127.0.0.1", 8000, (), True, "info")
    for name, value in {
        "HOST": "localhost",
        "PORT": "9001",
        "API_KEY": "from-environment",
        "LOG_LEVEL": "warning",
    }.items():
        monkeypatch.setenv(f"MIAOBI_{name}", value)
    (tmp_path / "keys").write_text("# two keys\nfirst-key\n\nsecond-key\n")
    assert (
        main(
            [
                "serve",
                "--port",
                "9002",
                "--api-key-file",
                str(tmp_path / "keys"),
                "--no-studio",
                "--memory-gb",
                "1.5",
                "--allow-host",
                "a.example",
            ]
        )
        == 0
    )
    settings_list = started[-1]
    assert (
        settings_list.host,
        settings_list.port,
        settings_list.log_level,
        settings_list.studio,
    ) == (
        "localhost",
        9002,
        "warning",
        False,
    )
    assert (
        settings_list.api_keys,
        settings_list.memory_bytes,
        settings_list.hosts,
    ) == (
        ("from-environment", "first-key", "second-key"),
        1_500_000_000,
        ("a.example",),
    )


def test_a_server_that_others_can_reach_demands_a_key(
    started: list[Settings], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["serve", "--host", "0.0.0.0"]) == BadInput.exit_code
    assert "miaobi keys create" in capsys.readouterr().err and not started
    assert main(["keys", "create", "team"]) == 0
    assert main(["serve", "--host", "0.0.0.0"]) == 0 and started[-1].host == "0.0.0.0"
    assert main(["keys", "revoke", "team"]) == 0
    assert main(["serve", "--host", "0.0.0.0"]) == BadInput.exit_code


@pytest.mark.parametrize(
    ("argv", "named", "code"),
    [
        (["--port", "70000"], "70000", BadInput),
        (["--streams", "0"], "--streams", BadInput),
        (["--log-level", "loud"], "loud", BadInput),
        (["--api-key-file", "/nowhere"], "/nowhere", NotFound),
        (["--model", "nobody"], "nobody", NotFound),
        (["--model", "x=/nowhere"], "/nowhere", NotFound),
    ],
)
def test_mistakes_are_reported_before_anything_listens(
    argv: list[str],
    named: str,
    code: Any,
    started: list[Settings],
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["serve", *argv]) == code.exit_code
    assert named in capsys.readouterr().err and not started


def test_the_command_itself_imports_nothing_heavy() -> None:
    statement = (
        "import sys, miaobi.serve.command; print(sorted({'torch', 'fastapi', "
        "'uvicorn', 'sqlalchemy', 'numpy', 'gradio'} & set(sys.modules)))"
    )
    assert (
        subprocess.run(
            [sys.executable, "-c", statement],
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
        == "[]"
    )


def test_a_server_that_is_ready_has_not_imported_what_trains() -> None:
    """Torch, Transformers and Gradio take seconds: they come with the first request
    that needs them.
    """
    statement = (
        "import sys; from miaobi.serve import listening, opening; from "
        "miaobi.serve.admission import Admission; from miaobi.serve.app import "
        "create_app;"
        "from miaobi.serve.services import Services; from miaobi.serve.settings import Settings; s = Settings();"
        "create_app(Services(s, opening.build_pool(s), Admission(s)));"
        "print(sorted({'torch', 'transformers', 'gradio', 'openvino', "
        "'xllamacpp', 'diffusers', 'peft', 'sklearn'} & set(sys.modules)))"
    )
    assert (
        subprocess.run(
            [sys.executable, "-c", statement],
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
        == "[]"
    )


def test_a_whole_process(
    tmp_path: Path, smollm2: Path, pack: Callable[[str], Path]
) -> None:
    """A process of its own: it greets with its address, is ready, answers with a real
    model, and ends with 0.
    """
    home = tmp_path / "home"
    home.mkdir(exist_ok=True)
    (home / "packs").symlink_to(SHARED / "packs")
    log = (tmp_path / "log").open("w")
    process = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "miaobi.cli",
            "serve",
            "--model",
            "smollm2",
            "--port",
            "0",
            "--no-studio",
            "--workers",
            "0",
        ],
        stdout=log,
        stderr=log,
        env={**os.environ, "MIAOBI_HOME": str(home), "OMP_WAIT_POLICY": "PASSIVE"},
    )
    try:
        wait_until(
            lambda: (
                "/docs" in (tmp_path / "log").read_text() or process.poll() is not None
            ),
            60,
        )
        said = (tmp_path / "log").read_text()
        settings_list = re.search(r"http://127\.0\.0\.1:\d+", said)
        assert settings_list, said
        assert "smollm2" in said
        with httpx.Client(base_url=settings_list[0], timeout=120) as client:
            wait_until(lambda: _status(client) == 200, 60)
            answer = client.post(
                "/v1/chat/completions",
                json={
                    "model": "smollm2",
                    "messages": [{"role": "user", "content": "Name a colour."}],
                    "max_tokens": 6,
                    "temperature": 0,
                    "response_format": {"type": "json_object"},
                },
            ).json()
            assert (
                answer["choices"][0]["message"]["content"].startswith("{")
                and answer["usage"]["prompt_tokens"] > 20
            )
            refused = client.post(
                "/v1/chat/completions",
                json={
                    "model": "smollm2",
                    "messages": [{"role": "user", "content": "x"}],
                    "tools": [{"type": "function", "function": {"name": "f"}}],
                },
            )
            assert (
                refused.status_code == 400
                and "tools" in refused.json()["error"]["message"]
            )
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
    finally:
        process.kill()
        process.wait()
        log.close()


def _status(client: httpx.Client) -> int:
    try:
        return client.get("/ready").status_code
    except httpx.HTTPError:
        return 0
