"""The page as people meet it: keyboard, light and dark, Chinese and English, large and small, and what axe finds."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.studio.conftest import Site

Visit = Callable[..., Any]
ROOMS = {"en": ["Chat", "Compare", "Pictures", "Models"], "zh": ["对话", "比较", "图片", "模型"]}


def serious(page: Any) -> list[str]:
    """What axe (bundled with its Python package) calls serious or critical, each with where it is."""
    from axe_playwright_python.sync_playwright import Axe
    found = Axe().run(page).response["violations"]
    return [f"{item['id']}: {node['html'][:160]}" for item in found if item["impact"] in ("serious", "critical") for node in item["nodes"]]


@pytest.mark.parametrize(("language", "scheme"), [("en", "light"), ("zh", "dark")])
def test_every_room_is_accessible(site: Site, visit: Visit, language: str, scheme: str) -> None:
    page = visit(f"{site.url}/studio/{language}/", color_scheme=scheme)
    found = {}
    for name in ROOMS[language]:
        page.get_by_role("tab", name=name, exact=True).click()
        page.get_by_role("tabpanel").locator("visible=true").first.wait_for()
        found[name] = serious(page)
    assert found == dict.fromkeys(ROOMS[language], [])
