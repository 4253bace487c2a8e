"""Jobs as people read them: what each does, its state in words, how far it is, and how
long the rest takes.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from miaobi.core.language import say

Json = Mapping[str, Any]

STATES = {
    "queued": ("waiting", "等待中"),
    "running": ("running", "运行中"),
    "paused": ("stopped, can go on", "已暂停，可继续"),
    "succeeded": ("done", "已完成"),
    "failed": ("failed", "失败"),
    "cancelled": ("cancelled", "已取消"),
}
"""Of a job, in words."""
MOVING = ("queued", "running")
"""States that change by themselves."""
DOTS = {"queued": "", "running": "busy", "succeeded": "done"}
"""The dot before a state; states without one say it in words alone."""


@dataclass(frozen=True)
class Row:
    """A job in a list."""

    id: str
    name: str
    """What it makes or asks."""
    kind: str
    about: str
    """What it does, and from what."""
    status: str
    state: str
    dot: str | None
    created: int
    started: int | None
    finished: int | None
    done: int | None
    """Steps or requests that are done; None where that is not known yet."""
    total: int | None
    problem: str
    """Why it failed."""

    @property
    def is_moving(self) -> bool:
        return self.status in MOVING

    @property
    def share(self) -> int | None:
        """Per cent that is done."""
        if self.done is None or not self.total:
            return None
        return min(100 * self.done // self.total, 100)

    @property
    def seconds(self) -> float | None:
        """How long it took, or takes already."""
        if self.started is None:
            return None
        return (self.finished or time.time()) - self.started


def row_of(job: Json) -> Row:
    """Return a job of /v1/jobs as a row."""
    status = job["status"]
    progress = job["progress"]
    return Row(
        id=job["id"],
        name=job["name"],
        kind=job["kind"],
        about=about(job),
        status=status,
        state=say(*STATES[status]),
        dot=DOTS.get(status),
        created=job["created_at"],
        started=job["started_at"],
        finished=job["finished_at"],
        done=progress.get("step", progress.get("completed")),
        total=progress.get("steps", progress.get("total")),
        problem=(job["error"] or {}).get("message", ""),
    )


def about(job: Json) -> str:
    """Return what a job does, in a few words."""
    source = job["from"]
    if job["kind"] == "training":
        return say(f"Training, recipe {source}", f"训练，配方 {source}")
    if job["kind"] == "fine_tuning":
        return say(f"Tuning of {source}", f"调优 {source}")
    if job["kind"] == "export":
        return say("Export", "导出")
    return say("Batch of requests", "批量请求")


def time_left(events: Sequence[Json], steps: int | None) -> float | None:
    """Return the seconds until the last step, by the time that steps took so far; None
    before there are any.

    Args:
        events: of the run, newest first.
        steps: of the whole run.
    """
    for event in events:
        data = event["data"] or {}
        if "seconds" in data and data.get("step") and steps:
            left = max(steps - data["step"], 0)
            return float(left * data["seconds"] / data["step"])
    return None


def peak_memory(events: Sequence[Json]) -> int | None:
    """Return the most bytes that a run's process held; None before it was measured, and
    for runs from before it was.
    """
    held = [(event["data"] or {}).get("memory_bytes", 0) for event in events]
    return max(held, default=0) or None
