"""Conversations of a server that keeps none: in memory, for an hour after the last
message.

The page needs somewhere to hold what it shows. Nothing of it reaches a disk, and it is
gone when the server stops.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock

from sqlalchemy import create_engine, event
from sqlalchemy.orm import Session
from sqlalchemy.pool import StaticPool

from miaobi.serve.conversations import Conversations
from miaobi.serve.database import Records
from miaobi.serve.records import Conversation, Turn

HOUR = 1 / 24
"""In days."""


class MemoryRecords(Records):
    """A database in memory: one connection, which threads use in turn."""

    def __init__(self) -> None:
        engine = create_engine(
            "sqlite://",
            poolclass=StaticPool,
            connect_args={"check_same_thread": False},
        )
        event.listen(engine, "connect", _with_foreign_keys)
        for table in (Conversation, Turn):
            table.metadata.tables[table.__tablename__].create(engine)
        super().__init__(engine)
        self._lock = Lock()

    @contextmanager
    def session(self) -> Iterator[Session]:
        with self._lock, super().session() as session:
            yield session

    @contextmanager
    def reading(self) -> Iterator[Session]:
        with self._lock, super().reading() as session:
            yield session


def unkept() -> Conversations:
    """Return a table of conversations that is empty, and stays in memory."""
    return Conversations(MemoryRecords(), days=HOUR)


def _with_foreign_keys(connection: object, _: object) -> None:
    connection.execute("PRAGMA foreign_keys = ON")  # type: ignore[attr-defined]
