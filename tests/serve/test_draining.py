"""SIGTERM to a real process: not ready, running answers end, others are told to come
back, exit 0.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from tests.serve.conftest import Echo
from tests.serve.live import live, wait_until
from tests.serve.test_admission import probed

from miaobi.core.errors import BadInput, Conflict
from miaobi.serve import listening, usage
from miaobi.serve.database import open_records
from miaobi.serve.settings import Settings

ROOT = Path(__file__).parents[2]


@contextmanager
def process(
    pause: float = 0.0, **settings: object
) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A server with the toy engines, and its address."""
    started = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "tests.serve.toyserver",
            json.dumps(settings),
            str(pause),
        ],
        cwd=ROOT,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONWARNINGS": ""},
    )
    try:
        assert started.stdout is not None
        address = f"http://127.0.0.1:{started.stdout.readline().strip()}"

        def ready() -> bool:
            assert started.poll() is None, started.communicate()[1]
            try:
                return httpx.get(f"{address}/ready", timeout=5).status_code == 200
            except httpx.HTTPError:
                return False

        wait_until(ready, 60)
        yield started, address
    finally:
        started.kill()
        started.communicate()


def said(output: str) -> list[dict[str, object]]:
    return [json.loads(line) for line in output.splitlines()]


def test_a_running_answer_is_completed() -> None:
    with process(0.05, streams=1, drain_seconds=60) as (server, address):
        with httpx.stream(
            "POST",
            f"{address}/probe/stream",
            json={"say": "word " * 40 + "end"},
            timeout=60,
        ) as answer:
            pieces = answer.iter_text()
            next(pieces)
            server.send_signal(signal.SIGTERM)
            wait_until(
                lambda: httpx.get(f"{address}/ready", timeout=5).status_code == 503
            )
            refused = httpx.post(
                f"{address}/probe/say", json={"say": "me too"}, timeout=5
            )
            assert (
                refused.status_code == 503
                and refused.headers["retry-after"]
                and refused.json()["error"]["code"] == "draining"
            )
            assert httpx.get(f"{address}/health", timeout=5).status_code == 200
            assert "".join(pieces).endswith(" end")
        out, err = server.communicate(timeout=60)
        assert server.returncode == 0, err
        records = open_records(Settings().database)
        assert [
            (row["model"], row["requests"], row["completion_tokens"])
            for row in usage.of_key(records, "local", 1)
        ] == [("echo", 1, 41)]
        records.close()
        assert out.strip() == "ended" and any(
            "1 answers are running" in str(line["message"]) for line in said(err)
        )


@pytest.mark.parametrize("second", [pytest.param(False, marks=pytest.mark.slow), True])
def test_the_deadline_or_a_second_signal_stops_the_others(second: bool) -> None:
    with process(0.2, streams=1, drain_seconds=60 if second else 0.2) as (
        server,
        address,
    ):
        with httpx.stream(
            "POST", f"{address}/probe/stream", json={"say": "word " * 5000}, timeout=60
        ) as answer:
            pieces = answer.iter_text()
            next(pieces)
            server.send_signal(signal.SIGTERM)
            if second:
                wait_until(
                    lambda: httpx.get(f"{address}/ready", timeout=5).status_code == 503
                )
                server.send_signal(signal.SIGINT)
            with pytest.raises(httpx.HTTPError):
                list(pieces)
        server.communicate(timeout=60)
        assert server.returncode == 0


def test_headers_that_do_not_come_are_not_waited_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Slow loris: a byte now and then keeps no connection, neither a new one nor one
    that was used.
    """
    monkeypatch.setattr(listening, "HEADER_SECONDS", 0.3)
    _, app = probed(Settings(studio=False), Echo())
    with live(app) as address:
        port = int(address.rsplit(":", 1)[1])
        for before in (b"", b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n"):
            with socket.create_connection(
                ("127.0.0.1", port), timeout=20
            ) as connection:
                if before:
                    connection.sendall(before)
                    answered = b""
                    while b'"ok"' not in answered:
                        answered += connection.recv(10_000)
                connection.sendall(b"GET /health HT")
                assert connection.recv(100) == b""


def test_a_port_in_use_and_an_address_that_is_none() -> None:
    with (
        listening.bind(Settings(port=0)) as bound,
        pytest.raises(Conflict, match="cannot be listened on"),
    ):
        listening.bind(Settings(port=bound.getsockname()[1]))
    with pytest.raises((BadInput, Conflict)):
        listening.bind(Settings(host="203.0.113.7", port=0))
