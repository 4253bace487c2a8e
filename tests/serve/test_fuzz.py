"""Bytes that nobody meant: on the socket, in forms, in events. No answer is a 500,
nothing hangs, and the server serves on.
"""

from __future__ import annotations

import json
import socket
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.serve.conftest import Echo, Grey, toy_pool
from tests.serve.live import live, wait_until

from miaobi.serve.admission import Admission
from miaobi.serve.app import create_app
from miaobi.serve.services import Services
from miaobi.serve.settings import Limits, Settings


@pytest.fixture(scope="module")
def served(
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[tuple[httpx.Client, Services, Echo]]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MIAOBI_HOME", str(tmp_path_factory.mktemp("served")))
        chosen = Settings(
            studio=False,
            workers=0,
            limits=Limits(upload_bytes=3000, body_bytes=60_000, body_seconds=1),
        )
        echo = Echo()
        services = Services(
            chosen, toy_pool(chosen, echo=echo, grey=Grey()), Admission(chosen)
        )
        with (
            live(create_app(services)) as address,
            httpx.Client(base_url=address, timeout=20) as client,
        ):
            yield client, services, echo


def examples(quick: int) -> Callable[[Any], Any]:
    return settings(
        max_examples=quick,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )


TEXTS = st.sampled_from(
    [
        b"--x",
        b"--x--",
        b"\r\n",
        b"\r\n\r\n",
        b"\n",
        b'Content-Disposition: form-data; name="file"; filename="a"',
        b'Content-Disposition: form-data; name="purpose"',
        b'Content-Disposition: form-data; name="image"; filename="a.png"',
        b"Content-Disposition: form-data",
        b"Content-Disposition: form-data; name*=utf-8''%ff",
        b'Content-Disposition: form-data; name="',
        b"Content-Type: application/json",
        b"Content-Type: text/plain; charset=utf-99",
        b"Content-Transfer-Encoding: base64",
        b"batch",
        b"{}",
        b"x" * 1500,
        b": ",
        b";",
        b'"',
        b"\x00",
        b"\xff\xfe",
        b"\x89PNG\r\n\x1a\n",
        b"GIF89a",
        b"RIFF\x00\x00\x00\x00WEBP",
    ]
)
FORMS = st.lists(TEXTS | st.binary(max_size=20), max_size=14).map(b"".join)
TYPES = st.sampled_from(
    [
        "multipart/form-data; boundary=x",
        "multipart/form-data",
        "multipart/form-data; boundary=",
        'multipart/form-data; boundary="x"',
        "multipart/form-data; boundary=" + "y" * 300,
        "multipart/form-data; charset=utf-99; boundary=x",
    ]
)


def _forms(client: httpx.Client, path: str, body: bytes, kind: str) -> None:
    for content in (
        body,
        iter([body[at : at + 7] for at in range(0, min(len(body), 400), 7)]),
    ):
        answer = client.post(path, content=content, headers={"content-type": kind})
        assert answer.status_code < 500 or answer.status_code == 501, (
            body,
            kind,
            answer.text,
        )
        if answer.status_code >= 400:
            assert set(answer.json()["error"]) == {"message", "type", "param", "code"}


PATHS = st.sampled_from(
    [
        "/v1/files",
        "/v1/images/edits",
        "/v1/images/variations",
        "/v1/audio/transcriptions",
    ]
)


def test_forms(served: tuple[httpx.Client, Services, Echo]) -> None:
    examples(30)(
        given(path=PATHS, body=FORMS, kind=TYPES)(
            lambda path, body, kind: _forms(served[0], path, body, kind)
        )
    )()


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_forms_for_long(served: tuple[httpx.Client, Services, Echo]) -> None:
    examples(2000)(
        given(path=PATHS, body=FORMS, kind=TYPES)(
            lambda path, body, kind: _forms(served[0], path, body, kind)
        )
    )()


JSONL = st.sampled_from(
    [
        b"GET /health HTTP/1.1",
        b"POST /v1/files HTTP/1.1",
        b"POST /v1/chat/completions HTTP/1.1",
        b"GET /v1/../health HTTP/1.0",
        b"BREW / HTTP/9.9",
        b"GET http://evil/ HTTP/1.1",
        b"Host: localhost",
        b"Host: evil",
        b"Content-Length: 5",
        b"Content-Length: -1",
        b"Content-Length: 99999999999999999999",
        b"Transfer-Encoding: chunked",
        b"Transfer-Encoding: gzip, chunked",
        b"Expect: 100-continue",
        b"Connection: upgrade",
        b"Upgrade: websocket",
        b"Content-Type: application/json",
        b"5\r\nhello\r\n0\r\n",
        b"ffffffffffffffff",
        b"",
        b"",
        b"{}",
        b"Content-Encoding: gzip",
        b"Cookie: " + b"a=b; " * 50,
        b"X: " + b"y" * 3000,
    ]
)
REQUESTS = st.lists(JSONL | st.binary(max_size=12), min_size=1, max_size=12).map(
    b"\r\n".join
)


def _bytes(client: httpx.Client, sent: bytes) -> None:
    with (
        socket.create_connection(
            (client.base_url.host, client.base_url.port or 80), timeout=20
        ) as connection,
        suppress(ConnectionError),
    ):
        connection.sendall(sent + b"\r\n\r\n")
        connection.shutdown(socket.SHUT_WR)
        answer = b""
        while piece := connection.recv(65536):
            answer += piece
        assert b"HTTP/1.1 500" not in answer, sent


def test_bytes_on_the_socket(served: tuple[httpx.Client, Services, Echo]) -> None:
    examples(100)(given(REQUESTS)(lambda sent: _bytes(served[0], sent)))()
    assert served[0].get("/health").status_code == 200


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_bytes_on_the_socket_for_long(
    served: tuple[httpx.Client, Services, Echo],
) -> None:
    examples(5000)(given(REQUESTS)(lambda sent: _bytes(served[0], sent)))()
    assert served[0].get("/health").status_code == 200


SAID = st.text() | st.lists(
    st.sampled_from(
        [
            "data: ",
            "\n\n",
            "\r\n",
            "event: x\n",
            "[DONE]",
            "\u2028",
            "\u0085",
            "\x00",
            "春",
            "👩‍👩‍👧",
            "{",
            "}",
            '"',
            "\\",
            " ",
        ]
    ),
    max_size=20,
).map("".join)


def _events(
    client: httpx.Client,
    services: Services,
    echo: Echo,
    said: str,
    usage: bool,
    n: int,
    leave: int,
) -> None:
    """What was said comes back from the events, whatever it was; and whoever leaves
    after `leave` of them leaves nothing behind.
    """
    body = {
        "model": "echo",
        "messages": [{"role": "user", "content": said}],
        "stream": True,
        "n": n,
        "max_tokens": 1000,
        "stream_options": {"include_usage": usage},
    }
    with client.stream("POST", "/v1/chat/completions", json=body) as answer:
        if answer.status_code != 200:
            assert answer.status_code == 400, answer.read()
            return
        whole = ["" for _ in range(n)]
        last = ""
        if leave:
            pieces = answer.iter_raw()
            for _ in range(leave):
                next(pieces, b"")
        for line in [] if leave else answer.read().decode().split("\n"):
            if line in ("", "data: [DONE]"):
                last = line or last
                continue
            for choice in json.loads(line.removeprefix("data: "))["choices"]:
                whole[choice["index"]] += choice["delta"].get("content") or ""
        if not leave:
            assert last == "data: [DONE]" and whole == [said] * n
    wait_until(lambda: not services.admission.running and not echo.running)


STREAMS = {
    "said": SAID,
    "usage": st.booleans(),
    "n": st.integers(1, 3),
    "leave": st.sampled_from([0, 0, 0, 1, 3]),
}


def test_events(served: tuple[httpx.Client, Services, Echo]) -> None:
    examples(40)(
        given(**STREAMS)(
            lambda said, usage, n, leave: _events(*served, said, usage, n, leave)
        )
    )()


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_events_for_long(served: tuple[httpx.Client, Services, Echo]) -> None:
    examples(2000)(
        given(**STREAMS)(
            lambda said, usage, n, leave: _events(*served, said, usage, n, leave)
        )
    )()
