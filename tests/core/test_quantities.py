"""Bytes and seconds as people read them."""

from __future__ import annotations

import pytest

from miaobi.core.language import speaking
from miaobi.core.quantities import format_duration, format_size


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1_234, "1.23 kB"),
        (86_400_000, "86.4 MB"),
        (145_300_000, "145 MB"),
        (1_050_000_000, "1.05 GB"),
        (2_500_000_000_000, "2500 GB"),
    ],
)
def test_sizes(count: float, text: str) -> None:
    assert format_size(count) == text


@pytest.mark.parametrize(
    ("seconds", "english", "chinese"),
    [
        (0.2, "0 s", "0 秒"),
        (59.6, "1 min 0 s", "1 分 0 秒"),
        (134, "2 min 14 s", "2 分 14 秒"),
        (3599.7, "1 h 0 min", "1 小时 0 分"),
        (90_000, "25 h 0 min", "25 小时 0 分"),
    ],
)
def test_durations(seconds: float, english: str, chinese: str) -> None:
    with speaking("en"):
        assert format_duration(seconds) == english
    with speaking("zh"):
        assert format_duration(seconds) == chinese
