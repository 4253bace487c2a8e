"""Tables and signs: nothing from outside becomes HTML."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from miaobi.studio.rooms.drawing import notice, sign, table, text
from miaobi.studio.rooms.work import curves


def test_nothing_from_outside_becomes_html() -> None:
    bad = '<img src=x onerror="alert(1)">'
    drawn = [
        table([bad], [[text(bad)]], bad),
        sign(bad),
        notice(bad),
    ]
    assert all("<img" not in html and "&lt;img" in html for html in drawn)


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
