"""What clients send is counted as it comes, looked through before it is parsed, and
waited for only so long.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from fastapi.testclient import TestClient
from hypothesis import given, settings, strategies
from tests.serve.conftest import Echo, toy_pool
from tests.serve.probe import with_probe

from miaobi.serve.admission import Admission
from miaobi.serve.app import create_app
from miaobi.serve.bodies import Bodies, check_depth
from miaobi.serve.errors import ApiError
from miaobi.serve.services import Services
from miaobi.serve.settings import Limits, Settings

SMALL = Settings(
    hosts=("testserver",),
    studio=False,
    limits=Limits(
        body_bytes=1000, upload_bytes=100_000, body_seconds=0.2, body_rate=1_000_000
    ),
)


@pytest.fixture
def client() -> Any:
    app = with_probe(
        create_app(Services(SMALL, toy_pool(SMALL, echo=Echo()), Admission(SMALL)))
    )
    with TestClient(app) as client:
        yield client


JSON = {"content-type": "application/json"}


def test_a_body_reaches_its_route(client: TestClient) -> None:
    assert client.post("/probe/body", json={"a": ["b", {"c": "}]"}]}).json() == {
        "a": ["b", {"c": "}]"}]
    }
    assert client.post(
        "/probe/body",
        content=b'{"a": 1}',
        headers={"content-type": "Application/JSON; charset=utf-8"},
    ).json() == {"a": 1}


@pytest.mark.parametrize("headers", [{}, {"content-length": "10"}])
def test_bodies_are_counted_whatever_their_length_is_said_to_be(
    client: TestClient, headers: dict[str, str]
) -> None:
    def much() -> Any:
        yield b'{"a": "'
        for _ in range(20):
            yield b"x" * 100
        yield b'"}'

    answer = client.post("/probe/body", content=much(), headers={**JSON, **headers})
    assert (
        answer.status_code == 413
        and answer.json()["error"]["type"] == "invalid_request_error"
    )
    assert answer.headers["connection"] == "close"


def test_a_length_that_is_too_large_is_refused_before_the_first_byte(
    client: TestClient,
) -> None:
    assert (
        client.post(
            "/probe/body",
            content=b"{}",
            headers={**JSON, "content-length": str(10**12)},
        ).status_code
        == 413
    )


@pytest.mark.parametrize(
    "kind",
    [
        "application/x-www-form-urlencoded",
        "text/plain",
        "",
        "application/xml",
        "multipart/form-data; boundary=x",
        "text/json\r\n",
    ],
)
def test_types_that_a_form_can_send_are_refused(client: TestClient, kind: str) -> None:
    answer = client.post(
        "/probe/body", content=b'{"a": 1}', headers={"content-type": kind}
    )
    assert (
        answer.status_code == 415
        and "application/json" in answer.json()["error"]["message"]
    )


def test_multipart_goes_where_files_go_and_is_counted(client: TestClient) -> None:
    assert client.post(
        "/v1/files", files={"file": ("a.jsonl", b"x")}, data={"purpose": "batch"}
    ).json() == {"file": "a.jsonl", "purpose": "batch"}
    assert (
        client.post(
            "/v1/images/edits", files={"file": ("a.png", b"x" * 2000)}
        ).status_code
        == 413
    )
    answer = client.post(
        "/v1/files?count",
        content=(b"x" * 100_000 for _ in range(30)),
        headers={"content-type": "multipart/form-data; boundary=x"},
    )
    assert answer.status_code == 413


@pytest.mark.parametrize(
    "body",
    [
        b"[" * 100_000,
        b'{"a":' * 33 + b"1" + b"}" * 33,
        b'[{"a":' * 20 + b"1" + b"}]" * 20,
    ],
)
def test_deep_json_is_refused_before_it_is_parsed(body: bytes) -> None:
    with pytest.raises(ApiError, match="nested"):
        check_depth(body, 32)


@pytest.mark.parametrize(
    "body",
    [
        b'{"a": "' + b"[{" * 500 + b'"}',
        b'{"a": "\\"[[[[' + b"[" * 40 + b'"}',
        b"[" * 32 + b"]" * 32,
        b"[]," * 500,
        b"",
        b"nonsense ]]]]",
    ],
)
def test_brackets_in_strings_and_side_by_side_are_not_depth(body: bytes) -> None:
    check_depth(body, 32)


Anything = strategies.recursive(
    strategies.none()
    | strategies.booleans()
    | strategies.floats(allow_nan=False)
    | strategies.text(),
    lambda inner: (
        strategies.lists(inner, max_size=4)
        | strategies.dictionaries(strategies.text(), inner, max_size=4)
    ),
)


def depth(value: Any) -> int:
    if isinstance(value, list | dict):
        return 1 + max(
            map(depth, value if isinstance(value, list) else value.values()), default=0
        )
    return 0


@settings(max_examples=100)
@given(Anything)
def test_the_depth_is_the_parsers(value: Any) -> None:
    for ascii in (True, False):
        body = json.dumps(value, ensure_ascii=ascii).encode("utf-8", "surrogatepass")
        check_depth(body, depth(value))
        if depth(value):
            with pytest.raises(ApiError):
                check_depth(body, depth(value) - 1)


async def _through(
    messages: AsyncIterator[dict[str, Any]], length: int = 0
) -> list[dict[str, Any]]:
    """What the layer sends for these messages from a client."""
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        return await anext(messages)

    async def send(message: Any) -> None:
        sent.append(message)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        pytest.fail("a body that did not come reached the application")

    scope = {
        "type": "http",
        "method": "POST",
        "path": "/x",
        "headers": [
            (b"content-type", b"application/json"),
            (b"content-length", b"100"),
        ],
    }
    await Bodies(app, SMALL)(scope, receive, send)
    return sent


@pytest.mark.anyio
async def test_a_body_that_does_not_come_is_not_waited_for() -> None:
    async def slow() -> AsyncIterator[dict[str, Any]]:
        while True:
            yield {"type": "http.request", "body": b"{", "more_body": True}
            await asyncio.sleep(0.05)

    sent = await asyncio.wait_for(_through(slow()), 10)
    assert sent[0]["status"] == 408


@pytest.mark.anyio
async def test_who_leaves_before_the_body_is_whole_gets_no_answer() -> None:
    async def left() -> AsyncIterator[dict[str, Any]]:
        yield {"type": "http.request", "body": b"{", "more_body": True}
        yield {"type": "http.disconnect"}

    assert await _through(left()) == []
