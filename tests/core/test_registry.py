"""An import that Ctrl-C falls into is finished first; then the interrupt counts."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Iterator
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from miaobi.core.registry import loaded


@pytest.fixture
def interrupted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[EntryPoint]:
    """A module that is interrupted half-way through its import, in a process that heeds Ctrl-C (those of pytest-xdist do not)."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    (tmp_path / "half_imported.py").write_text("import signal\nsignal.raise_signal(signal.SIGINT)\nwhole = True\n", encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "half_imported", raising=False)
    yield EntryPoint("x", "half_imported:whole", "miaobi.test")
    signal.signal(signal.SIGINT, before)


def test_an_interrupt_waits_for_the_import(interrupted: EntryPoint) -> None:
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        loaded(interrupted)
    assert sys.modules["half_imported"].whole
    assert signal.getsignal(signal.SIGINT) is before


def test_it_goes_to_whoever_handles_interrupts(interrupted: EntryPoint) -> None:
    met = list[int]()
    before = signal.signal(signal.SIGINT, lambda number, frame: met.append(number))
    try:
        assert loaded(interrupted) is True
        assert met == [signal.SIGINT]
    finally:
        signal.signal(signal.SIGINT, before)


def test_other_threads_load_as_ever() -> None:
    found = list[object]()
    thread = threading.Thread(target=lambda: found.append(loaded(EntryPoint("x", "json:dumps", "miaobi.test"))))
    thread.start()
    thread.join()
    import json
    assert found == [json.dumps]
