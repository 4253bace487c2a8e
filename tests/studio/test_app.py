"""The studio's frame: languages, keys and sessions, tokens of forms, static files, what
every answer is sent with, and the contract of pages.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from starlette.responses import Response
from tests.serve.conftest import Echo, toy_pool
from tests.studio.conftest import KEY, Site, serious

from miaobi.core.errors import BadInput
from miaobi.core.language import LANGUAGES, say
from miaobi.serve.admission import Admission
from miaobi.serve.app import create_app
from miaobi.serve.services import Services
from miaobi.serve.sessions import COOKIE, Sessions
from miaobi.serve.settings import Settings
from miaobi.studio import static
from miaobi.studio.navigation import GROUPS
from miaobi.studio.page import get, post
from miaobi.studio.pages import pages
from miaobi.studio.rooms import LINKS, rooms
from miaobi.studio.visit import Visit

Open = Callable[..., Any]
KEYED = {"authorization": f"Bearer {KEY}"}


@pytest.fixture
def services(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Services:
    monkeypatch.setenv("MIAOBI_HOME", str(tmp_path))
    settings = Settings(api_keys=(KEY,), hosts=("testserver",))
    return Services(settings, toy_pool(settings, echo=Echo()), Admission(settings))


@pytest.fixture
def client(services: Services) -> Iterator[TestClient]:
    with TestClient(create_app(services), follow_redirects=False) as opened:
        yield opened


def sign_in(client: TestClient) -> None:
    assert client.post("/studio/login", data={"key": KEY}).status_code == 303


def token_of(text: str) -> str:
    found = re.search(r'"x-token": "(\w+)"', text)
    assert found
    return found[1]


def test_the_language_is_asked_for_then_kept_then_the_browsers(
    client: TestClient,
) -> None:
    client.headers.update(KEYED)

    def goes_to(query: str = "", **headers: str) -> str:
        return client.get(f"/studio/{query}", headers=headers).headers["location"]

    french = {"accept-language": "fr, zh-CN;q=0.9, en;q=0.8"}
    assert goes_to(**french) == "/studio/zh/"
    assert goes_to(**{"accept-language": "en-GB"}) == "/studio/en/"
    assert goes_to("?language=zh", **{"accept-language": "en"}) == "/studio/zh/"
    assert goes_to(**{"accept-language": "en"}) == "/studio/zh/"
    assert goes_to("?language=../../evil") == "/studio/zh/"
    assert client.get("/studio").headers["location"] == "/studio/zh/"


def test_a_random_token_stands_for_the_key_and_ends_with_it(
    client: TestClient, services: Services
) -> None:
    to_login = client.get("/studio/", headers={"accept": "text/html"})
    assert to_login.headers["location"] == "/studio/login"
    assert client.get("/studio/en/jobs").status_code == 401
    for wrong in ("mb-wrong", "x\ny", "", "密钥", "k" * 500):
        answer = client.post("/studio/login", data={"key": wrong})
        assert answer.status_code in (400, 401)
        assert 'role="alert"' in answer.text
    signed = client.post("/studio/login", data={"key": KEY})
    [cookie] = [
        line
        for line in signed.headers.get_list("set-cookie")
        if line.startswith(COOKIE)
    ]
    assert KEY not in cookie
    for part in ("HttpOnly", "SameSite=strict", "Path=/studio"):
        assert part in cookie
    assert client.get("/studio/en/jobs").status_code == 200
    token = client.cookies[COOKIE]
    elsewhere = {"cookie": f"{COOKIE}={token}"}
    assert client.get("/v1/models", headers=elsewhere).status_code == 401
    as_key = {"authorization": f"Bearer {token}"}
    assert client.get("/v1/models", headers=as_key).status_code == 401
    assert client.get("/studio/login").status_code == 200
    assert services.sessions.key(token) is None
    assert client.get("/studio/en/jobs", headers=elsewhere).status_code == 401


def test_sessions_end_in_time_and_are_not_without_number(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = [0.0]
    monkeypatch.setattr("miaobi.serve.sessions.time.monotonic", lambda: clock[0])
    monkeypatch.setattr("miaobi.serve.sessions.MOST", 3)
    sessions = Sessions()
    tokens = [sessions.begin(f"key {number}") for number in range(4)]
    keys = [sessions.key(token) for token in tokens]
    assert keys == [None, "key 1", "key 2", "key 3"]
    assert len(set(tokens)) == 4
    clock[0] = 13 * 3600.0
    assert sessions.key(tokens[3]) is None


class Toy:
    """A page whose forms say what they were sent."""

    __package__ = "miaobi.studio.pages.jobs"
    TITLE = ("Toy", "玩具")
    GROUP = "watch"
    ORDER = 1

    @staticmethod
    async def show(visit: Visit) -> Response:
        return visit.html("problem.html", message=visit.query.get("say", "<b>"))

    @staticmethod
    async def send(visit: Visit) -> Response:
        return visit.toast(str((await visit.form())["word"]))

    @staticmethod
    async def refuse(visit: Visit) -> Response:
        raise BadInput(say("Too long.", "太长。"), say("Cut it.", "请截短。"))

    @property
    def ROUTES(self) -> list[Any]:
        return [get("", self.show), post("/send", self.send), get("/no", self.refuse)]


@pytest.fixture
def toy(monkeypatch: pytest.MonkeyPatch) -> None:
    find = pages.get
    monkeypatch.setattr(pages, "names", lambda: ["jobs", "toy"])
    monkeypatch.setattr(
        pages, "get", lambda name: Toy() if name == "toy" else find(name)
    )


@pytest.mark.usefixtures("toy")
def test_what_changes_something_carries_this_browsers_token(
    client: TestClient,
) -> None:
    sign_in(client)
    page = client.get("/studio/en/toy")
    assert "Toy" in page.text
    assert "&lt;b&gt;" in page.text
    token = token_of(page.text)
    for given in ({}, {"x-token": "0" * 64}):
        answer = client.post("/studio/en/toy/send", data={"word": "a"}, headers=given)
        assert answer.status_code == 403
    by_script = {"x-token": token, "hx-request": "true"}
    said = client.post("/studio/en/toy/send", data={"word": "<i>"}, headers=by_script)
    assert "&lt;i&gt;" in said.text
    by_form = {"word": "b", "token": token}
    assert client.post("/studio/en/toy/send", data=by_form).status_code == 200
    client.get("/studio/login")
    sign_in(client)
    stale = client.post("/studio/en/toy/send", data=by_form)
    assert stale.status_code == 403


@pytest.mark.usefixtures("toy")
@pytest.mark.parametrize(
    ("language", "words"), [("en", "Too long. Cut it."), ("zh", "太长。 请截短。")]
)
def test_a_refusal_is_a_page_or_a_toast_in_the_pages_language(
    client: TestClient, language: str, words: str
) -> None:
    sign_in(client)
    whole = client.get(f"/studio/{language}/toy/no")
    assert whole.status_code == 400
    assert words in whole.text
    assert "<nav" in whole.text
    part = client.get(f"/studio/{language}/toy/no", headers={"hx-request": "true"})
    assert words in part.text
    assert "<nav" not in part.text
    assert part.headers["hx-reswap"] == "none"


def test_the_api_speaks_the_language_that_is_asked_for(client: TestClient) -> None:
    client.headers.update(KEYED)
    for language, words in (("zh-CN,zh;q=0.9", "没有任务"), ("en", "There is no job")):
        asked = {"accept-language": language}
        answer = client.get("/v1/training/jobs/nothing", headers=asked)
        assert answer.json()["error"]["message"].startswith(words)


def test_every_answer_is_sent_with_a_strict_policy(client: TestClient) -> None:
    sign_in(client)
    paths = ["/studio/", "/studio/login", "/studio/en/nothing", "/studio/zh/jobs"]
    for path in [*paths, static.address("studio.css")]:
        answer = client.get(path)
        policy = answer.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert not re.search(r"\sstyle=|\son\w+=|<script(?![^>]*\ssrc=)", answer.text)
        sign_in(client)
    foreign = client.post(
        "/studio/login", data={"key": KEY}, headers={"origin": "https://evil.example"}
    )
    assert foreign.status_code == 403


def test_static_files_are_kept_for_a_year_and_change_their_address(
    client: TestClient,
) -> None:
    address = static.address("studio.js")
    found = client.get(address)
    assert found.headers["cache-control"].endswith("immutable")
    assert found.headers["content-type"].startswith("text/javascript")
    older = client.get("/studio/static/000000000000/studio.js")
    assert older.headers["cache-control"] == "no-cache"
    for name in ("nothing.js", "..%2Fapp.py", "__init__.py"):
        assert client.get(f"/studio/static/0/{name}").status_code in (401, 404)


def test_vendored_files_are_those_of_their_packages() -> None:
    vendored = json.loads(static.content("vendor.json"))
    for name, entry in vendored.items():
        digest = hashlib.sha256(static.content(name)).hexdigest()
        assert digest == entry["sha256"]
    scripts = {item.name for item in static.FOLDER.iterdir() if ".min." in item.name}
    assert scripts == set(vendored)


@pytest.mark.parametrize("name", pages.names())
def test_a_page_keeps_its_contract(name: str) -> None:
    page = pages.get(name)
    assert len(page.TITLE) == len(LANGUAGES)
    assert all(page.TITLE)
    assert page.GROUP == "" or page.GROUP in GROUPS
    assert {route.method for route in page.ROUTES} <= {"GET", "POST"}
    assert any(route.method == "GET" and not route.path for route in page.ROUTES)


def test_rooms_are_all_linked() -> None:
    assert set(LINKS) == set(rooms.built_in())
    for name, link in LINKS.items():
        assert rooms.get(name).TITLE == link.title


@pytest.mark.parametrize("language", LANGUAGES)
def test_pages_are_small(site: Site, language: str) -> None:
    """What a browser fetches for a page before its pictures, as it is sent."""
    vendored = json.loads(static.content("vendor.json"))
    files = ["studio.css", "studio.js", "icons.svg", *vendored]
    shared = sum(_sent(site, static.address(name)) for name in files)
    for name in pages.names():
        own = _sent(site, f"/studio/{language}/{name}")
        assert own + shared <= 100_000, name


def _sent(site: Site, path: str) -> int:
    with site.streaming(path) as answer:
        assert answer.status_code in (200, 303)
        return sum(len(piece) for piece in answer.iter_raw())


def test_a_visitor_signs_in_and_out(site: Site, visit: Open) -> None:
    page = visit(
        "/studio/",
        expect=("401",),
        signed_in=False,
        locale="zh-CN",
        color_scheme="dark",
    )
    page.get_by_role("heading", name="登录").wait_for()
    assert serious(page) == []
    page.keyboard.type("mb-wrong")
    page.keyboard.press("Enter")
    page.get_by_role("alert").get_by_text("密钥").wait_for()
    page.get_by_label("密钥").fill(KEY)
    page.keyboard.press("Enter")
    page.get_by_role("navigation").wait_for()
    page.get_by_role("link", name="退出").click()
    page.get_by_role("heading", name="登录").wait_for()
    page.goto(f"{site.url}/studio/zh/jobs")
    page.get_by_role("heading", name="登录").wait_for()


def test_theme_and_language_are_kept_and_the_keyboard_is_enough(
    site: Site, visit: Open
) -> None:
    page = visit("/studio/en/jobs", color_scheme="light")
    theme = "document.documentElement.dataset.theme"
    assert page.evaluate(theme) is None
    page.get_by_role("button", name="Dark theme").focus()
    page.keyboard.press("Enter")
    assert page.evaluate(theme) == "dark"
    page.get_by_role("link", name="中文").press("Enter")
    page.get_by_role("heading", name="任务", level=1).wait_for()
    assert page.url.endswith("/studio/zh/jobs")
    assert page.evaluate(theme) == "dark"
    assert page.evaluate("document.documentElement.lang") == "zh-Hans"
    page.goto(f"{site.url}/studio/")
    assert "/studio/zh/" in page.url
    page.goto(f"{site.url}/studio/zh/jobs")
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    assert page.url.endswith("#main")


def test_the_menu_of_a_phone_opens_from_below(site: Site, visit: Open) -> None:
    page = visit("/studio/en/jobs", viewport={"width": 390, "height": 844})
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    page.get_by_role("button", name="Menu").click()
    page.get_by_role("link", name="Models").click()
    page.wait_for_url("**/studio/en/models")
