"""How little of Gradio is reachable, and what its pages are sent with."""

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
from miaobi.serve.settings import Settings
from miaobi.studio.rooms import mount, rooms


@pytest.fixture
def services(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Services:
    monkeypatch.setenv("MIAOBI_HOME", str(tmp_path))
    settings = Settings(api_keys=(KEY,), hosts=("testserver",))
    return Services(settings, toy_pool(settings, echo=Echo()), Admission(settings))


def test_only_what_the_page_needs_of_gradio_is_reachable(
    rooms: Site, home: Path
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
        assert rooms.get(f"/studio/en/rooms/{path}").status_code in (404, 405), path
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
            assert rooms.get(
                f"/studio/en/rooms/gradio_api/file={shape}"
            ).status_code in (
                403,
                404,
            ), shape
    named = rooms.get("/studio/en/rooms/gradio_api/info").json()
    assert named == {"named_endpoints": {}, "unnamed_endpoints": {}}


def test_every_answer_lets_the_browser_fetch_from_here_only(rooms: Site) -> None:
    for name in ("", "theme.css", "config", "nothing"):
        answer = rooms.get(f"/studio/en/rooms/{name}")
        assert "default-src 'self'" in answer.headers["content-security-policy"]
    front = rooms.get("/studio/zh/rooms/").text
    assert (
        'lang="zh-CN"' in front
        and "<meta property=" not in front
        and "manifest" not in front.split("gradio_config")[0]
    )
    foreign = httpx.post(
        f"{rooms.url}/studio/en/rooms/gradio_api/queue/join",
        json={},
        cookies=rooms.sign_in(),
        headers={"origin": "https://evil.example"},
    )
    assert foreign.status_code == 403 and not [
        name for name in foreign.headers if name.startswith("access-control")
    ]


def test_open_pages_end_when_the_server_stops_and_the_last_answer_is_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(mount, "POLL", 0.01)
    admission = SimpleNamespace(draining=False, running={"echo": 1})

    async def scenario() -> None:
        listening = mount._Listening(asyncio.Event().wait, admission)  # type: ignore[arg-type]
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
        listening = mount._Listening(left, SimpleNamespace(draining=False, running={}))  # type: ignore[arg-type]
        asked = asyncio.ensure_future(listening())
        await asyncio.sleep(0)
        asked.cancel()
        await asyncio.sleep(0.01)
        assert (await listening())["type"] == "http.disconnect"

    asyncio.run(scenario())


def test_without_gradio_the_page_says_what_to_install(
    services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mount, "find_spec", lambda name: None)
    with TestClient(
        create_app(services), headers={"authorization": f"Bearer {KEY}"}
    ) as client:
        answer = client.get("/studio/en/rooms/")
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
