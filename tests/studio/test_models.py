"""The page Models: lineage and scores, what changes a model, exports, packs, cards."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from tests.serve.conftest import Echo, toy_pool
from tests.studio.conftest import Site, make_model, serious

from miaobi.core.store import Store
from miaobi.serve import keyring, keys
from miaobi.serve.admission import Admission
from miaobi.serve.app import create_app
from miaobi.serve.services import Services
from miaobi.serve.settings import Settings
from miaobi.studio.pages.models import page
from miaobi.studio.pages.models.lineage import trees
from miaobi.studio.uses import Use, uses

PLAY = Use(("Play it", "播放"), ("Play", "播放"), "beeps")
PHONE = {"viewport": {"width": 390, "height": 844}, "has_touch": True}
SCORE = {
    "name": "accuracy",
    "value": 0.61,
    "low": 0.55,
    "high": 0.67,
    "n": 240,
    "unit": "",
    "better": "higher",
    "label": {"en": "Accuracy", "zh": "准确率"},
}


@pytest.fixture(autouse=True)
def _store(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The store of these tests is the server's."""
    monkeypatch.setenv("MIAOBI_HOME", str(home))


@pytest.fixture
def desk(site: Site) -> Iterator[str]:
    """A model of three versions with scores, the second promoted."""
    for number in (1, 2, 3):
        make_model("desk", (f"desk@{number - 1}",) if number > 1 else ())
        version = Store().resolve(f"desk@{number}")
        Store().record_scores(version, [{**SCORE, "value": 0.58 + number / 100}])
    Store().promote("desk@1")
    Store().promote("desk@2")
    yield "desk"
    Store().remove("desk")


@pytest.fixture
def stand(site: Site) -> Iterator[str]:
    """A model of two versions."""
    make_model("stand")
    make_model("stand", ("stand@1",))
    yield "stand"
    Store().remove("stand")


@pytest.fixture
def ground(site: Site) -> Iterator[str]:
    """A model that the adapter "upper" runs on."""
    make_model("ground")
    make_model("upper", ("ground@1",))
    adapter = Store().resolve("upper").path
    (adapter / "adapter_config.json").write_text("{}")
    manifest = adapter / "miaobi.json"
    content = json.loads(manifest.read_text())
    base = {"name": "ground@1", "location": ""}
    manifest.write_text(json.dumps({**content, "data": {"base": base}}))
    yield "ground"
    Store().remove("upper")
    Store().remove("ground")


def test_promote_go_back_and_delete(visit: Callable[..., Any], desk: str) -> None:
    page = visit("/studio/en/models")
    tree = page.get_by_role("region", name=desk)
    tree.get_by_role("img", name="0.61, between 0.55 and 0.67").wait_for()
    row = tree.get_by_role("row").filter(has=page.locator("a", has_text="desk@3"))
    row.hover()
    row.get_by_role("button", name="Promote").click()
    page.get_by_text("desk now means desk@3.").wait_for()
    assert Store().production(desk)[-1] == 3
    row.get_by_text("production").wait_for()
    assert row.get_by_role("button", name="Delete").count() == 0

    tree.get_by_role("button", name="Go back to @2").click()
    page.get_by_text("desk means desk@2 again.").wait_for()
    row.hover()
    row.get_by_role("button", name="Delete").click()
    page.get_by_role("button", name="Keep it").click()
    assert len(Store().versions(desk)) == 3
    row.hover()
    row.get_by_role("button", name="Delete").click()
    page.get_by_role("button", name="Go ahead").click()
    page.get_by_text("desk@3 is deleted.").wait_for()
    assert len(Store().versions(desk)) == 2
    assert serious(page) == []


def test_the_base_stands_beside_what_was_tuned_from_it(
    visit: Callable[..., Any], site: Site
) -> None:
    make_model("tuned", ("upstream",))
    base = {"value": 0.41, "low": 0.35, "high": 0.47}
    Store().record_scores(Store().resolve("tuned@1"), [{**SCORE, "base": base}])
    page = visit("/studio/en/models")
    tree = page.get_by_role("region", name="tuned")
    row = tree.get_by_role("row").filter(has_text="upstream")
    row.get_by_role("img", name="0.41, between 0.35 and 0.47").wait_for()
    tree.get_by_text("thin line: the base").wait_for()
    assert tree.locator(".interval .zero").count() == 2
    assert serious(page) == []
    Store().remove("tuned")


def test_models_follow_what_happens_elsewhere(
    visit: Callable[..., Any], stand: str
) -> None:
    """A version that is promoted, and one that is made, without a reload."""
    page = visit("/studio/zh/models")
    tree = page.get_by_role("region", name=stand)
    row = tree.get_by_role("row").filter(has=page.locator("a", has_text="stand@1"))
    row.wait_for()
    assert row.locator(".stamp").count() == 0
    Store().promote("stand@1")
    make_model(stand, ("stand@2",))
    row.locator(".stamp").wait_for()
    tree.get_by_role("link", name="stand@3").first.wait_for()


def test_a_list_that_is_asked_for_again_does_not_flicker(
    visit: Callable[..., Any],
) -> None:
    page = visit("/studio/en/models")
    button = page.get_by_role("link", name="Tune a model")
    opacity = "button => getComputedStyle(button).opacity"
    held = list[Any]()
    page.route("**/studio/en/models", lambda route: held.append(route))
    with page.expect_request("**/studio/en/models"):
        page.evaluate("document.dispatchEvent(new Event('visibilitychange'))")
    page.wait_for_selector("#models.htmx-request")
    assert button.evaluate(opacity) == "1"
    held[0].continue_()


def test_a_refusal_says_why(visit: Callable[..., Any], ground: str) -> None:
    """A base that an adapter runs on stays."""
    page = visit(f"/studio/en/models/{ground}", expect=("409",))
    page.get_by_role("button", name="Delete").click()
    page.get_by_role("button", name="Go ahead").click()
    page.get_by_role("alert").get_by_text("upper@1 runs on ground@1.").wait_for()
    assert Store().versions(ground)


def test_a_pack_is_fetched_in_sight_of_two(
    visit: Callable[..., Any], site: Site
) -> None:
    page = visit("/studio/en/models")
    card = page.locator("#pack-digits")
    card.get_by_role("button", name="Fetch").click()
    card.get_by_role("progressbar").wait_for()
    other = visit("/studio/zh/models")
    seen = other.locator("#pack-digits")
    seen.get_by_role("progressbar").wait_for()
    card.get_by_role("button", name="Stop").click()
    card.get_by_role("button", name="Fetch").wait_for()
    seen.get_by_role("button", name="获取").wait_for()
    card.get_by_role("button", name="Fetch").click()
    card.get_by_text("here").wait_for()

    broken = other.locator("#pack-esrgan-slim")
    broken.get_by_role("button", name="获取").click()
    broken.get_by_role("alert").get_by_text("软件源没有应答。").wait_for()
    broken.get_by_role("button", name="重试").wait_for()
    assert serious(other) == []


def test_a_card_an_export_and_its_file(visit: Callable[..., Any], site: Site) -> None:
    page = visit("/studio/en/models/poet", color_scheme="dark", accept_downloads=True)
    assert page.get_by_role("heading", name="poet@2", level=1).is_visible()
    page.get_by_label("Versions").get_by_role("link", name="@1").click()
    page.wait_for_url("**/studio/en/models/poet@1")
    page.go_back()
    page.locator("#exports select").select_option("q8_0")
    page.locator("#exports").get_by_role("button", name="GGUF").click()
    link = page.locator("#exports").get_by_role("link", name="poet.gguf")
    link.wait_for()
    with page.expect_download() as download:
        link.click()
    assert Path(download.value.path()).read_text() == "weights"
    assert serious(page) == []


def test_phone_and_size(visit: Callable[..., Any], site: Site) -> None:
    page = visit("/studio/zh/models", **PHONE)
    page.get_by_role("heading", name="模型", level=1).wait_for()
    width = page.evaluate("document.documentElement.scrollWidth")
    assert width <= PHONE["viewport"]["width"]  # type: ignore[index]
    assert serious(page) == []
    assert len(site.get("/studio/zh/models").content) < 100_000


# Without a browser.


def test_a_modality_of_another_package_has_its_page(
    app: FastAPI, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its models lead to the page that the package names, on the card and in the list."""
    entry = EntryPoint("beep", f"{__name__}:PLAY", "miaobi.studio_uses")
    monkeypatch.setitem(uses._entries, "beep", entry)
    monkeypatch.setattr(page, "_kinds", lambda served: {"tune": "beep"})
    make_model("tune")
    with TestClient(app) as client:
        card = client.get("/studio/zh/models/tune").text
        assert 'href="/studio/zh/beeps?model=tune%401"' in card and "播放" in card
        listed = client.get("/studio/en/models").text
        assert 'href="/studio/en/beeps?model=tune%401"' in listed


@pytest.fixture
def app(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FastAPI:
    monkeypatch.setenv("MIAOBI_HOME", str(tmp_path))
    settings = Settings(hosts=("testserver",), workers=0)
    pool = toy_pool(settings, echo=Echo())
    return create_app(Services(settings, pool, Admission(settings)))


def test_an_empty_page_has_one_button(app: FastAPI) -> None:
    with TestClient(app) as client:
        text = client.get("/studio/en/models").text
        assert "No models of your own yet" in text
        assert text.count('class="button primary"') == 1
        jobs = client.get("/studio/en/jobs").text
        assert "Nothing has run here yet" in jobs
        assert jobs.count('class="button primary"') == 1


def test_only_operators_change_models(
    app: FastAPI, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Everybody sees models and packs; buttons that change what all get are the
    operators', and so are the routes behind them.
    """
    monkeypatch.setattr(keys, "FRESH", 0.0)
    make_model("poet")
    with TestClient(app) as client:
        secrets = {
            "team": keyring.create("team").key,
            "boss": keyring.create("boss", operator=True).key,
        }
        for name, secret in secrets.items():
            client.headers["authorization"] = f"Bearer {secret}"
            page = client.get("/studio/en/models").text
            assert ("/packs/digits/fetch" in page) == (name == "boss")
            assert ("models/poet@1/delete" in page) == (name == "boss")
            welcome = client.get("/studio/en/welcome").text
            assert ("welcome/fetch" in welcome) == (name == "boss")
            stopped = client.post("/v1/store/packs/digits/stop")
            assert stopped.status_code == (409 if name == "boss" else 403)
        client.headers["authorization"] = f"Bearer {secrets['team']}"
        assert client.post("/v1/store/packs/digits/fetch").status_code == 403
        assert client.delete("/v1/models/poet@1").status_code == 403


def test_cards_and_the_disk_name_no_path(app: FastAPI, tmp_path: Path) -> None:
    make_model("poet", ("/srv/models/base",))
    make_model("poet", ("poet@1",), {"loss": 1.5})
    with TestClient(app) as client:
        card = client.get("/v1/store/models/poet/versions/1").json()
        assert card["children"] == ["poet@2"] and card["parents"] == ["base"]
        assert card["label"]["notice"] and card["files"]
        disk = client.get("/v1/store/disk").json()
        assert disk["models"] > 0 and disk["free"] > 0
        for path in ("versions/1", "versions/2"):
            text = client.get(f"/v1/store/models/poet/{path}").text
            assert str(tmp_path) not in text and "/srv" not in text


def row(name: str, number: int, *parents: str, **fields: Any) -> dict[str, Any]:
    return {
        "id": f"{name}@{number}",
        "name": name,
        "version": number,
        "created": f"2026-11-0{number}T00:00:00",
        "parents": list(parents),
        "scores": [],
        "metrics": {},
        "production": False,
        **fields,
    }


def test_trees_stand_newest_first_above_their_base() -> None:
    made = trees(
        [
            row("desk", 1, "smollm2", metrics={"validation_loss": 3.0}),
            row("desk", 2, "desk@1"),
            row("desk-kind", 3, "desk@2"),
            row("other", 1),
        ]
    )
    desk, other = made
    assert [(node.id, node.knot) for node in desk.nodes] == [
        ("desk-kind@3", "branch"),
        ("desk@2", "trunk"),
        ("desk@1", "trunk"),
        ("smollm2", "base"),
    ]
    assert desk.name == "desk" and not desk.has_intervals
    assert [node.id for node in other.nodes] == ["other@1"]
