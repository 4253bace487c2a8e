"""The pages that are still Gradio's in a real browser: each one's main path, and what axe
finds, light and dark, Chinese and English.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from PIL import Image
from tests.studio.conftest import Site, serious, until

from miaobi.provenance.image import read_record

Visit = Callable[..., Any]
# Gradio's page takes seconds to build and to open; it leaves with its last room.
pytestmark = pytest.mark.slow
ROOMS = {
    "en": ["Compare", "Pictures", "Train", "Tune", "Feedback"],
    "zh": ["比较", "图片", "训练", "调优", "反馈"],
}
PAGE = "/studio/en/rooms/"


@pytest.fixture(autouse=True)
def _open(rooms: Site) -> None:
    """Every test here is about pages that are open."""


@pytest.mark.parametrize(("language", "scheme"), [("en", "light"), ("zh", "dark")])
def test_every_room_is_accessible(
    site: Site, visit: Visit, language: str, scheme: str
) -> None:
    page = visit(f"/studio/{language}/rooms/", color_scheme=scheme)
    found = {}
    for name in ROOMS[language]:
        page.get_by_role("tab", name=name, exact=True).click()
        page.get_by_role("tabpanel").locator("visible=true").first.wait_for()
        found[name] = serious(page)
    assert found == {name: [] for name in ROOMS[language]}


def enter(page: Any, room: str) -> None:
    page.get_by_role("tab", name=room, exact=True).click()


def choose(page: Any, field: str, value: str) -> None:
    """Pick from a dropdown, by keyboard as anybody could."""
    box = page.locator(f"#{field} input")
    until(lambda: box.input_value() != "")
    box.click()
    page.locator(f'#{field} [role="option"]', has_text=value).click()
    assert box.input_value() == value


def test_pictures_are_painted_kept_as_files_with_their_facts_and_painted_again(
    site: Site, visit: Visit, tmp_path: Path
) -> None:
    page = visit(PAGE)
    enter(page, "Pictures")
    choose(page, "picture-model", "grey")
    page.locator("#picture-prompt textarea").fill("7")
    page.get_by_role("tabpanel").get_by_label("Seed").fill("40")
    page.locator("#paint").click()
    grid = page.locator("#pictures .grid-wrap img")
    until(lambda: grid.count() == 4)
    file = tmp_path / "picture.png"
    file.write_bytes(
        httpx.get(grid.nth(1).get_attribute("src"), cookies=site.sign_in()).content
    )
    record = read_record(file)
    assert record["model"] == "grey" and record["seed"] == 41
    page.get_by_text("This session").click()
    page.locator("#history .grid-wrap button").nth(2).click()
    page.get_by_role("button", name="Use these settings").click()
    until(
        lambda: page.get_by_role("tabpanel").get_by_label("Seed").input_value() == "42"
    )


def paint_until(page: Any, done: Callable[[], Any]) -> None:
    """The page says nowhere that an upload or a stroke has arrived: ask again until it has."""

    def painted() -> bool:
        page.locator("#paint").click()
        page.wait_for_timeout(300)
        return bool(done())

    until(painted)


def test_what_was_drawn_over_is_painted_anew(
    site: Site, visit: Visit, tmp_path: Path
) -> None:
    Image.new("RGB", (120, 80), "white").save(tmp_path / "white.png")
    page = visit(PAGE)
    enter(page, "Pictures")
    choose(page, "picture-model", "grey")
    page.get_by_text("Start from a picture").click()
    page.locator("#source canvas").last.wait_for()
    page.get_by_text("Upload an image").wait_for()
    page.locator("#source input[type=file]").first.set_input_files(
        tmp_path / "white.png"
    )
    paint_until(page, lambda: site.toy("grey").get("image") == [80, 120, 3])
    assert site.toy("grey")["repainted"] is None and site.toy("grey")["strength"] == 0.6
    page.locator("#source").get_by_role("button", name="Brush", exact=True).click()
    canvas = page.locator("#source canvas").last.bounding_box()
    x, y = canvas["x"] + canvas["width"] / 2, canvas["y"] + canvas["height"] / 2
    page.mouse.move(x - 20, y)
    page.mouse.down()
    page.mouse.move(x + 20, y, steps=8)
    page.mouse.up()
    paint_until(page, lambda: site.toy("grey")["repainted"])
    assert 0 < site.toy("grey")["repainted"] < 0.6


def test_votes_are_blind_and_become_a_tuning_set(site: Site, visit: Visit) -> None:
    page = visit(f"{PAGE}?room=compare")
    until(lambda: page.locator("#compare-second input").input_value() == "slow")
    page.locator("#question textarea").fill("Which is better?")
    page.locator("#ask-both").click()
    vote = page.locator("#vote-left")
    until(vote.is_enabled)
    assert [
        page.locator(f"#answer-{side}").inner_text().strip()
        for side in ("left", "right")
    ] == ["Which is better?"] * 2
    assert page.locator("#verdict").inner_text().strip() == "" and vote.is_enabled()
    vote.click()
    verdict = page.locator("#verdict")
    verdict.get_by_text("You chose the left one.").wait_for()
    told = site.get("/v1/feedback", params={"limit": 1}).json()["data"][0]
    assert (
        f"Left: {told['model']} · Right: {told['other']}" in verdict.inner_text()
        and {told["model"], told["other"]} == {"echo", "slow"}
    )
    enter(page, "Feedback")
    page.get_by_role("row").filter(has_text="Which is better?").wait_for()
    page.locator("#export").click()
    with page.expect_download() as download:
        page.locator("#download").click()
    assert json.loads(Path(download.value.path()).read_text()) == {
        "prompt": "Which is better?",
        "chosen": "Which is better?",
        "rejected": "Which is better?",
    }


def test_a_run_is_estimated_started_stopped_and_goes_on(
    site: Site, visit: Visit, tmp_path: Path
) -> None:
    examples = tmp_path / "examples.jsonl"
    examples.write_text(
        '{"messages": [{"role": "user", "content": "hello"}, {"role": "assistant", "content": "good day"}]}\n'
        * 12
    )
    page = visit(PAGE)
    enter(page, "Tune")
    choose(page, "base", "echo")
    with page.expect_response(lambda answer: "/gradio_api/upload" in answer.url):
        page.locator("#examples input[type=file]").set_input_files(examples)
    page.locator("#examples").get_by_text("examples").first.wait_for()
    page.locator("#suffix input, #suffix textarea").fill("support")
    page.locator("#estimate").click()
    page.locator("#cost").get_by_text("Expected: 3 min").wait_for()
    page.locator("#start").click()
    curve = page.locator("#tune-view svg polyline")
    curve.wait_for(state="attached")
    page.locator("#tune-pause").click()
    view = page.locator("#tune-view")
    view.get_by_text("paused", exact=True).wait_for()
    page.locator("#tune-resume").click()
    view.get_by_text("done", exact=True).wait_for()
    view.get_by_text("sample/0").wait_for()
    until(lambda: len(curve.get_attribute("points").split()) == 60)
    assert serious(page) == []


def test_a_model_is_trained_from_nothing_on_ones_own_data(
    site: Site, visit: Visit, tmp_path: Path
) -> None:
    data = tmp_path / "verses.txt"
    data.write_text("the rain writes its own letters\n" * 40)
    page = visit(PAGE)
    enter(page, "Train")
    until(lambda: page.locator("#recipe input").input_value() != "")
    choose(page, "recipe", "my-corpus · writes · gpt · your data")
    page.locator("#train-start").click()
    page.get_by_text("no data of its own").wait_for()
    page.locator(".toast-close").click()
    with page.expect_response(lambda answer: "/gradio_api/upload" in answer.url):
        page.locator("#data input[type=file]").set_input_files(data)
    page.locator("#data").get_by_text("verses").first.wait_for()
    page.locator("#train-suffix input, #train-suffix textarea").fill("rain")
    page.locator("#steps input, #steps textarea").fill("60")
    page.locator("#train-estimate").click()
    page.locator("#train-cost").get_by_text("Expected: 3 min").wait_for()
    page.locator("#train-start").click()
    view = page.locator("#train-view")
    view.get_by_text("done", exact=True).wait_for()
    view.get_by_text("my-corpus-rain-").wait_for()
    line = view.locator("svg polyline")
    until(lambda: len(line.get_attribute("points").split()) == 60)
    assert serious(page) == []
    job = site.get("/v1/training/jobs").json()["data"][0]
    assert job["miaobi"]["settings"] == {"train.max_steps": 60} and job["training_file"]
