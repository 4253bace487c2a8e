"""Copies of an SQLite database, made before its schema changes.

records.sqlite.0001.20261130-201512.copy lies beside records.sqlite: the revision that is
in it, and the time (UTC). It is a database of its own: stop the server, move
records.sqlite with its -wal and -shm away, and put the copy in its place.
"""

from __future__ import annotations

import re
import shutil
import sqlite3
import stat
import time
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from miaobi.core.errors import DoesNotFit
from miaobi.core.files import write_beside
from miaobi.core.language import say

COPIES = 3
"""Copies of one database that stay; older ones are deleted."""


@dataclass(frozen=True)
class DatabaseCopy:
    path: Path
    revision: str
    timestamp: str
    """UTC, "20261130-201512"."""
    number: int
    """Among those of the same second, from 1."""


def list_copies(database: Path) -> list[DatabaseCopy]:
    """Return the copies of `database`, the newest first."""
    pattern = re.compile(
        re.escape(database.name) + r"\.(\w+)\.(\d{8}-\d{6})(?:-(\d+))?\.copy"
    )
    copies = []
    for path in database.parent.iterdir():
        match = pattern.fullmatch(path.name)
        if match:
            revision, timestamp, number = match.groups()
            copies.append(DatabaseCopy(path, revision, timestamp, int(number or 1)))
    return sorted(copies, key=lambda copy: (copy.timestamp, copy.number), reverse=True)


def copy_database(database: Path, revision: str) -> DatabaseCopy:
    """Copy the SQLite file `database` whole, with what is still in its write-ahead log.

    Overwrites no copy; deletes all but the newest COPIES. Raise DoesNotFit where the
    disk has no space for it; `database` is only read.
    """
    size = size_of(database)
    free = shutil.disk_usage(database.parent).free
    if size > free:
        raise _no_space(database, size, free)
    planned = _next_copy(database, revision)
    with write_beside(planned.path) as draft:
        draft.touch(mode=stat.S_IMODE(database.stat().st_mode), exist_ok=False)
        try:
            _back_up(database, draft)
        except sqlite3.OperationalError as error:
            if "full" not in str(error):
                raise
            raise _no_space(database, size, free) from None
    for copy in list_copies(database)[COPIES:]:
        copy.path.unlink()
    return planned


def size_of(database: Path) -> int:
    """Return the bytes of an SQLite database, its write-ahead log included."""
    log = database.with_name(f"{database.name}-wal")
    return database.stat().st_size + (log.stat().st_size if log.exists() else 0)


def _next_copy(database: Path, revision: str) -> DatabaseCopy:
    """The copy that would be made now."""
    timestamp = time.strftime("%Y%m%d-%H%M%S", time.gmtime())
    numbers = [
        copy.number for copy in list_copies(database) if copy.timestamp == timestamp
    ]
    number = max(numbers, default=0) + 1
    suffix = f"-{number}" if number > 1 else ""
    name = f"{database.name}.{revision}.{timestamp}{suffix}.copy"
    return DatabaseCopy(database.with_name(name), revision, timestamp, number)


def _back_up(database: Path, target: Path) -> None:
    with (
        closing(sqlite3.connect(database)) as source,
        closing(sqlite3.connect(target)) as copy,
    ):
        source.backup(copy)
        # One file, without a write-ahead log beside it.
        copy.execute("PRAGMA journal_mode = DELETE").close()


def _no_space(database: Path, size: int, free: int) -> DoesNotFit:
    return DoesNotFit(
        say(
            f"{database} must be copied before its schema changes: "
            f"{size / 1e6:,.1f} MB, and the disk has {free / 1e6:,.1f} MB free.",
            f"更改数据库结构前必须先复制 {database}："
            f"需要 {size / 1e6:,.1f} MB，磁盘仅剩 {free / 1e6:,.1f} MB。",
        ),
        say(
            "Free some space and start again; nothing was changed.",
            "请清理空间后重新启动；数据库未作任何更改。",
        ),
    )
