"""The one maker of HTML pages: self-contained, from disk, light and dark, in either
language, printable.

    page = Page("poet@1", lead="57,607 poems")
    page.add("Scores", scores({"poet@1": found}), prose("n counts documents."))
    page.add("Learning", loss_chart(read_log(run)))
    page.write(folder / "index.html")

Blocks are strings of markup made by the functions below; whatever is handed to them is escaped.
"""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import cache
from importlib.resources import files
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from miaobi import __version__
from miaobi.core.files import write_text
from miaobi.core.language import language, say
from miaobi.evaluate.score import Score

if TYPE_CHECKING:
    import numpy as np

Block = str
"""Markup, as the functions of this module return it."""


@dataclass
class Page:
    title: str
    lead: str = ""
    footer: list[str] = field(default_factory=list)
    sections: list[tuple[str, tuple[Block, ...]]] = field(default_factory=list)

    def add(self, heading: str, *blocks: Block) -> Page:
        self.sections.append((heading, blocks))
        return self

    def generated_by(self, model: str) -> Page:
        """Say, in the line at the foot, that a model made what is shown on this page."""
        self.footer.append(
            say(
                "AI-generated: the texts and pictures shown as samples on "
                f"this page were made by the model {model}, not by a person.",
                f"AI 生成：本页展示的文本与图片样本由模型 {model} 生成，并非人工创作。",
            )
        )
        return self

    def html(self) -> str:
        from markupsafe import Markup

        made = say(
            f"Made by miaobi {__version__} on {datetime.now():%Y-%m-%d %H:%M}.",
            f"由 miaobi {__version__} 于 {datetime.now():%Y-%m-%d %H:%M} 生成。",
        )
        return str(
            _macros().page(
                {
                    "title": self.title,
                    "lead": self.lead,
                    "sections": self.sections,
                    "footer": [*self.footer, made],
                    "language": {"zh": "zh-CN"}.get(language(), language()),
                    "generator": f"miaobi {__version__}",
                    "style": Markup(
                        (files("miaobi.evaluate") / "page.css").read_text(
                            encoding="utf-8"
                        )
                    ),
                }
            )
        )

    def write(self, path: Path) -> Path:
        """Write the page, whole or not at all."""
        write_text(path, self.html())
        return path


class Quote(NamedTuple):
    """Something a model wrote: `prompt` is shown before it, quieter."""

    text: str
    prompt: str = ""
    caption: str = ""


def prose(*paragraphs: str) -> Block:
    return _made("prose", paragraphs)


def facts(pairs: Mapping[str, Any]) -> Block:
    """A list of names and values."""
    return _made("facts", list(pairs.items()))


def steps(*items: tuple[str, str]) -> Block:
    """What to do next: (sentence, command)."""
    return _made("steps", items)


def quotes(items: Iterable[Quote]) -> Block:
    """Texts that a model wrote, as cards."""
    return _made("samples", list(items))


def images(items: Iterable[tuple[np.ndarray, str]], model: str = "") -> Block:
    """Pictures inside the page itself: (uint8 [H, W, 1 or 3], what it shows). model:
    who made them, written into each PNG as well.
    """
    return _made(
        "pictures",
        [
            {
                "data": base64.b64encode(_png(pixels, model)).decode(),
                "text": text,
                "height": pixels.shape[0],
                "width": pixels.shape[1],
            }
            for pixels, text in items
        ],
    )


def _png(pixels: np.ndarray, model: str) -> bytes:
    from io import BytesIO

    from PIL import Image
    from PIL.PngImagePlugin import PngInfo

    from miaobi.provenance.label import NOTICE

    facts, made = PngInfo(), BytesIO()
    if model:
        facts.add_itxt(
            "miaobi", json.dumps({"notice": NOTICE, "model": model}, ensure_ascii=False)
        )
    Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels).save(
        made, "PNG", optimize=True, pnginfo=facts
    )
    return made.getvalue()


def scores(by_model: Mapping[str, Sequence[Score]]) -> Block:
    """A table of scores with their intervals drawn; the models of one measure share its scale."""
    names = list(
        dict.fromkeys(score.name for found in by_model.values() for score in found)
    )
    words = {
        "measure": say("Measure", "指标"),
        "drawn": say("95 % interval", "95% 区间"),
    }
    rows = []
    for name in names:
        cells = {
            model: score
            for model, found in by_model.items()
            for score in found
            if score.name == name
        }
        first = next(iter(cells.values()))
        rows.append(
            {
                "label": first.label or first.name,
                "note": " · ".join(
                    dict.fromkeys(score.detail for score in cells.values())
                ),
                "better": {
                    "lower": say("lower is better", "越低越好"),
                    "higher": say("higher is better", "越高越好"),
                }.get(first.better or ""),
                "cells": [_cell(cells.get(model)) for model in by_model],
                "drawing": _drawn([cells.get(model) for model in by_model]),
            }
        )
    return _made(
        "scores",
        rows,
        list(by_model) if len(by_model) > 1 else [say("Value", "数值")],
        words,
    )


def table(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> Block:
    """Rows of text under headings; line breaks inside a cell are kept."""
    return _made("table", list(columns), [list(row) for row in rows])


def bars(shares: Mapping[str, float]) -> Block:
    """Names with shares of one, drawn as bars."""
    return _made(
        "bars",
        [
            {"name": name, "width": round(600 * share, 1), "text": f"{share:.0%}"}
            for name, share in shares.items()
        ],
    )


def marked(pieces: Iterable[tuple[str, bool]]) -> Block:
    """A text with some of its stretches marked."""
    return _made("marked", list(pieces))


def figure(value: float) -> str:
    """A number with four significant digits, at most three decimals where that suffices."""
    if value == 0 or not math.isfinite(value):
        return f"{value:g}"
    if abs(value) < 0.01:
        return f"{value:.2g}"
    return f"{value:,.{min(3, max(0, 3 - math.floor(math.log10(abs(value)))))}f}"


def _cell(score: Score | None) -> dict[str, Any]:
    if score is None:
        return {"text": "–", "unit": "", "interval": "", "n": "–"}
    return {
        "text": figure(score.value),
        "unit": score.unit,
        "interval": f"{figure(score.low)} – {figure(score.high)}",
        "n": score.n,
    }


def _drawn(found: Sequence[Score | None]) -> list[dict[str, Any]]:
    """Places in a box 152 wide: the widest interval takes its middle half."""
    known = [score for score in found if score]
    low, high = min(score.low for score in known), max(score.high for score in known)
    margin = (high - low) / 2 or abs(high) * 0.1 or 1.0

    def place(value: float) -> float:
        return round(6 + 140 * (value - low + margin) / (high - low + 2 * margin), 1)

    return [
        {
            "style": f"s{index % 2}",
            "low": place(score.low),
            "high": place(score.high),
            "value": place(score.value),
            "y": 9.5 if len(known) == 1 else 5 + 9 * index,
        }
        for index, score in enumerate(found)
        if score
    ]


class Line(NamedTuple):
    name: str
    points: Sequence[tuple[float, float]]
    dotted: bool = False
    """Draw each point: for what was measured seldom."""
    joined: bool = True
    """Draw the curve between them."""


def loss_chart(rows: Sequence[Mapping[str, Any]]) -> Block:
    """The losses of a run's log (`train.tracking.read_log`) against steps, with the
    minutes along the top.
    """
    clock = [
        (float(row["step"]), row["seconds"] / 60) for row in rows if "seconds" in row
    ]
    names = sorted({key for row in rows for key in row if key.endswith("loss")})
    lines = [
        Line(
            say("training loss", "训练损失") if len(names) == 1 else name,
            [(float(row["step"]), row[name]) for row in rows if _finite(row.get(name))],
        )
        for name in names
    ]
    lines.append(
        Line(
            say("validation loss", "验证损失"),
            [
                (float(row["step"]), row["validation"])
                for row in rows
                if _finite(row.get("validation"))
            ],
            dotted=True,
        )
    )
    unit = say("loss, nats", "损失（奈特）") if len(names) == 1 else say("loss", "损失")
    return line_chart(
        [line for line in lines if line.points],
        say("step", "步"),
        unit,
        clock,
        say("minutes", "分钟"),
    )


def line_chart(
    lines: Sequence[Line],
    x_label: str,
    y_label: str,
    clock: Sequence[tuple[float, float]] = (),
    clock_label: str = "",
    caption: str = "",
) -> Block:
    """Curves as inline SVG. clock: (x, other quantity) pairs, drawn as a second scale
    along the top.
    """
    if not any(line.points for line in lines):
        return prose(say("Nothing was recorded.", "没有记录。"))
    xs = [x for line in lines for x, _ in line.points]
    ys = [y for line in lines for _, y in line.points]
    box = _Box(min(xs), max(xs), *_stretch(min(ys), max(ys)))
    drawn = [
        {
            "name": line.name,
            "style": f"s{index % 4}",
            "dotted": line.dotted,
            "joined": line.joined,
            "points": " ".join(
                f"{box.x(x):.1f},{box.y(y):.1f}" for x, y in line.points
            ),
            "marks": [
                {
                    "x": round(box.x(x), 1),
                    "y": round(box.y(y), 1),
                    "title": f"{line.name}: {figure(y)} · {x_label} {figure(x)}",
                }
                for x, y in line.points[:: max(1, len(line.points) // 120)]
            ],
        }
        for index, line in enumerate(lines)
    ]
    summary = "; ".join(
        f"{line.name}: {figure(line.points[0][1])} → {figure(line.points[-1][1])}"
        for line in lines
        if line.points
    )
    return _made(
        "chart",
        {
            "width": _Box.width,
            "height": _Box.height,
            "left": _Box.left,
            "right": _Box.right,
            "top": _Box.top,
            "bottom": _Box.bottom,
            "x_label": x_label,
            "y_label": y_label,
            "top_label": clock_label,
            "lines": drawn,
            "caption": caption,
            "summary": summary,
            "x_ticks": [
                {"at": round(box.x(x), 1), "text": f"{x:,.4g}"}
                for x in ticks(box.x_low, box.x_high)
            ],
            "y_ticks": [
                {"at": round(box.y(y), 1), "text": f"{y:,.4g}"}
                for y in ticks(box.y_low, box.y_high)
            ],
            "top_ticks": _clock_ticks(box, clock),
        },
    )


@dataclass(frozen=True)
class _Box:
    """Data to drawing coordinates."""

    x_low: float
    x_high: float
    y_low: float
    y_high: float
    width, height, left, right, top, bottom = 860, 380, 56, 846, 48, 330

    def x(self, value: float) -> float:
        return self.left + (self.right - self.left) * (value - self.x_low) / (
            (self.x_high - self.x_low) or 1
        )

    def y(self, value: float) -> float:
        return self.bottom - (self.bottom - self.top) * (value - self.y_low) / (
            self.y_high - self.y_low
        )


def ticks(low: float, high: float, about: int = 6) -> list[float]:
    """Round numbers between `low` and `high`: multiples of 1, 2 or 5 times a power of ten."""
    if high <= low:
        return [low]
    rough = (high - low) / about
    power = 10 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough)
    return [
        round(place * step, 12)
        for place in range(
            math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1
        )
    ]


def _clock_ticks(
    box: _Box, clock: Sequence[tuple[float, float]]
) -> list[dict[str, Any]]:
    """Where along x the other quantity has round values, between the points known."""
    known = sorted(clock)
    if len(known) < 2 or known[-1][1] <= known[0][1]:
        return []
    places = []
    for value in ticks(known[0][1], known[-1][1], 5):
        for (x, here), (later, there) in pairwise(known):
            if here <= value <= there and there > here:
                places.append(
                    {
                        "at": round(
                            box.x(x + (later - x) * (value - here) / (there - here)), 1
                        ),
                        "text": f"{value:,.3g}",
                    }
                )
                break
    return places


def _stretch(low: float, high: float) -> tuple[float, float]:
    margin = (high - low) * 0.06 or abs(high) * 0.1 or 1.0
    return low - margin, high + margin


def _finite(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


@cache
def _macros() -> Any:
    from jinja2 import Environment, StrictUndefined

    source = (files("miaobi.evaluate") / "page.html.jinja").read_text(encoding="utf-8")
    return (
        Environment(autoescape=True, undefined=StrictUndefined)
        .from_string(source)
        .module
    )


def _made(name: str, *arguments: Any) -> Block:
    made: Block = getattr(_macros(), name)(*arguments)
    return made
