"""Jobs: everything that runs in the background, live; and one of them with its curves,
samples and log, and what comes next.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping, Sequence
from typing import Any

from starlette.responses import Response

from miaobi.core.language import say
from miaobi.provenance.label import NOTICE
from miaobi.studio.page import get, post
from miaobi.studio.pages.jobs import curves
from miaobi.studio.pages.jobs.commands import command
from miaobi.studio.pages.jobs.jobs import peak_memory, row_of, time_left
from miaobi.studio.uses import use_of
from miaobi.studio.visit import Refused, Visit

TITLE = ("Jobs", "任务")
GROUP = "foot"
ORDER = 10

LISTED = 50
EVENTS = 1000
"""Of a run that are read at once."""
PAGES = 5
"""So many times EVENTS are read at most."""
SAMPLE = re.compile(r"^sample(?:/\d+)?: ", re.MULTILINE)
"""What stands before each text of an event."""
STEPPED = ("training", "fine_tuning")
"""Kinds that can stop and go on."""
CACHING = {"cache-control": "private, max-age=86400, immutable"}
"""Of pictures: what a job made never changes."""

Json = Mapping[str, Any]


async def show(visit: Visit) -> Response:
    """The list of jobs; `after` continues it."""
    after = visit.query.get("after")
    params = {"limit": LISTED, **({"after": after} if after else {})}
    listed = await visit.call("GET", "/v1/jobs", params=params)
    rows = [row_of(job) for job in listed["data"]]
    return visit.html(
        "jobs/list.html" if visit.is_partial else "jobs/page.html",
        rows=rows,
        is_live=any(row.is_moving for row in rows),
        older=listed["last_id"] if listed["has_more"] else None,
    )


async def counts(visit: Visit) -> Response:
    """The counts in the navigation."""
    jobs, feedback = await asyncio.gather(
        visit.call("GET", "/v1/jobs/counts"),
        visit.call("GET", "/v1/feedback", params={"limit": 1}),
    )
    by_status = jobs["counts"]
    running = by_status.get("running", 0)
    return visit.html(
        "jobs/counts.html",
        moving=running + by_status.get("queued", 0),
        running=running,
        feedback=sum(feedback["counts"].values()),
    )


async def show_job(visit: Visit) -> Response:
    """One job: its whole page, or the part that changes while it runs."""
    template = "jobs/live.html" if visit.is_partial else "jobs/job.html"
    return visit.html(template, **await _job(visit, visit.path["job"]))


async def _job(visit: Visit, id: str) -> dict[str, Any]:
    """What the templates of a job's page show."""
    brief = await visit.call("GET", f"/v1/jobs/{id}")
    row = row_of(brief)
    job, events, machine = await asyncio.gather(
        visit.call("GET", brief["url"]),
        _events(visit, brief["url"]),
        visit.call("GET", "/v1/training/machine"),
    )
    messages = [event for event in events if event["type"] == "message"]
    samples = _samples(messages)
    others = await _comparable(visit, job)
    over = visit.query.get("over", "")
    earlier = next((other for other in others if other["id"] == over), None)
    model = await _model(visit, job)
    return {
        "row": row,
        "job": job,
        "brief": brief,
        "plot": await _plot(visit, events, earlier, row.total),
        "others": others,
        "over": over if earlier else "",
        "samples": samples,
        "at_step": _chosen_step(visit, samples),
        "log": [event for event in reversed(messages) if event not in samples],
        "left": time_left(events, row.total) if row.status == "running" else None,
        "speed": _speed(events),
        "memory": peak_memory(events),
        "machine": machine,
        "model": model,
        "use": use_of(model["modality"]) if model else None,
        "command": command(job, await _recipes(visit)),
        "is_stepped": row.kind in STEPPED,
        "texts_of": _texts_of,
    }


async def _model(visit: Visit, job: Json) -> Json | None:
    """Return the model that a job made, as it is served; None before the job is done,
    and where the model was deleted since.
    """
    name = job.get("trained_model") or job.get("fine_tuned_model")
    if not name:
        return None
    try:
        model: Json = await visit.call("GET", f"/v1/models/{name}")
    except Refused as refusal:
        if refusal.status != 404:
            raise
        return None
    return model


async def _events(visit: Visit, url: str) -> list[Json]:
    """Return a job's events, newest first."""
    events = list[Json]()
    params: dict[str, Any] = {"limit": EVENTS}
    for _ in range(PAGES):
        listed = await visit.call("GET", f"{url}/events", params=params)
        events += listed["data"]
        if not listed["has_more"]:
            break
        params["after"] = listed["last_id"]
    return events


async def _plot(
    visit: Visit, events: Sequence[Json], earlier: Json | None, steps: int | None
) -> curves.Plot | None:
    own = curves.losses(events)
    if earlier is None:
        return curves.plot(own, steps=steps)
    url = f"/v1/training/jobs/{earlier['id']}"
    before = curves.losses(await _events(visit, url))
    name = earlier["miaobi"]["will_be_called"]
    return curves.plot(own, before.get("train_loss", ()), name, steps)


async def _comparable(visit: Visit, job: Json) -> list[Json]:
    """Return the other runs of the same recipe."""
    if job["object"] != "training.job":
        return []
    listed = await visit.call("GET", "/v1/training/jobs", params={"limit": LISTED})
    return [
        other
        for other in listed["data"]
        if other["recipe"] == job["recipe"] and other["id"] != job["id"]
    ]


async def _recipes(visit: Visit) -> dict[str, Json]:
    """Return the recipes by id."""
    listed = await visit.call("GET", "/v1/training/recipes")
    return {recipe["id"]: recipe for recipe in listed["data"]}


def _samples(messages: Sequence[Json]) -> list[Json]:
    """Return the events that hold what a run generated, newest first."""
    return [
        event
        for event in messages
        if event["message"].startswith(NOTICE) and "step" in (event["data"] or {})
    ]


def _texts_of(event: Json) -> list[str]:
    """Return the texts that a run wrote at a step."""
    written = str(event["message"]).removeprefix(f"{NOTICE}: ")
    return [text.strip() for text in SAMPLE.split(written) if text.strip()]


def _chosen_step(visit: Visit, samples: Sequence[Json]) -> int | None:
    """Return the step whose samples are shown: as asked for, or the newest."""
    steps = [event["data"]["step"] for event in samples]
    chosen = visit.query.get("step", "")
    if chosen.isdigit() and int(chosen) in steps:
        return int(chosen)
    return steps[0] if steps else None


def _speed(events: Sequence[Json]) -> float | None:
    """Return tokens or pictures a second over the run so far."""
    for event in events:
        data = event["data"] or {}
        if data.get("seen") and data.get("seconds"):
            return float(data["seen"] / data["seconds"])
    return None


def _move(name: str, done: tuple[str, str]) -> Any:
    """Return the handler of a button that moves a job."""

    async def move(visit: Visit) -> Response:
        id = visit.path["job"]
        brief = await visit.call("GET", f"/v1/jobs/{id}")
        await visit.call("POST", f"{brief['url']}/{name}")
        if not visit.is_partial:
            return visit.go(f"jobs/{id}")
        part = visit.text("jobs/live.html", **await _job(visit, id))
        return visit.toast(say(*done), part)

    return move


async def file(visit: Visit) -> Response:
    """A file that the job made: a picture of its samples, an export."""
    id = visit.path["file"]
    record = await visit.call("GET", f"/v1/files/{id}")
    name = record["filename"]
    if name.endswith(".png"):
        content = await visit.content("GET", f"/v1/files/{id}/content")
        return Response(content, media_type="image/png", headers=CACHING)
    return await visit.download(f"/v1/files/{id}/content")


ROUTES = [
    get("", show),
    get("/counts", counts),
    get("/files/{file}", file),
    get("/{job}", show_job),
    post("/{job}/pause", _move("pause", ("Stopped at a checkpoint.", "已暂停。"))),
    post("/{job}/resume", _move("resume", ("It goes on.", "继续执行。"))),
    post("/{job}/cancel", _move("cancel", ("Cancelled.", "已取消。"))),
]
