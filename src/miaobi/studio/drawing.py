"""Tables, curves and small signs as HTML and SVG. Every text that comes from outside is
escaped here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from html import escape
from itertools import pairwise

Point = tuple[float, float]
WIDTH, HEIGHT, LEFT, BOTTOM, TOP, RIGHT = 640, 240, 56, 28, 12, 12


def table(headers: Sequence[str], rows: Sequence[Sequence[str]], caption: str) -> str:
    """Cells are HTML already (`text`, `sign`). The caption is for those who hear the page."""
    head = "".join(f'<th scope="col">{escape(name)}</th>' for name in headers)
    body = "".join(
        "<tr>"
        + "".join(
            f'<td data-name="{escape(name)}">{cell}</td>'
            for name, cell in zip(headers, row, strict=True)
        )
        + "</tr>"
        for row in rows
    )
    return (
        f'<div class="sheet" role="region" aria-label="{escape(caption)}" '
        f'tabindex="0"><table><caption>{escape(caption)}</caption><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'
    )


def text(value: object) -> str:
    return escape(str(value))


def sign(value: str, kind: str = "") -> str:
    """A word in a small frame: a state, an alias. `kind` is one of look.css: good, bad, busy."""
    return f'<span class="sign {kind}">{escape(value)}</span>'


def notice(value: str) -> str:
    """For rooms with nothing in them yet."""
    return f'<p class="notice">{escape(value)}</p>'


def when(seconds: float | str) -> str:
    """UTC seconds or an ISO time, as people write it here."""
    moment = (
        datetime.fromisoformat(seconds)
        if isinstance(seconds, str)
        else datetime.fromtimestamp(seconds)
    )
    return moment.astimezone().strftime("%Y-%m-%d %H:%M")


def size(count: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000 or unit == "GB":
            break
        count /= 1000
    return f"{count:.3g} {unit}"


def curve(series: Mapping[str, Sequence[Point]], x_name: str, title: str) -> str:
    """Lines over one axis, each with its last value. Numbers that are not finite are
    left out by whoever asks.
    """
    points = [point for line in series.values() for point in line]
    if not points:
        return ""
    x0, x1 = min(x for x, _ in points), max(x for x, _ in points)
    y0, y1 = min(y for _, y in points), max(y for _, y in points)
    pad = (y1 - y0) * 0.08 or abs(y1) * 0.1 or 1.0
    y0, y1 = y0 - pad, y1 + pad

    def at(x: float, y: float) -> Point:
        return (
            LEFT + (x - x0) / ((x1 - x0) or 1) * (WIDTH - LEFT - RIGHT),
            TOP + (y1 - y) / (y1 - y0) * (HEIGHT - TOP - BOTTOM),
        )

    parts = []
    for step in range(5):
        value = y0 + (y1 - y0) * step / 4
        _, y = at(x0, value)
        parts.append(
            f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" '
            f'y2="{y:.1f}"/><text x="{LEFT - 8}" y="{y + 4:.1f}" '
            f'text-anchor="end">{value:.3g}</text>'
        )
    for number, line in enumerate(series.values()):
        drawn = [at(x, y) for x, y in line]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in drawn)
        end = drawn[-1]
        parts.append(
            f'<polyline class="line{number % 3}" points="{path}"/><circle '
            f'class="line{number % 3}" cx="{end[0]:.1f}" cy="{end[1]:.1f}" '
            'r="3.5"/>'
        )
    parts.append(
        f'<text x="{LEFT}" y="{HEIGHT - 8}">{x0:g}</text><text '
        f'x="{WIDTH - RIGHT}" y="{HEIGHT - 8}" '
        f'text-anchor="end">{escape(x_name)} {x1:g}</text>'
    )
    legend = "".join(
        f'<li class="line{number % 3}">{escape(name)} <b>{line[-1][1]:.4g}</b></li>'
        for number, (name, line) in enumerate(series.items())
    )
    return (
        f'<figure class="curve"><svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
        f'aria-label="{escape(title)}">{"".join(parts)}</svg><figcaption><ul>{legend}</ul></figcaption></figure>'
    )


def lineage(name: str, parents: Mapping[str, Sequence[str]]) -> str:
    """Where a model came from, oldest first: smollm2 → helper@1 → helper@2."""
    chain = [name]
    while len(found := parents.get(chain[0], ())) == 1 and found[0] not in chain:
        chain.insert(0, found[0])
    if len(found) > 1:
        chain.insert(0, " + ".join(found))
    drawn = [text(chain[0])] + [
        f'<i aria-hidden="true">→</i> {text(item)}' for _, item in pairwise(chain)
    ]
    return f'<span class="lineage">{" ".join(drawn)}</span>'
