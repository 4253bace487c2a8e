"""A table of scores with their intervals drawn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from miaobi.core.language import say
from miaobi.evaluate.page.numbers import format_number
from miaobi.evaluate.page.template import Block, render
from miaobi.evaluate.score import Score

LEFT = 6
"""Where the scale of an interval begins, in a drawing 152 wide."""
WIDTH = 140


def score_table(by_model: Mapping[str, Sequence[Score]]) -> Block:
    """Return a table of scores; all models share the scale of a score's intervals."""
    headings = {
        "measure": say("Measure", "指标"),
        "drawn": say("95 % interval", "95% 区间"),
    }
    all_scores = [score for scores in by_model.values() for score in scores]
    names = list(dict.fromkeys(score.name for score in all_scores))
    by_name = [{score.name: score for score in scores} for scores in by_model.values()]
    rows = [_row([scores.get(name) for scores in by_name]) for name in names]
    columns = list(by_model) if len(by_model) > 1 else [say("Value", "数值")]
    return render("scores", rows, columns, headings)


def _row(cells: Sequence[Score | None]) -> dict[str, Any]:
    """Return a row: the same score of each model, None where it has none."""
    scores = [score for score in cells if score]
    first = scores[0]
    better = {
        "lower": say("lower is better", "越低越好"),
        "higher": say("higher is better", "越高越好"),
    }
    return {
        "label": first.label or first.name,
        "note": " · ".join(dict.fromkeys(score.detail for score in scores)),
        "better": better.get(first.better or ""),
        "cells": [_cell(score) for score in cells],
        "drawing": interval_drawing(cells),
    }


def _cell(score: Score | None) -> dict[str, Any]:
    if score is None:
        return {"text": "–", "unit": "", "interval": "", "n": "–"}
    return {
        "text": format_number(score.value),
        "unit": score.unit,
        "interval": f"{format_number(score.low)} – {format_number(score.high)}",
        "n": score.n,
    }


def interval_drawing(cells: Sequence[Score | None]) -> list[dict[str, Any]]:
    """Return positions in a drawing 152 wide; the intervals take its middle half."""
    scores = [score for score in cells if score]
    low = min(score.low for score in scores)
    high = max(score.high for score in scores)
    margin = (high - low) / 2 or abs(high) * 0.1 or 1.0

    def position(value: float) -> float:
        share = WIDTH * (value - low + margin) / (high - low + 2 * margin)
        return round(LEFT + share, 1)

    return [
        {
            "style": f"s{index % 2}",
            "low": position(score.low),
            "high": position(score.high),
            "value": position(score.value),
            "y": 9.5 if len(scores) == 1 else 5 + 9 * index,
        }
        for index, score in enumerate(cells)
        if score
    ]
