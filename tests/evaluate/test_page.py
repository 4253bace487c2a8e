"""Pages: nothing handed to them becomes markup, nothing is fetched, and what is drawn
is where it should be.
"""

import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from miaobi.evaluate import page
from miaobi.evaluate.page import Page, Quote, Series
from miaobi.evaluate.page.numbers import ticks
from miaobi.evaluate.page.scores import interval_drawing
from miaobi.evaluate.score import Score

ROWS = [
    *(
        {"step": step, "loss": 5 - step / 100, "seconds": step * 0.6}
        for step in range(10, 310, 10)
    ),
    *(
        {"step": step, "validation": 5.1 - step / 100, "seconds": step * 0.6}
        for step in range(50, 310, 50)
    ),
]


class Tags(HTMLParser):
    """Collects tags and text, and refuses crossed or unclosed ones."""

    VOID = ("meta", "br")

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(html)
        assert not self.open

    def handle_starttag(
        self, tag: str, attributes: list[tuple[str, str | None]]
    ) -> None:
        self.seen.append((tag, dict(attributes)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(
        self, tag: str, attributes: list[tuple[str, str | None]]
    ) -> None:
        self.seen.append((tag, dict(attributes)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def whole(text: str, number: float = 1.0) -> Page:
    score = Score(
        text or "x", number, number - 1, number + 1, 20, text, "lower", text, text
    )
    return (
        Page(text, text)
        .add(text, page.prose(text), page.facts({text: text}), page.steps((text, text)))
        .add("quotes", page.quotes([Quote(text, text, text)]))
        .add("scores", page.score_table({text + "1": [score], text + "2": [score]}))
        .add(
            "chart",
            page.line_chart(
                [Series(text, [(0, 1), (1, 2)])],
                text,
                text,
                [(0, 0), (1, 1)],
                text,
                text,
            ),
        )
        .generated_by(text)
    )


@settings(max_examples=60)
@given(
    st.one_of(
        st.text(max_size=40),
        st.sampled_from(
            [
                "<script>alert(1)</script>",
                '"><img src=x onerror=alert(1)>',
                "</style></title>",
                "{{ 7 * 7 }}",
                "{% raw %}",
                "]]>",
                "&lt;",
                "'",
            ]
        ),
    )
)
def test_no_text_becomes_markup(text: str) -> None:
    plain = Tags(whole("plain").html())
    hostile = Tags(whole(text).html())
    # The same tags in the same order, whatever was written into them. (An empty text
    # may leave out its own element.)
    if text:
        assert [tag for tag, _ in hostile.seen] == [tag for tag, _ in plain.seen]
    assert all(
        name in ("class", "style", "id") or not name.startswith("on")
        for _, attributes in hostile.seen
        for name in attributes
    )


def test_nothing_is_fetched() -> None:
    html = whole("plain").html()
    assert not re.search(r"https?://|url\(|@import|<script|<link|<iframe", html)


def test_headings_language_and_names_for_screen_readers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    page_tags = Tags(whole("plain").html())
    assert [tag for tag, _ in page_tags.seen if tag in ("h1", "h2")] == [
        "h1",
        "h2",
        "h2",
        "h2",
        "h2",
    ]
    assert dict(page_tags.seen)["html"]["lang"] == "en"
    assert all(
        item.get("aria-label") or item.get("aria-hidden")
        for tag, item in page_tags.seen
        if tag == "svg"
    )
    assert "AI-generated" in page_tags.text


def test_the_loss_chart_has_both_curves_both_scales_and_titles() -> None:
    page_tags = Tags(page.loss_chart(ROWS))
    training, validation = (
        str(item["points"]).split() for tag, item in page_tags.seen if tag == "polyline"
    )
    assert len(training) == 30
    assert len(validation) == 6
    heights = [float(point.split(",")[1]) for point in training]
    assert heights == sorted(heights)  # a falling loss goes down the page
    for label in (
        "training loss",
        "validation loss",
        "step",
        "minutes",
        "nats",
        "step 300",
    ):
        assert label in page_tags.text


def test_a_series_lies_where_its_numbers_say() -> None:
    points = [(0.0, 4.0), (50.0, 2.0), (100.0, 1.0)]
    html = page.line_chart([Series("loss", points)], "step", "loss", caption="loss 1")
    [path] = re.findall(r'points="([^"]+)"', html)
    (x0, y0), (x1, y1), (x2, y2) = (
        map(float, pair.split(",")) for pair in path.split()
    )
    assert x1 - x0 == pytest.approx(x2 - x1, abs=0.1)
    assert (y1 - y0) / (y2 - y1) == pytest.approx(2.0, abs=0.01)
    assert y2 > y0
    assert "loss 1" in html
    flat = page.line_chart([Series("flat", [(3.0, 0.0)])], "step", "loss")
    assert "nan" not in flat.lower()


def test_the_minutes_stand_over_their_steps() -> None:
    """At 0.6 s a step, minute 1 is step 100."""
    html = page.loss_chart(ROWS)
    tick = {
        text: float(at)
        for at, text in re.findall(
            r'<text x="([\d.]+)" y="39" text-anchor="middle">([\d.]+)<', html
        )
    }
    step = {
        text: float(at)
        for at, text in re.findall(
            r'<text x="([\d.]+)" y="349" text-anchor="middle">([\d.]+)<', html
        )
    }
    assert tick["1"] == pytest.approx(step["100"], abs=0.2)
    assert tick["2"] == pytest.approx(step["200"], abs=0.2)


def test_an_interval_is_drawn_to_scale() -> None:
    one, two = interval_drawing([Score("a", 2, 1, 3, 5), Score("a", 3, 2, 5, 5)])
    assert one["low"] < one["value"] < one["high"] < two["high"]
    assert one["high"] - one["low"] == pytest.approx(
        (two["high"] - two["low"]) * 2 / 3, abs=0.2
    )


@pytest.mark.parametrize(
    ("rows", "content"),
    [
        ([], "Nothing was recorded"),
        ([{"step": 1, "loss": float("nan")}], "Nothing"),
        ([{"step": 1, "loss": 2.0, "seconds": 1.0}], "training loss"),
    ],
)
def test_little_to_draw(rows: list[dict[str, float]], content: str) -> None:
    assert content in page.loss_chart(rows)


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0, 10, [0, 2, 4, 6, 8, 10]),
        (1.86, 1.92, [1.86, 1.87, 1.88, 1.89, 1.9, 1.91, 1.92]),
        (3, 3, [3]),
        (-0.5, 0.5, [-0.4, -0.2, 0, 0.2, 0.4]),
    ],
)
def test_ticks_are_round(low: float, high: float, expected: list[float]) -> None:
    assert ticks(low, high) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (61.2345, "61.23"),
        (0.61, "0.610"),
        (0, "0"),
        (12345.6, "12,346"),
        (0.00012, "0.00012"),
        (2.0304, "2.030"),
    ],
)
def test_numbers_have_four_digits(value: float, text: str) -> None:
    assert page.format_number(value) == text


def test_it_is_written_whole(tmp_path: Path) -> None:
    path = Page("t").add("h", page.prose("p")).write(tmp_path / "a" / "index.html")
    assert path.read_text(encoding="utf-8").startswith("<!doctype html>")
    assert [item.name for item in path.parent.iterdir()] == ["index.html"]
