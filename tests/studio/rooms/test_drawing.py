"""Tables and signs: nothing from outside becomes HTML."""

from __future__ import annotations

import re
from types import SimpleNamespace
from typing import Any

from miaobi.studio.rooms.drawing import lineage, notice, sign, size, table, text
from miaobi.studio.rooms.work import curves


def test_nothing_from_outside_becomes_html() -> None:
    bad = '<img src=x onerror="alert(1)">'
    drawn = [
        table([bad], [[text(bad)]], bad),
        sign(bad),
        notice(bad),
        lineage(bad, {bad: [bad + "2"]}),
    ]
    assert all("<img" not in html and "&lt;img" in html for html in drawn)


def test_lineage_goes_back_to_the_first_and_survives_circles() -> None:
    plain = re.sub(
        r"<[^>]+>",
        "",
        lineage("helper@2", {"helper@2": ["helper@1"], "helper@1": ["smollm2"]}),
    )
    assert plain == "smollm2 → helper@1 → helper@2"
    assert "a + b" in lineage("both@1", {"both@1": ["a", "b"]})
    assert lineage("x@1", {"x@1": ["x@2"], "x@2": ["x@1"]})


def test_sizes() -> None:
    assert [size(count) for count in (12, 5200, 134_000_000, 2.5e13)] == [
        "12 B",
        "5.2 kB",
        "134 MB",
        "2.5e+04 GB",
    ]


def test_the_losses_of_a_run_are_drawn_and_others_are_not() -> None:
    desk: Any = SimpleNamespace(say=lambda english, chinese: english)
    events = [
        {"data": {"step": 20, "loss": 1.5, "<b>_loss": 3.0}},
        {"data": {"step": 10, "loss": float("nan"), "speed": 7.0}},
        {"data": None},
        {"data": {"step": 5, "loss": 2.5}},
    ]
    html = curves(desk, events)
    assert html.count("<polyline") == 2
    assert "loss 1.5" in html and "nan" not in html
    assert "<b>" not in html and "&lt;b&gt;_loss" in html
    assert curves(desk, events[2:3]) == ""
