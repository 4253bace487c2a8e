"""An import that Ctrl-C interrupts is finished first; then the interrupt counts."""

from __future__ import annotations

import subprocess
import sys
import threading
from importlib.metadata import EntryPoint
from pathlib import Path

from miaobi.core.registry import load_entry_point

BEGIN = """
import signal, sys
from importlib.metadata import EntryPoint
from miaobi.core.registry import load_entry_point
entry = EntryPoint("x", "half_imported:whole", "miaobi.test")
"""


def run(folder: Path, code: str) -> None:
    """In a process of its own, since a signal is a whole process's; there, `entry`
    names a module that is interrupted half-way through its import.
    """
    (folder / "half_imported.py").write_text(
        "import signal\nsignal.raise_signal(signal.SIGINT)\nwhole = True\n",
        encoding="utf-8",
    )
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            f"import sys; sys.path.insert(0, {str(folder)!r})\n{BEGIN}{code}",
        ],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr


def test_an_interrupt_waits_for_the_import(tmp_path: Path) -> None:
    run(
        tmp_path,
        """
signal.signal(signal.SIGINT, signal.default_int_handler)
before = signal.getsignal(signal.SIGINT)
try:
    load_entry_point(entry)
except KeyboardInterrupt:
    assert sys.modules["half_imported"].whole
    assert signal.getsignal(signal.SIGINT) is before
else:
    raise SystemExit("the interrupt was lost")
""",
    )


def test_it_goes_to_whoever_handles_interrupts(tmp_path: Path) -> None:
    run(
        tmp_path,
        """
interrupts = []
signal.signal(signal.SIGINT, lambda number, frame: interrupts.append(number))
assert load_entry_point(entry) is True
assert interrupts == [signal.SIGINT]
""",
    )


def test_other_threads_load_as_usual() -> None:
    import json

    entry = EntryPoint("x", "json:dumps", "miaobi.test")
    loaded = list[object]()
    thread = threading.Thread(target=lambda: loaded.append(load_entry_point(entry)))
    thread.start()
    thread.join()
    assert loaded == [json.dumps]
