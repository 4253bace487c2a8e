from __future__ import annotations

import time
from pathlib import Path

import pytest

from miaobi.train.run import new_folder


def test_runs_that_begin_in_the_same_second_have_folders_of_their_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now)
    made = [new_folder(tmp_path / "runs", "quick") for _ in range(3)]
    assert len(set(made)) == 3
    assert all(folder.is_dir() for folder in made)
