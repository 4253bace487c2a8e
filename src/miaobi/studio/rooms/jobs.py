"""Everything that runs in the background: training, fine-tuning and batches, what
happened to each, and the way to stop it.
"""

from __future__ import annotations

from typing import Any

import gradio as gr

from miaobi.studio.drawing import notice, table, text, when
from miaobi.studio.room import QUIET, Desk, still_there
from miaobi.studio.work import (
    OVER,
    PLACES,
    messages,
    named,
    origin,
    path_of,
    result,
    state,
)

TITLE = ("Jobs", "任务")
ORDER = 60


def build(desk: Desk) -> None:
    say = desk.say
    gr.Markdown(
        say(
            "## Jobs\nThey run in processes of their own, and go on where they were after a restart.",
            "## 任务\n任务在独立进程中运行，重启后会从中断处继续。",
        ),
        elem_classes="lead",
    )
    listing = gr.HTML(padding=False, elem_id="jobs")
    with gr.Row(elem_classes="bar"):
        chosen = gr.Dropdown([], label=say("Job", "任务"), scale=3, elem_id="job")
        fresh = gr.Button(say("Refresh", "刷新"), scale=1)
        cancel = gr.Button(say("Cancel", "取消任务"), scale=1, elem_id="cancel-job")
    events = gr.HTML(padding=False, elem_id="job-events")

    async def show(job: str | None, visitor: gr.Request) -> tuple[Any, ...]:
        jobs = sorted(
            [
                job
                for place in PLACES.values()
                for job in (await desk.call(visitor, "GET", place))["data"]
            ],
            key=lambda item: -item["created_at"],
        )
        names = {item["id"]: named(item) for item in jobs}
        job = still_there(job, names)
        return (
            _listing(desk, jobs),
            gr.Dropdown([(name, id) for id, name in names.items()], value=job),
            await told(job, visitor),
        )

    async def told(job: str | None, visitor: gr.Request) -> str:
        if not job:
            return ""
        if job.startswith("batch"):
            errors = (
                (await desk.call(visitor, "GET", path_of(job))).get("errors") or {}
            ).get("data", [])
            return "".join(f"<p>{text(item['message'])}</p>" for item in errors)
        return messages(
            desk,
            (
                await desk.call(
                    visitor, "GET", f"{path_of(job)}/events", params={"limit": 100}
                )
            )["data"],
        )

    async def stop(job: str | None, visitor: gr.Request) -> tuple[Any, ...]:
        if not job:
            raise desk.error("Choose a job first.", "请先选择任务。")
        await desk.call(visitor, "POST", f"{path_of(job)}/cancel")
        return await show(job, visitor)

    desk.on_entry(show, [listing, chosen, events], [chosen])
    fresh.click(show, [chosen], [listing, chosen, events], **QUIET)
    chosen.input(told, [chosen], [events], **QUIET)
    cancel.click(stop, [chosen], [listing, chosen, events], **QUIET)


def _listing(desk: Desk, jobs: list[dict[str, Any]]) -> str:
    say = desk.say
    if not jobs:
        return notice(
            say(
                "No jobs yet. Start one in the rooms “Train” and “Tune”, or send a batch to /v1/batches.",
                "还没有任务。可在“训练”或“调优”页开始一个，或向 /v1/batches 提交批处理。",
            )
        )
    rows = [
        [
            f"<b>{text(job['id'])}</b>",
            text(_what(desk, job)),
            state(desk, job["status"]),
            text(when(job["created_at"])),
            text(result(job) or _progress(job)),
        ]
        for job in jobs
    ]
    return table(
        [
            say("Job", "任务"),
            say("What", "内容"),
            say("State", "状态"),
            say("Asked", "提交时间"),
            say("Result", "结果"),
        ],
        rows,
        say("Jobs", "任务"),
    )


def _what(desk: Desk, job: dict[str, Any]) -> str:
    if job["object"] == "batch":
        return desk.say(f"batch to {job['endpoint']}", f"批处理 {job['endpoint']}")
    if job["object"] == "training.job":
        return desk.say(f"train {origin(job)}", f"训练 {origin(job)}")
    return desk.say(f"tune {origin(job)}", f"调优 {origin(job)}")


def _progress(job: dict[str, Any]) -> str:
    counts = job.get("request_counts")
    if counts and counts["total"]:
        return f"{counts['completed']}/{counts['total']}"
    return "–" if job["status"] in OVER else "…"
