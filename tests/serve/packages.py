"""Another package on the path of the processes that a test starts, which brings
something of its own through an entry point.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest


def installed(
    folder: Path, module: str, group: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The package "toy" in `folder`: tests/serve/MODULE.py, named `value` in the group."""
    (folder / "toy-0.dist-info").mkdir(parents=True)
    (folder / "toy-0.dist-info" / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: toy\nVersion: 0\n"
    )
    (folder / "toy-0.dist-info" / "entry_points.txt").write_text(
        f"[{group}]\ntoy = {value}\n"
    )
    shutil.copy(Path(__file__).with_name(f"{module}.py"), folder)
    monkeypatch.setenv("PYTHONPATH", str(folder))
