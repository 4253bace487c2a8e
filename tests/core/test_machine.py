from __future__ import annotations

import os
import sys

import psutil
import pytest

from miaobi.core.machine import settle_waiting


@pytest.mark.parametrize(
    ("percent", "before", "torch", "after"),
    [
        (3.0, None, False, None),
        (60.0, None, False, "PASSIVE"),
        (60.0, "ACTIVE", False, "ACTIVE"),
        (60.0, None, True, None),
    ],
)
def test_threads_sleep_only_where_others_work(
    percent: float,
    before: str | None,
    torch: bool,
    after: str | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(psutil, "cpu_percent", lambda interval: percent)
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    if before:
        monkeypatch.setenv("OMP_WAIT_POLICY", before)
    with monkeypatch.context() as loaded:
        if torch:
            loaded.setitem(sys.modules, "torch", sys)
        else:
            loaded.delitem(sys.modules, "torch", raising=False)
        settle_waiting.cache_clear()
        settle_waiting()
        settle_waiting.cache_clear()
    assert os.environ.get("OMP_WAIT_POLICY") == after
