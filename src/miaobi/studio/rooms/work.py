"""What the rooms that show jobs share: states in words, a job's events, its curves and
its samples.
"""

from __future__ import annotations

from math import isfinite
from typing import Any

from miaobi.evaluate.page import Series, line_chart
from miaobi.studio.rooms.drawing import notice, sign, text, when
from miaobi.studio.rooms.room import Desk

TRAINING, TUNING, BATCHES = "/v1/training/jobs", "/v1/fine_tuning/jobs", "/v1/batches"
PLACES = {"trainjob": TRAINING, "ftjob": TUNING, "batch": BATCHES}
STATES = {
    "validating_files": ("reading the data", "正在读取数据"),
    "validating": ("reading the requests", "正在读取请求"),
    "queued": ("waiting", "等待中"),
    "running": ("running", "运行中"),
    "in_progress": ("running", "运行中"),
    "finalizing": ("finishing", "收尾中"),
    "paused": ("paused", "已暂停"),
    "cancelling": ("stopping", "正在停止"),
    "succeeded": ("done", "已完成"),
    "completed": ("done", "已完成"),
    "failed": ("failed", "失败"),
    "cancelled": ("cancelled", "已取消"),
    "expired": ("expired", "已过期"),
}
OVER = ("succeeded", "completed", "failed", "cancelled", "expired")
MAX_SERIES = 3
"""Losses that are drawn."""
SHOWN = 12
"""Messages of a job that are shown, newest first."""


def path_of(job: str) -> str:
    """Where the API keeps the job of this id."""
    return f"{PLACES[job.partition('-')[0]]}/{job}"


def origin(job: dict[str, Any]) -> str:
    """What a job begins with: a base model, or a recipe."""
    return str(job.get("model") or job["recipe"])


def result(job: dict[str, Any]) -> str | None:
    """The model that a job made."""
    return job.get("fine_tuned_model") or job.get("trained_model")


def named(job: dict[str, Any]) -> str:
    """A job as people tell one from another: what it makes or asks, and when it was given."""
    what = (
        job["endpoint"] if job["object"] == "batch" else job["miaobi"]["will_be_called"]
    )
    return f"{what} · {when(job['created_at'])}"


def state(desk: Desk, status: str) -> str:
    kind = (
        "good"
        if status in ("succeeded", "completed")
        else "bad"
        if status == "failed"
        else "busy"
        if status not in OVER
        else ""
    )
    return sign(desk.say(*STATES.get(status, (status, status))), kind)


def curves(desk: Desk, events: list[dict[str, Any]]) -> str:
    """Return the losses of a run by step, in training and held out; empty without any.

    events: newest first, as the API gives them.
    """
    losses: dict[str, list[tuple[float, float]]] = {}
    for event in reversed(events):
        data = event.get("data") or {}
        if "step" not in data:
            continue
        for name, value in data.items():
            if "loss" in name and isinstance(value, int | float) and isfinite(value):
                losses.setdefault(name, []).append((float(data["step"]), float(value)))
    if not losses:
        return ""
    series = [Series(name, points) for name, points in losses.items()][:MAX_SERIES]
    latest = " · ".join(f"{item.name} {item.points[-1][1]:.4g}" for item in series)
    chart = line_chart(
        series,
        x_label=desk.say("step", "步"),
        y_label=desk.say("Loss by step", "损失曲线"),
        caption=latest,
    )
    return f'<div class="curves">{chart}</div>'


def messages(desk: Desk, events: list[dict[str, Any]]) -> str:
    """What happened, newest first; what a run wrote on the way is labelled like
    everything generated.
    """
    told = [event for event in events if event.get("type", "message") == "message"][
        :SHOWN
    ]
    if not told:
        return notice(desk.say("Nothing has happened yet.", "还没有任何进展。"))
    rows = "".join(
        f"<li><time>{text(when(event['created_at']))}</time><span>{text(event['message'])}</span></li>"
        for event in told
    )
    return f'<ol class="events">{rows}</ol>'
