"""The page Jobs: live, in words, in the visitor's language, each job at its own address."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from tests.serve.conftest import Echo, toy_pool
from tests.studio.conftest import KEY, Site, serious, until

from miaobi.core.language import (
    in_each,
    joined,
    say,
    speaking,
    spoken,
    wordings_of,
)
from miaobi.data.encoding import Problem
from miaobi.serve.admission import Admission
from miaobi.serve.app import create_app
from miaobi.serve.services import Services
from miaobi.serve.settings import Settings
from miaobi.studio.pages.jobs import curves
from miaobi.studio.pages.jobs.commands import command

PHONE = {"viewport": {"width": 390, "height": 844}, "has_touch": True}
KEYS = ("mb-the-first-key", "mb-the-second-key")


def begin(site: Site, **fields: Any) -> str:
    """Begin a training job; return its id."""
    answer = httpx.post(
        f"{site.url}/v1/training/jobs",
        json={"recipe": "poet", **fields},
        headers={"authorization": f"Bearer {KEY}"},
    )
    assert answer.is_success, answer.text
    return str(answer.json()["id"])


def status(site: Site, job: str) -> str:
    return str(site.get(f"/v1/jobs/{job}").json()["status"])


def test_a_job_from_its_first_step_to_its_model(
    visit: Callable[..., Any], site: Site
) -> None:
    """The list and the counts move by themselves; stop and go on; what comes next."""
    job = begin(site, seed=7)
    page = visit("/studio/en/jobs")
    row = page.locator(f"#row-{job}")
    row.get_by_text("running").wait_for()
    page.locator("#count-jobs.live").wait_for()
    row.get_by_role("link").click()
    page.wait_for_url(f"**/studio/en/jobs/{job}")
    page.locator("#job progress").wait_for()
    page.locator(".plot path.train").first.wait_for()
    assert page.get_by_role("button", name="Its model page").is_disabled()
    page.locator(".state").get_by_text("of memory").wait_for()

    page.locator("#pause").click()
    page.locator("#resume").wait_for()
    assert status(site, job) == "paused"
    page.get_by_text("Stopped at a checkpoint.").wait_for()
    page.locator("#resume").click()
    page.locator(".state").get_by_text("done", exact=True).wait_for()
    assert serious(page) == []

    link = page.get_by_role("link", name="Chat with it")
    assert "/studio/en/chat?model=poet-" in link.get_attribute("href")
    assert "Peak memory\n1.06 GB" in page.locator(".facts").inner_text()
    assert page.locator(".sample").inner_text() == "a <b>sample</b>"
    assert "AI-generated" in page.locator("#samples-part").inner_text()
    text = page.locator(".code").last.inner_text()
    assert "miaobi train" in text and "--train.seed 7" in text
    page.locator("#log summary").click()
    assert "Done: it answers now." in page.locator(".log").inner_text()


@pytest.fixture(scope="module")
def finished(site: Site) -> tuple[str, str]:
    """Two jobs that are done."""
    earlier, job = begin(site, suffix="quick"), begin(site, suffix="quick")
    until(lambda: status(site, job) == "succeeded")
    return earlier, job


def test_reload_back_and_phone(
    visit: Callable[..., Any], finished: tuple[str, str]
) -> None:
    """The address holds the job and the run behind its curve."""
    earlier, job = finished
    page = visit("/studio/en/jobs", **PHONE)
    page.locator(f"#row-{job} a").click()
    page.wait_for_url(f"**/jobs/{job}")  # with its scripts
    page.locator("#over").select_option(earlier)
    page.wait_for_url(f"**/jobs/{job}?over={earlier}")
    page.locator(".plot path.earlier").first.wait_for()
    page.reload()
    page.locator(".plot path.earlier").first.wait_for()
    width = page.evaluate("document.documentElement.scrollWidth")
    assert width <= PHONE["viewport"]["width"]  # type: ignore[index]
    page.go_back()
    page.go_back()
    page.locator(f"#row-{job}").wait_for()


def test_the_curve_is_read_by_arrow_keys(
    visit: Callable[..., Any], finished: tuple[str, str]
) -> None:
    _, job = finished
    page = visit(f"/studio/zh/jobs/{job}", color_scheme="dark")
    page.locator("[data-plot] svg").first.focus()
    page.keyboard.press("ArrowLeft")
    assert "60" in page.locator(".readout").inner_text()
    page.keyboard.press("ArrowLeft")
    assert "59" in page.locator(".readout").inner_text()
    assert serious(page) == []
    page.locator("#log summary").click()
    log = page.locator(".log").inner_text()
    assert "完成：现在可以使用。" in log and "已接受" in log and "Accepted" not in log


def test_cancelling_asks_before(visit: Callable[..., Any], site: Site) -> None:
    job = begin(site)
    page = visit(f"/studio/en/jobs/{job}")
    page.locator("#cancel").click()
    page.get_by_role("button", name="Keep it").click()
    assert status(site, job) in ("running", "queued")
    page.locator("#cancel").click()
    page.get_by_role("button", name="Go ahead").click()
    page.locator(".state").get_by_text("cancelled").wait_for()
    assert status(site, job) == "cancelled"


def test_a_list_follows_what_happens_elsewhere(
    visit: Callable[..., Any], site: Site, finished: tuple[str, str]
) -> None:
    """An idle tab that is seen follows by itself; one that is not seen asks for nothing,
    and follows as soon as it is seen again.
    """
    page = visit("/studio/en/jobs")
    page.locator("#count-jobs[hx-get]").wait_for(state="attached")
    job = begin(site, suffix="quick")
    page.locator(f"#row-{job}").wait_for()
    until(lambda: status(site, job) == "succeeded")
    page.locator(f"#row-{job}").get_by_text("done").wait_for()

    later = begin(site)
    page.reload()
    page.locator(f"#row-{later}").get_by_text("running").wait_for()
    asked = list[str]()
    page.evaluate(SEE.format(hidden="true"))
    page.on("request", lambda request: asked.append(request.url))
    page.wait_for_timeout(2500)  # a list with a job that runs is asked for every 2 s
    until(lambda: status(site, later) == "succeeded")
    assert asked == []
    page.evaluate(SEE.format(hidden="false"))
    page.locator(f"#row-{later}").get_by_text("done").wait_for()


SEE = """
Object.defineProperty(document, "hidden", {{ value: {hidden}, configurable: true }});
document.dispatchEvent(new Event("visibilitychange"));
"""


# Without a browser.


@pytest.fixture
def app(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> FastAPI:
    """A server with two keys, whose jobs wait."""
    monkeypatch.setenv("MIAOBI_HOME", str(tmp_path))
    settings = Settings(hosts=("testserver",), workers=0, api_keys=KEYS)
    pool = toy_pool(settings, echo=Echo())
    return create_app(Services(settings, pool, Admission(settings)))


def ask(client: TestClient, key: str, path: str, language: str = "en") -> Any:
    return client.get(
        path, headers={"authorization": f"Bearer {key}", "accept-language": language}
    )


def test_two_keys_do_not_see_each_others_jobs(app: FastAPI) -> None:
    first, second = KEYS
    with TestClient(app) as client:
        made = client.post(
            "/v1/training/jobs",
            json={"recipe": "poet"},
            headers={"authorization": f"Bearer {first}"},
        ).json()
        paths = (f"/v1/jobs/{made['id']}", f"/studio/en/jobs/{made['id']}")
        for path in paths:
            assert ask(client, first, path).status_code == 200
            assert ask(client, second, path).status_code == 404
        for key, count in ((first, 1), (second, 0)):
            assert len(ask(client, key, "/v1/jobs").json()["data"]) == count
            counts = ask(client, key, "/v1/jobs/counts").json()["counts"]
            assert sum(counts.values()) == count
            listed = ask(client, key, "/studio/en/jobs").text
            assert (made["miaobi"]["will_be_called"] in listed) == bool(count)


def test_events_and_errors_are_read_in_each_language(app: FastAPI) -> None:
    """What was written while the server spoke English is there in Chinese; rows from
    before have their one wording; programs see no more of an event than before.
    """
    key = KEYS[0]
    with TestClient(app) as client:
        job = client.post(
            "/v1/training/jobs",
            json={"recipe": "poet"},
            headers={"authorization": f"Bearer {key}"},
        ).json()["id"]
        queue = app.state.services.jobs
        queue.claim("a:1:1.0:x")
        with speaking("en"):
            queue.record_event(job, "a:1:1.0:x", "message", "an old row", {"step": 1})
            problem = say("It broke.", "出错了。") + say(" Try again.", "请重试。")
            error = {"code": "broken", "message": problem, "param": None}
            queue.end(job, "a:1:1.0:x", "failed", problem, {}, error)
        for language, text in (
            ("en", "It broke. Try again."),
            ("zh", "出错了。请重试。"),
        ):
            at = f"/v1/training/jobs/{job}"
            events = ask(client, key, f"{at}/events", language).json()["data"]
            assert [event["message"] for event in events][:2] == [text, "an old row"]
            assert [event["data"] for event in events][:2] == [{}, {"step": 1}]
            streamed = ask(client, key, f"{at}/events?stream=true", language).text
            assert text in streamed
            assert ask(client, key, at, language).json()["error"]["message"] == text
            page = ask(client, key, f"/studio/{language}/jobs/{job}").text
            assert text in page and 'class="failure"' in page


def test_texts_made_of_others_keep_both_languages() -> None:
    """A reading error within its place, a list of choices, an estimate."""
    problem = Problem(Path("rows.jsonl"), 3, say("no text.", "没有文本。"), "")
    texts = {
        str(problem): {
            "en": "rows.jsonl:3: no text.",
            "zh": "rows.jsonl:3：没有文本。",
        },
        "a" + say("b", "乙") + "c": {"en": "abc", "zh": "a乙c"},
        joined((say("b", "乙"), "", "c"), " "): {"en": "b c", "zh": "乙 c"},
        in_each(lambda: f"<{say('b', '乙')}>"): {"en": "<b>", "zh": "<乙>"},
    }
    for text, wordings in texts.items():
        assert wordings_of(text) == wordings
        with speaking("zh"):
            assert spoken(text) == wordings["zh"]


def test_commands_do_the_same() -> None:
    recipes = {"poet": {"command": "miaobi train recipes/text/poet.yaml", "data": "x"}}
    job = {
        "object": "training.job",
        "recipe": "poet",
        "training_file": "file-1",
        "seed": 3,
        "miaobi": {
            "will_be_called": "poet-1",
            "settings": {"train.max_steps": 5, "model.conditional": True},
        },
    }
    assert command(job, recipes) == (
        "miaobi train recipes/text/poet.yaml --name poet-1 --train.seed 3 "
        "--data.pack '' --data.path FILE --train.max_steps 5 --model.conditional true"
    )
    export = {
        "object": "export.job",
        "model": "poet@2",
        "to": "gguf",
        "dtype": "q8_0",
        "merge": True,
    }
    expected = "miaobi export poet@2 --to gguf --dtype q8_0 --merge"
    assert command(export, {}) == expected


def test_a_long_run_makes_a_small_picture() -> None:
    points = [(float(step), 3 + 1 / (step + 1)) for step in range(20_000)]
    drawn = curves.plot({"train_loss": points, "valid_loss": points[::50]})
    assert drawn is not None
    assert [line.style for line in drawn.lines] == ["train", "check"]
    assert sum(len(line.path) + len(line.raw) for line in drawn.lines) < 10_000
    assert drawn.lines[0].x == curves.RIGHT
    assert curves.plot({}) is None
