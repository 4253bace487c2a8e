"""The door: no path answers without a key, whatever the Host header says, and no other
site's page gets in.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from starlette.routing import Mount
from tests.serve.conftest import Echo, toy_pool

from miaobi.core import bundle
from miaobi.core.store import Store
from miaobi.serve import keyring, keys
from miaobi.serve.admission import Admission
from miaobi.serve.app import create_app
from miaobi.serve.callers import Caller
from miaobi.serve.guard import OPEN, inside
from miaobi.serve.mounts import pages
from miaobi.serve.routes import routes
from miaobi.serve.services import Services
from miaobi.serve.settings import Settings

KEY = "mb-of-the-tests"
BEARER = {"authorization": f"Bearer {KEY}"}


def serving(**settings: Any) -> Services:
    chosen = Settings(**{"hosts": ("testserver",), **settings})
    return Services(chosen, toy_pool(chosen, echo=Echo()), Admission(chosen))


@pytest.fixture
def locked() -> Iterator[TestClient]:
    """A server with a key."""
    with TestClient(create_app(serving(api_keys=(KEY,)))) as client:
        yield client


def every_path(app: FastAPI) -> list[tuple[str, str]]:
    """Method and path of each route, with something in the place of its parameters;
    below mounts too.
    """
    endpoints = {
        ("GET", "/openapi.json"),
        *(
            ("GET", f"/{name}{below}")
            for name in pages.names()
            for below in ("", "/", "/gradio_api/info", "/x/y")
        ),
    }
    for name in routes.names():
        for route in routes.get(name).router.routes:
            path = "/".join(
                "x" if part.startswith("{") else part for part in route.path.split("/")
            )
            endpoints |= {(method, path) for method in route.methods or ()}
    assert len(endpoints) > 10
    return sorted(endpoints)


def test_every_route_demands_a_key(locked: TestClient) -> None:
    app = locked.app
    assert isinstance(app, FastAPI)
    mounts = {route.path for route in app.routes if isinstance(route, Mount)}
    assert mounts <= {f"/{name}" for name in pages.names()}, (
        "a mount that this test does not know"
    )
    for method, path in every_path(app):
        answer = locked.request(method, path, follow_redirects=False)
        if OPEN.fullmatch(path):
            assert path in ("/health", "/ready", "/studio/login")
            continue
        assert answer.status_code == 401, (method, path)
        assert (
            answer.json()["error"]["code"] == "invalid_api_key"
            and answer.headers["www-authenticate"] == "Bearer"
        )


def test_what_is_open_is_a_list_that_one_reads() -> None:
    """Changing it is a decision."""
    assert OPEN.pattern.split("|") == [
        "/health",
        "/ready",
        "/studio/login",
        "/studio/static/[0-9a-f]+/[a-z0-9_.-]+",
        "/v1/images/files/[A-Za-z0-9_-]{22,86}\\.(?:png",
        "jpeg",
        "webp)",
    ]
    for path in (
        "/health/",
        "/healthz",
        "/ready/../metrics",
        "//health",
        "/v1/images/files/../../metrics",
        "/v1/images/files/" + "a" * 22 + ".png/x",
        "/v1/images/files/" + "a" * 21 + ".png",
        "/health\n",
        "/studio/login/x",
        "/studio/static/0/../jobs",
        "/studio/static/0/x/y",
        "/studio/en/chat",
    ):
        assert not OPEN.fullmatch(path), path


@pytest.mark.parametrize(
    "authorization",
    [
        "",
        KEY,
        f"Basic {KEY}",
        "Bearer",
        "Bearer ",
        f"Bearer {KEY}x",
        f"Bearer x{KEY}",
        f"Bearer {KEY} {KEY}",
        "Bearer \udc80",
        f"Bearer {KEY[:-1]}",
        "Bearer None",
        "Bearer null",
        "Bearer *",
        f"Token {KEY}",
    ],
)
def test_other_keys_are_refused(locked: TestClient, authorization: str) -> None:
    raw = authorization.encode("utf-8", "surrogateescape")
    assert locked.get("/v1/models", headers={"authorization": raw}).status_code == 401


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER"])
def test_the_key_opens(locked: TestClient, scheme: str) -> None:
    assert (
        locked.get(
            "/v1/models", headers={"authorization": f"{scheme} {KEY}"}
        ).status_code
        == 200
    )


def test_two_authorizations_are_refused(locked: TestClient) -> None:
    answer = locked.get(
        "/v1/models",
        headers=[("authorization", f"Bearer {KEY}"), ("authorization", "Bearer other")],
    )
    assert answer.status_code == 400


def test_a_key_in_the_address_or_a_cookie_is_none(locked: TestClient) -> None:
    assert locked.get(f"/v1/models?api_key={KEY}&key={KEY}").status_code == 401
    assert (
        locked.get(
            "/v1/models", headers={"cookie": f"miaobi_key={KEY}; miaobi_session={KEY}"}
        ).status_code
        == 401
    )


HOSTS = [
    "",
    " ",
    "localhost/health",
    "localhost?/health",
    "localhost#",
    "localhost@evil",
    "localhost\\@evil",
    "/health",
    "http://localhost",
    "localhost:80:80",
    "localhost:99999999",
    "a b",
    "localhost,evil",
    "[::1",
    "::1",
    "[::1]x",
    "evil.example",
    "127.0.0.1.evil.example",
    "localhost.evil.example",
    "0.0.0.0",
    "169.254.169.254",
    "2130706433",
    "0x7f000001",
    "0177.0.0.1",
    "127.1",
    "ⓛocalhost",
    "localhost\x00",
    "-localhost",
    "xn--lcalhost-",
    "testserver/",
]


@pytest.mark.parametrize("path", ["/v1/models", "/metrics", "/health"])
@pytest.mark.parametrize("extra", [{}, BEARER])
def test_malformed_and_foreign_hosts_reach_nothing(
    locked: TestClient, extra: dict[str, str], path: str
) -> None:
    """A crafted Host header skipped authentication elsewhere (vLLM 2026-48746): here it
    is refused, with and without the key.
    """
    for host in HOSTS:
        answer = locked.get(path, headers={"host": host.encode("utf-8"), **extra})  # type: ignore[dict-item]
        assert (
            answer.status_code in (400, 421)
            and answer.json()["error"]["code"] == "bad_host"
        ), host


@pytest.mark.parametrize(
    "host",
    [
        "localhost",
        "LOCALHOST:8000",
        "127.0.0.1:1",
        "[::1]:8000",
        "localhost.",
        "testserver",
    ],
)
def test_own_hosts_do_not_skip_the_key(locked: TestClient, host: str) -> None:
    assert locked.get("/v1/models", headers={"host": host}).status_code == 401
    assert locked.get("/v1/models", headers={"host": host, **BEARER}).status_code == 200


def test_two_hosts_are_refused(locked: TestClient) -> None:
    assert (
        locked.get(
            "/health", headers=[("host", "localhost"), ("host", "localhost")]
        ).status_code
        == 400
    )


def test_a_server_for_others_answers_to_any_name_but_never_without_a_key() -> None:
    with TestClient(create_app(serving(host="0.0.0.0", api_keys=(KEY,)))) as client:
        assert (
            client.get(
                "/v1/models", headers={"host": "models.example.org", **BEARER}
            ).status_code
            == 200
        )
        assert (
            client.get("/v1/models", headers={"host": "models.example.org"}).status_code
            == 401
        )
        assert (
            client.get(
                "/v1/models", headers={"host": "models.example.org/health"}
            ).status_code
            == 400
        )
    with TestClient(
        create_app(serving(host="0.0.0.0"))
    ) as client:  # the command refuses to start like this; the door holds all the same
        assert client.get("/v1/models").status_code == 401


FOREIGN = [
    {"origin": "http://evil.example"},
    {"origin": "null"},
    {"origin": "http://testserver.evil.example"},
    {"origin": "http://testserver@evil.example"},
    {"sec-fetch-site": "cross-site"},
    {"sec-fetch-site": "same-site"},
    {"origin": "http://testserver:81"},
    {"origin": ""},
    {"origin": "http://[::1"},
    {"origin": "testserver"},
    {"origin": "http://testserver/"},
    {"origin": "http://testserver, http://evil.example"},
]


def test_pages_of_other_sites_cannot_ask() -> None:
    """CSRF: with or without a key, nothing that a foreign page sends is acted upon, and
    nothing tells a browser that it may read.
    """
    with TestClient(create_app(serving())) as client:
        for headers in FOREIGN:
            answer = client.post("/v1/videos", json={}, headers=headers)
            assert (
                answer.status_code == 403
                and answer.json()["error"]["code"] == "cross_site"
            ), headers
            assert not [
                name for name in answer.headers if name.startswith("access-control")
            ]
        preflight = client.options(
            "/v1/models",
            headers={
                "origin": "http://evil.example",
                "access-control-request-method": "POST",
            },
        )
        assert not [
            name for name in preflight.headers if name.startswith("access-control")
        ]


def test_the_servers_own_page_may_ask() -> None:
    with TestClient(create_app(serving())) as client:
        assert (
            client.post(
                "/v1/videos",
                json={},
                headers={
                    "origin": "http://testserver",
                    "sec-fetch-site": "same-origin",
                },
            ).status_code
            == 501
        )


def test_floods_of_headers_are_refused() -> None:
    with TestClient(create_app(serving())) as client:
        assert (
            client.get(
                "/health", headers=[(f"x-{at}", "1") for at in range(200)]
            ).status_code
            == 431
        )
        assert (
            client.get("/health", headers={"x-long": "a" * 40_000}).status_code == 431
        )
        assert client.get("/health?" + "a" * 40_000).status_code == 431


def test_web_sockets_are_closed(locked: TestClient) -> None:
    from starlette.websockets import WebSocketDisconnect

    with pytest.raises(WebSocketDisconnect), locked.websocket_connect("/v1/models"):
        pass


def test_keys_of_the_database(monkeypatch: pytest.MonkeyPatch) -> None:
    """Made and revoked while the server runs; revoking the last one opens nothing."""
    monkeypatch.setattr(keys, "FRESH", 0.0)
    with TestClient(create_app(serving())) as client:
        assert client.get("/v1/usage").json()["key"] == "local"
        new = keyring.create("team-a", requests_per_minute=60, tokens_per_day=200_000)
        assert client.get("/v1/usage").status_code == 401
        usage = client.get(
            "/v1/usage", headers={"authorization": f"Bearer {new.key}"}
        ).json()
        assert usage["key"] == "team-a" and usage["limits"] == {
            "requests_per_minute": 60,
            "tokens_per_day": 200_000,
        }
        assert new.key not in str(keyring.list_keys()) and new.key not in repr(
            keyring.list_keys()
        )
        keyring.revoke("team-a")
        assert (
            client.get(
                "/v1/usage", headers={"authorization": f"Bearer {new.key}"}
            ).status_code
            == 401
        )
        assert client.get("/v1/usage").status_code == 401


def test_what_everybody_gets_is_changed_by_operators_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keys, "FRESH", 0.0)
    for number in (1, 2):
        bundle.write(
            tmp_path / f"made-{number}",
            bundle.Manifest("toy", "text"),
            lambda draft: None,
        )
        Store().add(tmp_path / f"made-{number}", "poet")
    with TestClient(create_app(serving())) as client:
        team = keyring.create("team")
        boss = keyring.create("boss", operator=True)
        assert [key.operator for key in keyring.list_keys().keys] == [True, False]
        for path, body in (("promote", {"version": 1}), ("rollback", {})):
            answer = client.post(
                f"/v1/store/models/poet/{path}",
                json=body,
                headers={"authorization": f"Bearer {team.key}"},
            )
            assert (
                answer.status_code == 403
                and answer.json()["error"]["code"] == "operators_only"
            )
        assert (
            client.get(
                "/v1/store/models", headers={"authorization": f"Bearer {team.key}"}
            ).status_code
            == 200
        )
        assert (
            client.post(
                "/v1/store/models/poet/promote",
                json={"version": 1},
                headers={"authorization": f"Bearer {boss.key}"},
            ).status_code
            == 200
        )
    assert Store().resolve("poet").number == 1


def test_keys_are_random_and_stored_as_hashes_only() -> None:
    new = [keyring.create(f"team-{at}") for at in range(5)]
    assert len({key.key for key in new}) == 5 and all(len(key.key) >= 40 for key in new)
    with keyring._opened("") as records:
        stored = keyring.all_keys(records)
        assert {row.sha256 for row in stored} == {
            keyring.digest(key.key) for key in new
        }
    for path in Settings().folder.iterdir():
        assert not any(key.key.encode() in path.read_bytes() for key in new)


@pytest.mark.parametrize(
    "name", ["", "a b", "../x", "a\r\nb", "-x", "a" * 65, "名", "a;b"]
)
def test_names_of_keys(name: str) -> None:
    with pytest.raises(ValueError, match="cannot name a key"):
        keyring.create(name)


def test_a_name_is_used_once() -> None:
    keyring.create("team")
    keyring.revoke("team")
    with pytest.raises(Exception, match="already, or was"):
        keyring.create("team")


@pytest.mark.anyio
async def test_calls_from_within_have_a_callers_rights() -> None:
    services = serving(api_keys=(KEY,))
    app = create_app(services)
    await services.open()
    try:
        async with httpx.AsyncClient(
            transport=httpx.ASGITransport(inside(app, Caller("key-1", "team-a"))),
            base_url="http://inside",
        ) as client:
            assert (await client.get("/v1/usage")).json()["key"] == "team-a"
        async with httpx.AsyncClient(
            transport=httpx.ASGITransport(app), base_url="http://localhost"
        ) as client:
            assert (
                await client.get("/v1/usage", headers={"miaobi.caller": "key-1"})
            ).status_code == 401
    finally:
        await services.close()
