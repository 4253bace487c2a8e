"""The side of a room that shows runs: one of them in sight with its state, curves,
samples and messages; a stop and a way to go on.
"""

from __future__ import annotations

from base64 import b64encode
from typing import Any

import gradio as gr

from miaobi.provenance.label import NOTICE
from miaobi.studio.rooms.drawing import notice, sign, table, text
from miaobi.studio.rooms.room import QUIET, Desk, still_there
from miaobi.studio.rooms.work import (
    OVER,
    curves,
    messages,
    named,
    origin,
    path_of,
    result,
    state,
)

EVENTS = 1000
EVERY = 2.0
"""Seconds between two looks at a job that runs."""


class Runs:
    """The runs of one kind. `shown` are its components; `enter` and `look` give their values."""

    def __init__(self, desk: Desk, jobs: str, name: str) -> None:
        """jobs: the kind's path in the API; name: begins the components' ids on the page."""
        self.desk, self.jobs = desk, jobs
        say = desk.say
        with gr.Row(elem_classes="bar"):
            self.job = gr.Dropdown(
                [], label=say("Run", "训练任务"), scale=3, elem_id=f"{name}-run"
            )
            stop = gr.Button(say("Stop", "暂停"), scale=1, elem_id=f"{name}-pause")
            resume = gr.Button(say("Go on", "继续"), scale=1, elem_id=f"{name}-resume")
        view = gr.HTML(padding=False, elem_id=f"{name}-view")
        clock = gr.Timer(EVERY, active=False)
        self.shown = [self.job, view, clock]
        gr.on(
            [self.job.input, clock.tick], self.look, [self.job], [view, clock], **QUIET
        )
        stop.click(self._doing("pause"), [self.job], [view, clock], **QUIET)
        resume.click(self._doing("resume"), [self.job], [view, clock], **QUIET)

    async def enter(self, job: str | None, visitor: gr.Request) -> tuple[Any, ...]:
        """For `shown`: the runs there are, and `job` or the newest in sight."""
        found = {
            item["id"]: named(item)
            for item in (
                await self.desk.call(visitor, "GET", self.jobs, params={"limit": 50})
            )["data"]
        }
        job = still_there(job, found)
        return gr.Dropdown(
            [(name, id) for id, name in found.items()], value=job
        ), *await self.look(job, visitor)

    async def look(self, job: str | None, visitor: gr.Request) -> tuple[str, Any]:
        """The run as it stands; the clock ticks while it runs."""
        say = self.desk.say
        if not job:
            return notice(
                say(
                    "Runs appear here, with their curves.",
                    "训练任务及其曲线会显示在这里。",
                )
            ), gr.Timer(active=False)
        known = await self.desk.call(visitor, "GET", path_of(job))
        events = (
            await self.desk.call(
                visitor, "GET", f"{path_of(job)}/events", params={"limit": EVENTS}
            )
        )["data"]
        made = result(known)
        rows = [
            [
                state(self.desk, known["status"]),
                text(origin(known)),
                sign(made, "good") if made else "–",
            ]
        ]
        head = table(
            [say("State", "状态"), say("From", "起点"), say("Answers as", "模型名")],
            rows,
            say("This run", "此任务"),
        )
        problem = (known.get("error") or {}).get("message")
        told = f'<p role="alert" class="problem">{text(problem)}</p>' if problem else ""
        picture = await self._picture(events, visitor)
        view = (
            f'<div class="run">{head}{told}{curves(self.desk, events)}'
            f"{picture}{messages(self.desk, events)}</div>"
        )
        return view, gr.Timer(active=known["status"] not in (*OVER, "paused"))

    async def _picture(self, events: list[dict[str, Any]], visitor: gr.Request) -> str:
        """The last sheet of pictures that the run painted; events newest first. It may
        have been deleted since.
        """
        drawn = next(
            (event["data"] for event in events if "file" in (event.get("data") or {})),
            None,
        )
        if drawn is None:
            return ""
        try:
            content = await self.desk.content(
                visitor, f"/v1/files/{drawn['file']}/content"
            )
        except gr.Error:
            return ""
        title = f"{NOTICE}: " + self.desk.say(
            f"pictures of step {drawn['step']}", f"第 {drawn['step']} 步的图片"
        )
        return (
            f'<figure class="samples"><img alt="{text(title)}" '
            f'src="data:image/png;base64,{b64encode(content).decode()}"><figcaption>{text(title)}</figcaption></figure>'
        )

    async def estimate(self, body: dict[str, Any], visitor: gr.Request) -> str:
        """What the run that `body` asks for would cost."""
        return notice(
            (
                await self.desk.call(
                    visitor,
                    "POST",
                    f"{self.jobs.removesuffix('/jobs')}/estimates",
                    json=body,
                )
            )["message"]
        )

    async def start(self, body: dict[str, Any], visitor: gr.Request) -> tuple[Any, ...]:
        """For `shown`, with the run that `body` asks for in sight, and nothing for what
        stood under the estimate.
        """
        return *await self.enter(
            (await self.desk.call(visitor, "POST", self.jobs, json=body))["id"], visitor
        ), ""

    def _doing(self, what: str) -> Any:
        async def done(job: str | None, visitor: gr.Request) -> tuple[str, Any]:
            if not job:
                raise self.desk.error("There is no run yet.", "还没有训练任务。")
            await self.desk.call(visitor, "POST", f"{path_of(job)}/{what}")
            return await self.look(job, visitor)

        return done
