"""A copy of an earlier version's files in another folder, as if they had been written a minute ago.

Users keep their files where they are; a test needs a folder of its own. So the fixture is made under a fixed folder,
its root, and in a copy every absolute path is set to the folder of the copy: in JSON, YAML and text files, and in the
rows of SQLite databases.

Times of the server move too, all by as much. A batch has to be answered within 24 hours and files of batches expire
after 30 days: without that, the jobs of the fixture could be finished on the day when it was made and never again.
"""

from __future__ import annotations

import json
import re
import shutil
import sqlite3
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

TEXT = (".csv", ".html", ".json", ".jsonl", ".md", ".txt", ".yaml")
"""Endings of the files in which paths are set."""
DATABASE = ".sqlite"
DAY = re.compile(r"\d{4}-\d\d-\d\d")
DAY_SECONDS = 86_400
BEFORE, AFTER = 2 * DAY_SECONDS, 40 * DAY_SECONDS
"""A whole number so near to the time of making, in seconds since 1970, is a time."""


def utc_day(seconds: int) -> date:
    return datetime.fromtimestamp(seconds, UTC).date()


@dataclass(frozen=True)
class Relocation:
    """From one folder and time to another."""

    old_root: str
    new_root: str
    old_time: int
    new_time: int

    @property
    def seconds(self) -> int:
        """By which times move."""
        return self.new_time - self.old_time

    @property
    def days(self) -> timedelta:
        """By which days (UTC) move."""
        return utc_day(self.new_time) - utc_day(self.old_time)

    def value(self, value: Any) -> Any:
        """The same JSON value with its paths, times and days of the new place and time."""
        if isinstance(value, dict):
            return {key: self.value(item) for key, item in value.items()}
        if isinstance(value, list):
            return [self.value(item) for item in value]
        if isinstance(value, str):
            return self._text(value)
        if isinstance(value, int) and self._is_time(value):
            return value + self.seconds
        return value

    def _text(self, text: str) -> str:
        if DAY.fullmatch(text):
            return (date.fromisoformat(text) + self.days).isoformat()
        return text.replace(self.old_root, self.new_root)

    def _is_time(self, number: int) -> bool:
        return self.old_time - BEFORE < number < self.old_time + AFTER

    def copy(self, source: Path) -> Path:
        """Copy the folder `source` to the new root, which must not exist."""
        target = Path(self.new_root)
        shutil.copytree(source, target)
        for path in sorted(target.rglob("*")):
            if path.suffix in TEXT:
                text = path.read_text(encoding="utf-8")
                path.write_text(
                    text.replace(self.old_root, self.new_root), encoding="utf-8"
                )
            elif path.suffix == DATABASE:
                self.database(path)
        return target

    def database(self, path: Path) -> None:
        """Set paths and times in every row of a SQLite database."""
        with closing(sqlite3.connect(path)) as connection, connection:
            names = connection.execute(
                "SELECT name FROM sqlite_master WHERE type = 'table'"
            )
            for (name,) in names.fetchall():
                self._table(connection, name)

    def _table(self, connection: sqlite3.Connection, name: str) -> None:
        rows = connection.execute(f'SELECT rowid, * FROM "{name}"')
        columns = [column[0] for column in rows.description][1:]
        assignments = ", ".join(f'"{column}" = ?' for column in columns)
        for rowid, *cells in rows.fetchall():
            moved = [self._cell(cell) for cell in cells]
            if moved != cells:
                connection.execute(
                    f'UPDATE "{name}" SET {assignments} WHERE rowid = ?',
                    [*moved, rowid],
                )

    def _cell(self, cell: Any) -> Any:
        """A column's value; JSON is kept as text."""
        if isinstance(cell, str) and cell.startswith(("{", "[")):
            try:
                value = json.loads(cell)
            except ValueError:
                return self._text(cell)
            moved = self.value(value)
            return cell if moved == value else json.dumps(moved, ensure_ascii=False)
        return self.value(cell)
