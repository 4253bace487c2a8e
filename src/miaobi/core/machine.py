"""What differs between machines and operating systems: cores, memory, locks, signals,
processes. Nothing else asks which system it is on (tests/core/test_systems.py).

Each call has a plain answer where a system lacks what others have.
"""

from __future__ import annotations

import importlib
import os
import shutil
import signal
import subprocess
import sys
import time
from functools import cache
from pathlib import Path
from typing import Any


def _module(name: str) -> Any:
    """A module that only some systems have; None elsewhere."""
    try:
        return importlib.import_module(name)
    except ImportError:
        return None


fcntl, resource = _module("fcntl"), _module("resource")  # not on Windows
msvcrt = _module("msvcrt")  # on Windows only

SAMPLE_SECONDS = 0.25
BUSY_PERCENT = 20.0
"""A machine is busy when others use more than this of all cores for SAMPLE_SECONDS."""
LOCKED_BYTE = (1 << 31) - 16
"""Position of the byte that stands for a file's lock on Windows (a signed 32-bit one)."""
LOCK_POLL_SECONDS = 0.05
OPENS_FOLDERS = fcntl is not None
"""Whether a folder can be opened, locked and flushed as files are."""
NO_FOLLOW = getattr(os, "O_NOFOLLOW", 0)
BINARY = getattr(os, "O_BINARY", 0)
INTERRUPTS = [
    getattr(signal, name) for name in ("SIGINT", "SIGBREAK") if hasattr(signal, name)
]
"""Signals by which a person, or `interrupt_group`, asks a process to stop."""
STOP_SIGNALS = [*INTERRUPTS, signal.SIGTERM]


def physical_cores() -> int:
    """Return the number of cores that this process may use; a second hardware thread of
    the same core gains nothing in matrix products.
    """
    import psutil

    allowed = _allowed_cores()
    return max(1, min(allowed, psutil.cpu_count(logical=False) or allowed))


def _allowed_cores() -> int:
    if hasattr(os, "sched_getaffinity"):  # Linux
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def busy_percent() -> float:
    """Return how much of all cores is in use, in percent, over SAMPLE_SECONDS that this
    process spends waiting.
    """
    import psutil

    return psutil.cpu_percent(interval=SAMPLE_SECONDS)


@cache
def settle_waiting() -> None:
    """Let OpenMP's threads sleep while they wait, if this machine is busy.

    Torch reads the setting when it is first imported; after that this does nothing.

    Threads that spin make the training of a small network 1.4 to 1.8 times as quick on
    a machine that has nothing else to do, and half as quick beside another such process
    (bench/README.md). OMP_WAIT_POLICY, where it is set, is left as it is.
    """
    if (
        "torch" not in sys.modules
        and "OMP_WAIT_POLICY" not in os.environ
        and busy_percent() > BUSY_PERCENT
    ):
        os.environ["OMP_WAIT_POLICY"] = "PASSIVE"


def peak_memory() -> int:
    """Return the largest number of bytes of memory that this process held so far; what
    it holds now, where the system keeps no record.
    """
    if resource is not None:
        peak: int = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        # macOS counts bytes, the others kilobytes.
        return peak if sys.platform == "darwin" else peak * 1024
    import psutil

    memory = psutil.Process().memory_info()
    return int(getattr(memory, "peak_wset", memory.rss))  # peak_wset: Windows only


def lock(handle: int, wait: bool = True) -> None:
    """Keep other processes out of `lock` on the same file, until the handle is closed.

    Raise BlockingIOError where another process is inside and `wait` is false. A system
    with neither kind of lock keeps nobody out.
    """
    if fcntl is not None:
        fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    elif msvcrt is not None:
        _lock_byte(handle, wait)


def _lock_byte(handle: int, wait: bool) -> None:
    """Lock a byte far behind the end, which nobody reads: Windows locks out readers."""
    position = os.lseek(handle, 0, os.SEEK_CUR)
    try:
        while True:
            os.lseek(handle, LOCKED_BYTE, os.SEEK_SET)
            try:
                msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)
                return
            except OSError as error:
                if not wait:
                    raise BlockingIOError(*error.args) from None
            time.sleep(LOCK_POLL_SECONDS)
    finally:
        os.lseek(handle, position, os.SEEK_SET)


def open_file(path: Path, flags: int, mode: int = 0o666) -> int:
    """Open a file as bytes, as os.open does; a link is not followed, where the system
    can refuse it.
    """
    return os.open(path, flags | NO_FOLLOW | BINARY, mode)


def open_to_lock(path: Path) -> int:
    """Open a file (made where it is missing) or a folder in order to lock it.

    Where folders cannot be opened, the handle is that of a file .lock in it.
    """
    if path.is_dir() and not OPENS_FOLDERS:
        path = path / ".lock"
    flags = os.O_RDONLY if path.is_dir() else os.O_RDWR | os.O_CREAT
    return os.open(path, flags, 0o666)


def flush(file: Path) -> None:
    """Force a file to the disk."""
    # Windows flushes only what was opened for writing.
    with file.open("rb" if OPENS_FOLDERS else "r+b") as handle:
        os.fsync(handle.fileno())


def flush_folder(folder: Path) -> None:
    """Force the names in a folder to the disk, where the system can."""
    if not OPENS_FOLDERS:
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def read_at(handle: int, size: int, position: int) -> bytes:
    """Read from a position of an open file."""
    if hasattr(os, "pread"):
        return os.pread(handle, size, position)
    os.lseek(handle, position, os.SEEK_SET)
    return os.read(handle, size)


def write_at(handle: int, content: bytes | memoryview, position: int) -> int:
    """Write at a position of an open file; return the number of bytes written."""
    if hasattr(os, "pwrite"):
        return os.pwrite(handle, content, position)
    os.lseek(handle, position, os.SEEK_SET)
    return os.write(handle, content)


def link_or_copy(source: Path, target: Path) -> None:
    """Make `target` a link to `source`, or a copy where links may not be made."""
    try:
        target.symlink_to(source.resolve())
    except (OSError, NotImplementedError):
        shutil.copyfile(source, target)


def lower_priority(steps: int) -> None:
    """Let other processes come first; `steps` are those of `nice`."""
    if hasattr(os, "nice"):
        os.nice(steps)
        return
    import psutil

    # The constant is there on Windows only.
    lower = getattr(psutil, "BELOW_NORMAL_PRIORITY_CLASS", None)
    if lower is not None:
        psutil.Process().nice(lower)


def own_group() -> dict[str, Any]:
    """Return the arguments of Popen by which a process leads a group of its own."""
    if hasattr(os, "killpg"):
        return {"start_new_session": True}
    # The constant is there on Windows only.
    return {"creationflags": getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0)}


def interrupt_group(process_id: int) -> None:
    """Send Ctrl-C to the group that a process leads. Raise OSError where it is gone."""
    if hasattr(os, "killpg"):
        os.killpg(process_id, signal.SIGINT)
    else:
        os.kill(process_id, getattr(signal, "CTRL_BREAK_EVENT", signal.SIGTERM))


def kill_group(process_id: int) -> None:
    """End the group that a process leads, at once. Raise OSError where it is gone."""
    if hasattr(os, "killpg"):
        os.killpg(process_id, signal.SIGKILL)
        return
    import psutil

    try:
        first = psutil.Process(process_id)
        processes = [*first.children(recursive=True), first]
    except psutil.NoSuchProcess:
        raise ProcessLookupError(process_id) from None
    for process in processes:
        try:
            process.kill()
        except psutil.NoSuchProcess:
            continue


def kill_own_group() -> None:
    """End this process and those it started, at once."""
    kill_group(0 if hasattr(os, "killpg") else os.getpid())


def raise_on_interrupt() -> None:
    """Let the signal of `interrupt_group` raise KeyboardInterrupt here."""
    for number in INTERRUPTS:
        signal.signal(number, signal.default_int_handler)
