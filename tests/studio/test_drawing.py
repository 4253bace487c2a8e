"""Tables and curves: nothing from outside becomes HTML, and lines lie where their numbers say."""

from __future__ import annotations

import re

from miaobi.studio.drawing import curve, lineage, notice, sign, size, table, text


def test_nothing_from_outside_becomes_html() -> None:
    bad = '<img src=x onerror="alert(1)">'
    drawn = [
        table([bad], [[text(bad)]], bad),
        sign(bad),
        notice(bad),
        lineage(bad, {bad: [bad + "2"]}),
        curve({bad: [(0, 1), (1, 2)]}, bad, bad),
    ]
    assert all("<img" not in html and "&lt;img" in html for html in drawn)


def test_a_curve_lies_where_its_numbers_say() -> None:
    drawn = curve({"loss": [(0, 4.0), (50, 2.0), (100, 1.0)]}, "step", "Loss")
    points = [
        tuple(map(float, pair.split(",")))
        for pair in re.search(r'points="([^"]+)"', drawn)[1].split()
    ]  # type: ignore[index]
    (x0, y0), (x1, y1), (x2, y2) = points
    assert (
        round(x1 - x0, 1) == round(x2 - x1, 1)
        and round((y1 - y0) / (y2 - y1), 2) == 2.0
        and y2 > y0
    )
    assert "<b>1</b>" in drawn
    assert curve({}, "step", "Loss") == "" and "NaN" not in curve(
        {"flat": [(3, 0.0)]}, "step", "Loss"
    )


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
