"""The way in: languages, keys and sessions, and how little of Gradio is reachable."""

from __future__ import annotations

import asyncio
import inspect
from pathlib import Path
from types import SimpleNamespace

import httpx
import pytest
from fastapi.testclient import TestClient
from tests.serve.conftest import Echo, toy_pool
from tests.studio.conftest import KEY, Site

from miaobi.serve.admission import Admission
from miaobi.serve.app import create_app
from miaobi.serve.services import Services
from miaobi.serve.sessions import COOKIE, Sessions
from miaobi.serve.settings import Settings
from miaobi.studio import door
from miaobi.studio.rooms import rooms


@pytest.fixture
def services(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Services:
    monkeypatch.setenv("MIAOBI_HOME", str(tmp_path))
    settings = Settings(api_keys=(KEY,), hosts=("testserver",))
    return Services(settings, toy_pool(settings, echo=Echo()), Admission(settings))


def test_the_language_is_asked_for_then_kept_then_the_browsers(
    services: Services,
) -> None:
    with TestClient(
        create_app(services),
        headers={"authorization": f"Bearer {KEY}"},
        follow_redirects=False,
    ) as client:

        def goes_to(query: str = "", **headers: str) -> str:
            return client.get(f"/studio/{query}", headers=headers).headers["location"]

        assert (
            goes_to(**{"accept-language": "fr, zh-CN;q=0.9, en;q=0.8"}) == "/studio/zh/"
        )
        assert goes_to(**{"accept-language": "en-GB"}) == "/studio/en/"
        assert goes_to("?language=zh", **{"accept-language": "en"}) == "/studio/zh/"
        assert goes_to(**{"accept-language": "en"}) == "/studio/zh/"
        assert goes_to("?language=../../evil") == "/studio/zh/"
        assert client.get("/studio").headers["location"] == "/studio/zh/"


def test_a_random_token_stands_for_the_key_and_ends_with_it(services: Services) -> None:
    with TestClient(create_app(services), follow_redirects=False) as client:
        assert (
            client.get("/studio/", headers={"accept": "text/html"}).headers["location"]
            == "/studio/login"
        )
        assert client.get("/studio/en/").status_code == 401
        for wrong in (
            {"key": "mb-wrong"},
            {"key": 7},
            {"key": "x\ny"},
            [],
            {"key": ""},
        ):
            assert client.post("/studio/login", json=wrong).status_code in (400, 401)
        signed = client.post("/studio/login", json={"key": KEY})
        cookie = next(
            line
            for line in signed.headers.get_list("set-cookie")
            if line.startswith(COOKIE)
        )
        assert (
            KEY not in cookie
            and "HttpOnly" in cookie
            and "SameSite=strict" in cookie
            and "Path=/studio" in cookie
        )
        assert client.get("/studio/").status_code == 303
        assert (
            client.get(
                "/v1/models", headers={"cookie": f"{COOKIE}={client.cookies[COOKIE]}"}
            ).status_code
            == 401
        )
        assert (
            client.get(
                "/v1/models",
                headers={"authorization": f"Bearer {client.cookies[COOKIE]}"},
            ).status_code
            == 401
        )
        token = client.cookies[COOKIE]
        assert client.get("/studio/login").status_code == 200
        assert services.sessions.key(token) is None
        assert (
            client.get(
                "/studio/en/", headers={"cookie": f"{COOKIE}={token}"}
            ).status_code
            == 401
        )


def test_sessions_end_in_time_and_are_not_without_number(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = [0.0]
    monkeypatch.setattr("miaobi.serve.sessions.time.monotonic", lambda: clock[0])
    monkeypatch.setattr("miaobi.serve.sessions.MOST", 3)
    sessions = Sessions()
    tokens = [sessions.begin(f"key {number}") for number in range(4)]
    assert len(set(tokens)) == 4 and [sessions.key(token) for token in tokens] == [
        None,
        "key 1",
        "key 2",
        "key 3",
    ]
    clock[0] = 13 * 3600.0
    assert sessions.key(tokens[3]) is None


def test_only_what_the_page_needs_of_gradio_is_reachable(
    site: Site, home: Path
) -> None:
    for path in (
        "gradio_api/proxy=http://127.0.0.1:1/",
        "gradio_api/run/predict",
        "gradio_api/call/show",
        "gradio_api/openapi.json",
        "monitoring",
        "login",
        "token",
        "gradio_api/file=http://127.0.0.1:1/",
        "gradio_api/file=https://example.com/",
        "gradio_api/dev/reload",
        "gradio_api/vibe-code",
        "llms.txt",
        "robots.txt",
        "gradio_api/stream/x",
        "gradio_api/component_server",
        "custom_component/a/b/c/d",
        "gradio_api/runs",
        "docs",
        "openapi.json",
    ):
        assert site.get(f"/studio/en/{path}").status_code in (404, 405), path
    secrets = [
        home / "server" / "records.sqlite",
        home / "models" / "poet" / "1" / "miaobi.json",
        Path("/etc/passwd"),
        Path(__file__),
        Path("/proc/self/environ"),
    ]
    for secret in secrets:
        for shape in (
            str(secret),
            f"{home}/server/studio/../../..{secret}",
            str(secret).replace("/", "%2F"),
        ):
            assert site.get(f"/studio/en/gradio_api/file={shape}").status_code in (
                403,
                404,
            ), shape
    named = site.get("/studio/en/gradio_api/info").json()
    assert named == {"named_endpoints": {}, "unnamed_endpoints": {}}


def test_every_answer_lets_the_browser_fetch_from_here_only(site: Site) -> None:
    for path in (
        "/studio/",
        "/studio/en/",
        "/studio/login",
        "/studio/en/theme.css",
        "/studio/en/config",
        "/studio/en/nothing",
    ):
        answer = site.get(path)
        assert "default-src 'self'" in answer.headers["content-security-policy"]
    front = site.get("/studio/zh/").text
    assert (
        'lang="zh-CN"' in front
        and "<meta property=" not in front
        and "manifest" not in front.split("gradio_config")[0]
    )
    foreign = httpx.post(
        f"{site.url}/studio/en/gradio_api/queue/join",
        json={},
        cookies=site.sign_in(),
        headers={"origin": "https://evil.example"},
    )
    assert foreign.status_code == 403 and not [
        name for name in foreign.headers if name.startswith("access-control")
    ]


def test_open_pages_end_when_the_server_stops_and_the_last_answer_is_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(door, "POLL", 0.01)
    admission = SimpleNamespace(draining=False, running={"echo": 1})

    async def scenario() -> None:
        listening = door._Listening(asyncio.Event().wait, admission)  # type: ignore[arg-type]
        waiting = asyncio.ensure_future(listening())
        for change in ({}, {"draining": True}):
            vars(admission).update(change)
            assert not (await asyncio.wait({waiting}, timeout=0.1))[0]
        admission.running = {"echo": 0}
        assert (await asyncio.wait_for(waiting, 10))["type"] == "http.disconnect"
        listening.close()

    asyncio.run(scenario())


def test_who_asks_without_waiting_hears_of_a_reader_who_left() -> None:
    async def left() -> dict[str, str]:
        return {"type": "http.disconnect"}

    async def scenario() -> None:
        listening = door._Listening(left, SimpleNamespace(draining=False, running={}))  # type: ignore[arg-type]
        asked = asyncio.ensure_future(listening())
        await asyncio.sleep(0)
        asked.cancel()
        await asyncio.sleep(0.01)
        assert (await listening())["type"] == "http.disconnect"

    asyncio.run(scenario())


def test_without_gradio_the_page_says_what_to_install(
    services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(door, "find_spec", lambda name: None)
    with TestClient(
        create_app(services), headers={"authorization": f"Bearer {KEY}"}
    ) as client:
        answer = client.get("/studio/en/")
    assert (
        answer.status_code == 501
        and "pip install 'miaobi[studio]'" in answer.json()["error"]["message"]
    )


@pytest.mark.parametrize("name", rooms.names())
def test_a_room_keeps_its_contract(name: str) -> None:
    room = rooms.get(name)
    assert (
        len(room.TITLE) == 2
        and all(room.TITLE)
        and isinstance(room.ORDER, int)
        and list(inspect.signature(room.build).parameters) == ["desk"]
    )
    assert len({rooms.get(other).ORDER for other in rooms.names()}) == len(
        rooms.names()
    )
