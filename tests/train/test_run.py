"""The folders of runs."""

from __future__ import annotations

import errno
import os
import time
from pathlib import Path

import pytest

from miaobi.core.errors import BadInput
from miaobi.train.run import new_folder


def test_runs_that_begin_in_the_same_second_have_folders_of_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now)
    folders = [new_folder(tmp_path / "runs", "quick") for _ in range(3)]
    assert len(set(folders)) == 3
    assert all(folder.is_dir() for folder in folders)


@pytest.mark.parametrize(
    "kind", ["file", "dangling link", "inside a file", "forbidden"]
)
def test_a_folder_of_runs_that_cannot_be_written_is_named(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = tmp_path / "runs"
    if kind == "dangling link":
        runs.symlink_to(tmp_path / "unmounted")
    elif kind == "forbidden":
        monkeypatch.setattr(os, "mkdir", refuse)
    else:
        runs.touch()
    folder = runs / "mine" if kind == "inside a file" else runs
    with pytest.raises(BadInput, match="runs.* cannot be written"):
        new_folder(folder, "quick")


def refuse(*_: object) -> None:
    raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
