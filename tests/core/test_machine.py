from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from miaobi.core import machine
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


# What a system lacks has a plain answer.


def test_files_are_read_and_written_at_a_position_without_pread(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(os, "pread")
    monkeypatch.delattr(os, "pwrite")
    handle = machine.open_file(tmp_path / "file", os.O_RDWR | os.O_CREAT)
    try:
        assert machine.write_at(handle, b"abcdef", 0) == 6
        assert machine.write_at(handle, b"XY", 2) == 2
        assert machine.read_at(handle, 4, 1) == b"bXYe"
    finally:
        os.close(handle)


def test_a_link_is_a_copy_where_links_are_forbidden(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(target: Path, source: Path) -> None:
        raise OSError("A required privilege is not held by the client")

    (tmp_path / "source").write_bytes(b"content")
    machine.link_or_copy(tmp_path / "source", tmp_path / "link")
    assert (tmp_path / "link").is_symlink()
    monkeypatch.setattr(Path, "symlink_to", refuse)
    machine.link_or_copy(tmp_path / "source", tmp_path / "copy")
    assert not (tmp_path / "copy").is_symlink()
    assert (tmp_path / "copy").read_bytes() == b"content"


def test_a_process_and_its_children_end_without_process_groups(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delattr(os, "killpg")
    sleep = "import time; print('here', flush=True); time.sleep(600)"
    parent = (
        f"import subprocess, sys; subprocess.run([sys.executable, '-c', {sleep!r}])"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", parent], stdout=subprocess.PIPE, **machine.own_group()
    )
    assert process.stdout is not None
    process.stdout.readline()
    children = psutil.Process(process.pid).children()
    machine.kill_group(process.pid)
    process.wait()
    psutil.wait_procs(children, timeout=10)
    assert not any(child.is_running() for child in children)
    with pytest.raises(ProcessLookupError):
        machine.kill_group(process.pid)
    process.stdout.close()


class Locking:
    """msvcrt as far as locks go: one process may hold the byte."""

    LK_NBLCK = 2

    def __init__(self) -> None:
        self.holder: int | None = None
        self.position = 0

    def locking(self, handle: int, mode: int, count: int) -> None:
        self.position = os.lseek(handle, 0, os.SEEK_CUR)
        if self.holder is not None:
            raise PermissionError(13, "Permission denied")
        self.holder = handle


def test_windows_locks_a_byte_that_nobody_reads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    windows = Locking()
    monkeypatch.setattr(machine, "fcntl", None)
    monkeypatch.setattr(machine, "msvcrt", windows)
    monkeypatch.setattr(machine, "OPENS_FOLDERS", False)
    handle = machine.open_to_lock(tmp_path)
    try:
        machine.lock(handle)
        assert windows.position == machine.LOCKED_BYTE
        assert os.lseek(handle, 0, os.SEEK_CUR) == 0
        with pytest.raises(BlockingIOError):
            machine.lock(handle, wait=False)
    finally:
        os.close(handle)
    assert (tmp_path / ".lock").is_file()


def test_the_peak_of_memory_is_counted_in_bytes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = psutil.Process().memory_info().rss
    assert machine.peak_memory() >= 0.9 * now
    monkeypatch.setattr(machine, "resource", None)
    assert machine.peak_memory() >= 0.9 * now
