"""A trailing slash, HEAD, other methods, compressed bodies, pages of the operator's own."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Iterator
from typing import Any

import pytest
from fastapi.testclient import TestClient
from tests.serve.conftest import Echo, toy_pool

from miaobi.serve.admission import Admission
from miaobi.serve.app import create_app
from miaobi.serve.services import Services
from miaobi.serve.settings import Limits, Settings

PAGE = "https://app.example.org"
QUESTION = {
    "model": "echo",
    "messages": [{"role": "user", "content": "hi"}],
    "max_tokens": 2,
}


@pytest.fixture
def client() -> Iterator[TestClient]:
    settings = Settings(
        hosts=("testserver",),
        origins=(PAGE, "app://obsidian.md"),
        studio=False,
        limits=Limits(body_bytes=10_000),
    )
    services = Services(settings, toy_pool(settings, echo=Echo()), Admission(settings))
    with TestClient(create_app(services), follow_redirects=False) as client:
        yield client


def test_a_trailing_slash_is_answered_and_counted_as_its_route(
    client: TestClient,
) -> None:
    assert client.get("/v1/models/").json() == client.get("/v1/models").json()
    counted = client.get("/metrics").text
    assert 'route="/v1/models",status="200"} 2.0' in counted
    answer = client.post("/v1/chat/completions/", json=QUESTION)
    assert answer.status_code == 200
    assert answer.json()["object"] == "chat.completion"


@pytest.mark.parametrize("path", ["/health", "/v1/models", "/openapi.json", "/docs"])
def test_head_is_get_without_its_body(client: TestClient, path: str) -> None:
    head, get = client.head(path), client.get(path)
    assert head.status_code == get.status_code == 200
    assert head.content == b""
    assert head.headers["content-type"] == get.headers["content-type"]


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("GET", "/v1/chat/completions", "POST"),
        ("HEAD", "/v1/chat/completions", "POST"),
        ("POST", "/v1/models", "GET, HEAD"),
        ("PATCH", "/v1/files", "GET, HEAD, POST"),
        ("POST", "/v1/files/file-" + "0" * 28, "DELETE, GET, HEAD"),
    ],
)
def test_another_method_names_those_that_there_are(
    client: TestClient, method: str, path: str, allowed: str
) -> None:
    answer = client.request(method, path, json={} if method != "GET" else None)
    assert answer.status_code == 405
    assert answer.headers["allow"] == allowed
    if method != "HEAD":
        error = answer.json()["error"]
        assert error["code"] == "method_not_allowed"
        assert allowed in error["message"]


def compressed(encoding: str) -> bytes:
    body = json.dumps(QUESTION).encode()
    return gzip.compress(body) if "gzip" in encoding else zlib.compress(body)


@pytest.mark.parametrize("encoding", ["gzip", "x-gzip", "GZip", "deflate", "identity"])
def test_compressed_bodies_are_read(client: TestClient, encoding: str) -> None:
    body = json.dumps(QUESTION).encode()
    if encoding != "identity":
        body = compressed(encoding.lower())
    headers = {"content-type": "application/json", "content-encoding": encoding}
    answer = client.post("/v1/chat/completions", content=body, headers=headers)
    assert answer.status_code == 200
    assert answer.json()["choices"]


@pytest.mark.parametrize(
    ("encoding", "body", "status", "code"),
    [
        ("br", b"{}", 415, "unsupported_media_type"),
        ("gzip", b"{}", 400, "bad_encoding"),
        ("gzip", gzip.compress(b"{}")[:-4], 400, "bad_encoding"),
        ("gzip", gzip.compress(b" " * 50_000_000), 413, None),
    ],
    ids=["another", "plain", "cut short", "bomb"],
)
def test_other_bodies_are_refused(
    client: TestClient, encoding: str, body: bytes, status: int, code: str | None
) -> None:
    headers = {"content-type": "application/json", "content-encoding": encoding}
    answer = client.post("/v1/chat/completions", content=body, headers=headers)
    assert answer.status_code == status
    assert answer.json()["error"]["code"] == code


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b'{"model":', "Expecting value (9)"),
        (b"", "it is empty"),
        (b'{"model": "caf\xe9"}', "'utf-8' codec can't decode byte 0xe9"),
        (b'{"seed": ' + b"9" * 6000 + b"}", "4300 digits"),
    ],
    ids=["cut short", "empty", "Latin-1", "endless number"],
)
def test_what_is_no_json_says_why(client: TestClient, body: bytes, said: str) -> None:
    headers = {"content-type": "application/json"}
    answer = client.post("/v1/chat/completions", content=body, headers=headers)
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert error["code"] == "json_invalid"
    assert said in error["message"]


def test_a_kind_of_part_that_is_not_read_names_those_that_are(
    client: TestClient,
) -> None:
    part = {"type": "input_audio", "input_audio": {"data": "", "format": "wav"}}
    question = {**QUESTION, "messages": [{"role": "user", "content": [part]}]}
    error = client.post("/v1/chat/completions", json=question).json()["error"]
    assert error["param"] == "messages.0.content.0"
    assert "'text', 'image_url'" in error["message"]


@pytest.mark.parametrize("origin", [PAGE, "app://obsidian.md"])
def test_a_page_of_ones_own_may_ask(client: TestClient, origin: str) -> None:
    asked = {
        "origin": origin,
        "access-control-request-method": "POST",
        "access-control-request-headers": "authorization,content-type,x-stainless-os",
    }
    preflight = client.options("/v1/chat/completions", headers=asked)
    assert preflight.status_code == 204
    assert preflight.headers["access-control-allow-origin"] == origin
    assert "authorization" in preflight.headers["access-control-allow-headers"]
    sent = {"origin": origin, "sec-fetch-site": "cross-site"}
    answer = client.post("/v1/chat/completions", json=QUESTION, headers=sent)
    assert answer.status_code == 200
    assert answer.headers["access-control-allow-origin"] == origin
    assert "origin" in answer.headers["vary"].lower()
    assert "access-control-allow-credentials" not in answer.headers
    refused = client.post("/v1/chat/completions", json={}, headers=sent)
    assert refused.status_code == 400
    assert refused.headers["access-control-allow-origin"] == origin


@pytest.mark.parametrize(
    "origin", ["https://evil.example", "http://app.example.org", "null", f"{PAGE}.evil"]
)
def test_no_other_page_may(client: TestClient, origin: str) -> None:
    sent: dict[str, Any] = {"origin": origin, "access-control-request-method": "POST"}
    preflight = client.options("/v1/chat/completions", headers=sent)
    assert "access-control-allow-origin" not in preflight.headers
    answer = client.post(
        "/v1/chat/completions", json=QUESTION, headers={"origin": origin}
    )
    assert answer.status_code == 403
    assert answer.json()["error"]["code"] == "cross_site"
    assert "access-control-allow-origin" not in answer.headers
