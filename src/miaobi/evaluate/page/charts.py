"""Line charts as inline SVG."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple

from miaobi.core.language import say
from miaobi.evaluate.page.layout import prose
from miaobi.evaluate.page.numbers import format_number, ticks
from miaobi.evaluate.page.template import Block, render

MAX_MARKS = 120
"""About so many points of a series show their value on hover."""
STYLES = 4
"""How many colours there are for series."""


class Series(NamedTuple):
    """One line of a chart."""

    name: str
    points: Sequence[tuple[float, float]]
    """(x, y)."""
    dotted: bool = False
    """Whether to draw each point: for what was measured seldom."""
    joined: bool = True
    """Whether to draw the line between the points."""


def loss_chart(rows: Sequence[Mapping[str, Any]]) -> Block:
    """Return a chart of the losses of a run's log (`train.tracking.read_log`).

    Losses stand against steps; a second scale along the top has the minutes.
    """
    names = sorted({key for row in rows for key in row if key.endswith("loss")})
    single = len(names) == 1
    series = [
        Series(
            say("training loss", "训练损失") if single else name, _column(rows, name)
        )
        for name in names
    ]
    validation = _column(rows, "validation")
    series.append(Series(say("validation loss", "验证损失"), validation, dotted=True))
    minutes = [
        (float(row["step"]), row["seconds"] / 60) for row in rows if "seconds" in row
    ]
    return line_chart(
        [item for item in series if item.points],
        x_label=say("step", "步"),
        y_label=say("loss, nats", "损失（奈特）") if single else say("loss", "损失"),
        top=minutes,
        top_label=say("minutes", "分钟"),
    )


def _column(rows: Sequence[Mapping[str, Any]], name: str) -> list[tuple[float, float]]:
    """Return (step, value) of the rows that have a finite value."""
    return [
        (float(row["step"]), row[name]) for row in rows if _is_finite(row.get(name))
    ]


def _is_finite(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def line_chart(
    series: Sequence[Series],
    x_label: str,
    y_label: str,
    top: Sequence[tuple[float, float]] = (),
    top_label: str = "",
    caption: str = "",
) -> Block:
    """Return series of finite points as inline SVG.

    Args:
        series: The lines.
        x_label: What x counts.
        y_label: What y counts.
        top: (x, other quantity) pairs, drawn as a second scale along the top.
        top_label: What that quantity is.
        caption: A sentence below the chart.
    """
    points = [point for item in series for point in item.points]
    if not points:
        return prose(say("Nothing was recorded.", "没有记录。"))
    frame = Frame.of(points)
    x_ticks = ticks(frame.x_low, frame.x_high)
    y_ticks = ticks(frame.y_low, frame.y_high)
    chart = {
        "width": Frame.width,
        "height": Frame.height,
        "left": Frame.left,
        "right": Frame.right,
        "top": Frame.top,
        "bottom": Frame.bottom,
        "x_label": x_label,
        "y_label": y_label,
        "top_label": top_label,
        "lines": [
            _line(frame, item, index, x_label) for index, item in enumerate(series)
        ],
        "caption": caption,
        "summary": "; ".join(_summary(item) for item in series if item.points),
        "x_ticks": [_tick(frame.x(x), f"{x:,.4g}") for x in x_ticks],
        "y_ticks": [_tick(frame.y(y), f"{y:,.4g}") for y in y_ticks],
        "top_ticks": _top_ticks(frame, top),
    }
    return render("chart", chart)


@dataclass(frozen=True)
class Frame:
    """The ranges of a chart's values, and their pixels."""

    x_low: float
    x_high: float
    y_low: float
    y_high: float
    width, height = 860, 380
    left, right = 56, 846
    top, bottom = 48, 330

    @classmethod
    def of(cls, points: Sequence[tuple[float, float]]) -> Frame:
        """The frame of these points, with a margin above and below."""
        xs = [x for x, _ in points]
        ys = [y for _, y in points]
        low = min(ys)
        high = max(ys)
        margin = (high - low) * 0.06 or abs(high) * 0.1 or 1.0
        return cls(min(xs), max(xs), low - margin, high + margin)

    def x(self, value: float) -> float:
        """Return where a value lies from left to right, in pixels."""
        span = (self.x_high - self.x_low) or 1
        return self.left + (self.right - self.left) * (value - self.x_low) / span

    def y(self, value: float) -> float:
        """Return where a value lies from the top down, in pixels."""
        span = self.y_high - self.y_low
        return self.bottom - (self.bottom - self.top) * (value - self.y_low) / span


def _line(frame: Frame, series: Series, index: int, x_label: str) -> dict[str, Any]:
    every = max(1, len(series.points) // MAX_MARKS)
    marks = [
        {
            "x": round(frame.x(x), 1),
            "y": round(frame.y(y), 1),
            "title": f"{series.name}: {format_number(y)} · {x_label} {format_number(x)}",
        }
        for x, y in series.points[::every]
    ]
    path = " ".join(f"{frame.x(x):.1f},{frame.y(y):.1f}" for x, y in series.points)
    return {
        "name": series.name,
        "style": f"s{index % STYLES}",
        "dotted": series.dotted,
        "joined": series.joined,
        "points": path,
        "marks": marks,
    }


def _summary(series: Series) -> str:
    """Return a series in words, for those who cannot see it."""
    first = format_number(series.points[0][1])
    last = format_number(series.points[-1][1])
    return f"{series.name}: {first} → {last}"


def _tick(position: float, text: str) -> dict[str, Any]:
    return {"at": round(position, 1), "text": text}


def _top_ticks(
    frame: Frame, pairs: Sequence[tuple[float, float]]
) -> list[dict[str, Any]]:
    """Return where along x the second quantity has round values.

    Between the pairs it is interpolated; outside of them it is not known.
    """
    pairs = sorted(pairs)
    if len(pairs) < 2 or pairs[-1][1] <= pairs[0][1]:
        return []
    result = []
    for value in ticks(pairs[0][1], pairs[-1][1], 5):
        x = _interpolate(pairs, value)
        if x is not None:
            result.append(_tick(frame.x(x), f"{value:,.3g}"))
    return result


def _interpolate(pairs: Sequence[tuple[float, float]], value: float) -> float | None:
    """Return the x at which the quantity first has this value."""
    for (x, quantity), (next_x, next_quantity) in pairwise(pairs):
        if quantity <= value <= next_quantity and next_quantity > quantity:
            share_of_x = (next_x - x) * (value - quantity)
            return x + share_of_x / (next_quantity - quantity)
    return None
