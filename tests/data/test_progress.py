"""Progress where there is no terminal: lines now and then, in order, each end once."""

from __future__ import annotations

import pytest

from miaobi.data import progress
from miaobi.data.progress import PlainLines, bar


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """clock[0] is the time in seconds."""
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def test_short_work_is_silent_and_long_work_is_not(
    clock: list[float], capsys: pytest.CaptureFixture[str]
) -> None:
    with bar() as show:
        for second in range(25):
            clock[0] = 100.0 + second
            show("reading", second, 50)
    assert capsys.readouterr().err == "reading  20%\nreading  40%\n"


def test_without_a_total_the_amount_is_named(
    clock: list[float], capsys: pytest.CaptureFixture[str]
) -> None:
    lines = PlainLines()
    clock[0] += 11
    lines("records", 12345, 0)
    assert capsys.readouterr().err == "records  12,345\n"


def test_each_end_is_named_once(
    clock: list[float], capsys: pytest.CaptureFixture[str]
) -> None:
    lines = PlainLines(each_end=True)
    for label in ("perplexity", "diversity"):
        lines(label, 0.5, 1.0)
        lines(label, 1.0, 1.0)
        lines(label, 1.0, 1.0)
    assert capsys.readouterr().err == "perplexity  100%\ndiversity  100%\n"


def test_invisible_means_silent(
    clock: list[float], capsys: pytest.CaptureFixture[str]
) -> None:
    with bar(visible=False) as show:
        clock[0] += 99
        show("reading", 1, 2)
    assert capsys.readouterr().err == ""
