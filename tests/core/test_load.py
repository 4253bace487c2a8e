from __future__ import annotations

import time
from collections import namedtuple

import psutil
import pytest

from miaobi.core.load import Load

Times = namedtuple("Times", ["user", "system", "idle", "iowait", "guest"])


def test_what_other_programs_use_is_what_this_one_does_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """In two seconds four cores did five seconds of work, one of them here."""
    clock = {"now": 10.0, "own": 3.0}
    times = [Times(100, 50, 900, 7, 60), Times(104, 51, 902, 8, 61)]
    monkeypatch.setattr(time, "perf_counter", lambda: clock["now"])
    monkeypatch.setattr(time, "process_time", lambda: clock["own"])
    monkeypatch.setattr(psutil, "cpu_times", lambda: times.pop(0))
    monkeypatch.setattr("os.cpu_count", lambda: 4)
    load = Load()
    clock["now"] += 2
    clock["own"] += 1
    assert load.percent() == pytest.approx(100 * 4 / 8)
