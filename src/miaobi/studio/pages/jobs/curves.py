"""A run's losses as the design's curve: training with its raw values, validation, and
the training of an earlier run behind them. Colours are classes of studio.css.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from typing import Any

from miaobi.core.language import say
from miaobi.evaluate.page.numbers import ticks

WIDTH, HEIGHT = 760, 340
LEFT, RIGHT, TOP, BOTTOM = 44, 748, 12, 308
POINTS = 240
"""Of a series that are drawn, at most."""
SMOOTH = 15
"""A smoothed value is the mean of this part of the values before it."""
MARGIN = 0.06
VALIDATION = "valid_loss"
STYLES = ("train", "check", "earlier")
"""Of as many series as are drawn."""

Point = tuple[float, float]


@dataclass(frozen=True)
class Series:
    """A series as it is drawn."""

    name: str
    style: str
    """A class of `.plot`: train, check, earlier."""
    last: float
    path: str
    raw: str
    """The path of the values as they were measured; empty where `path` has them."""
    x: float
    y: float
    """Of the last point."""


@dataclass(frozen=True)
class Tick:
    at: float
    text: str


@dataclass(frozen=True)
class Plot:
    """Everything that a template draws."""

    lines: Sequence[Series]
    x_ticks: Sequence[Tick]
    y_ticks: Sequence[Tick]
    summary: str
    """The curve in words."""
    points: str
    """JSON for the readout: {"frame", "lines": [{"name", "points"}]}."""
    width: int = WIDTH
    height: int = HEIGHT
    left: int = LEFT
    right: int = RIGHT
    top: int = TOP
    bottom: int = BOTTOM


def losses(events: Sequence[Mapping[str, Any]]) -> dict[str, list[Point]]:
    """Return the losses of a run by name, each by step.

    events: of the run, newest first.
    """
    by_name = dict[str, dict[float, float]]()
    for event in reversed(events):
        data = event["data"] or {}
        for name, value in data.items():
            is_loss = name.endswith("loss") and isinstance(value, int | float)
            if is_loss and "step" in data and isfinite(value):
                by_name.setdefault(name, {})[float(data["step"])] = float(value)
    return {name: sorted(values.items()) for name, values in by_name.items()}


def plot(
    own: Mapping[str, Sequence[Point]],
    earlier: Sequence[Point] = (),
    earlier_name: str = "",
    steps: int | None = None,
) -> Plot | None:
    """Return the plot of a run's losses; None before there are any.

    Args:
        own: the run's losses by name.
        earlier: the training loss of another run.
        earlier_name: what that run is called.
        steps: of the whole run, where they are known.
    """
    ordered = sorted(own, key=lambda name: name.startswith("valid"))
    styles = dict(zip(ordered, STYLES, strict=False))
    if VALIDATION in own:
        styles[VALIDATION] = "check"
    series = [
        (_name(name), style, thinned(own[name])) for name, style in styles.items()
    ]
    if earlier and series:
        series.insert(0, (earlier_name, "earlier", thinned(earlier)))
    values = [point for _, _, points in series for point in points]
    if len(values) < 2:
        return None
    frame = Frame.of(values, steps or 0)
    lines = [_series(frame, name, style, points) for name, style, points in series]
    steps_at = ticks(frame.x_low, frame.x_high)
    losses_at = ticks(frame.y_low, frame.y_high)
    changes = [
        f"{name}: {points[0][1]:.4g} → {points[-1][1]:.4g}"
        for name, _, points in series
    ]
    return Plot(
        lines,
        x_ticks=[Tick(frame.x(x), f"{x:,.4g}") for x in steps_at],
        y_ticks=[Tick(frame.y(y), f"{y:,.4g}") for y in losses_at],
        summary="; ".join(changes),
        points=_readout(frame, series),
    )


@dataclass(frozen=True)
class Frame:
    """The ranges of the values, and their pixels."""

    x_low: float
    x_high: float
    y_low: float
    y_high: float

    @classmethod
    def of(cls, points: Sequence[Point], steps: int) -> Frame:
        ys = [y for _, y in points]
        xs = [x for x, _ in points]
        margin = (max(ys) - min(ys)) * MARGIN or abs(max(ys)) * 0.1 or 1.0
        return cls(0.0, max(*xs, steps, 1.0), min(ys) - margin, max(ys) + margin)

    def x(self, value: float) -> float:
        """Return where a step lies from left to right."""
        share = (value - self.x_low) / (self.x_high - self.x_low)
        return round(LEFT + (RIGHT - LEFT) * share, 1)

    def y(self, value: float) -> float:
        """Return where a loss lies from the top down."""
        share = (value - self.y_low) / (self.y_high - self.y_low)
        return round(BOTTOM - (BOTTOM - TOP) * share, 1)


def thinned(points: Sequence[Point]) -> list[Point]:
    """Return about POINTS of the points, the last always among them."""
    every = -(-len(points) // POINTS) or 1
    return [*points[:-1:every], points[-1]] if points else []


def smoothed(points: Sequence[Point]) -> list[Point]:
    """Return the mean of the last values at each step."""
    count = -(-len(points) // SMOOTH)
    means = list[Point]()
    for end, (x, _) in enumerate(points, 1):
        window = [y for _, y in points[max(end - count, 0) : end]]
        means.append((x, sum(window) / len(window)))
    return means


def _series(frame: Frame, name: str, style: str, points: Sequence[Point]) -> Series:
    drawn = smoothed(points) if style == "train" else points
    x, y = drawn[-1]
    return Series(
        name,
        style,
        y,
        _path(frame, drawn),
        _path(frame, points) if style == "train" else "",
        frame.x(x),
        frame.y(y),
    )


def _path(frame: Frame, points: Sequence[Point]) -> str:
    """Return the line through the points, as SVG writes paths."""
    return "M" + "L".join(f"{frame.x(x):g} {frame.y(y):g}" for x, y in points)


def _readout(frame: Frame, series: Sequence[tuple[str, str, Sequence[Point]]]) -> str:
    """Return the points of all series with their values, as JSON."""
    content = {
        "step": say("step", "步"),
        "lines": [
            {
                "name": name,
                "style": style,
                "points": [
                    (frame.x(x), frame.y(y), x, float(f"{y:.4g}"))
                    for x, y in (smoothed(points) if style == "train" else points)
                ],
            }
            for name, style, points in series
        ],
    }
    return json.dumps(content, ensure_ascii=False, separators=(",", ":"))


def _name(name: str) -> str:
    """Return what people call a loss."""
    if name == VALIDATION:
        return say("validation", "验证")
    if name == "train_loss":
        return say("training", "训练")
    return name.replace("_", " ")
