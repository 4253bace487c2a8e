"""What each key used of each model on each day (UTC), for its budget and for whoever pays.

Counted in memory and written every few seconds in one transaction, and when the server
stops; a server that is killed loses what it counted since the last writing, SECONDS at
most. Several servers may share one database: rows are added to, never replaced.
"""

from __future__ import annotations

import asyncio
import logging
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

from sqlalchemy import func, select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session

from miaobi.serve.database import Records
from miaobi.serve.records import Usage

log = logging.getLogger("miaobi.serve")

SECONDS = 5.0
"""Between two writings."""


class Used(NamedTuple):
    requests: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    pictures: int = 0

    def plus(self, other: Used) -> Used:
        return Used(*map(sum, zip(self, other)))

    @property
    def tokens(self) -> int:
        return self.prompt_tokens + self.completion_tokens


Row = tuple[str, str, str]
"""Key, model, day."""


def today() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%d")


def seconds_to_midnight() -> float:
    now = datetime.now(UTC)
    return (
        (now + timedelta(days=1)).replace(hour=0, minute=0, second=0, microsecond=0)
        - now
    ).total_seconds()


class Ledger:
    """`records` is set once the database is open; until then everything stays in memory."""

    def __init__(self) -> None:
        self.records: Records | None = None
        self._pending: dict[Row, Used] = {}
        self._written: dict[tuple[str, str], int] = {}
        """Tokens of (key, day) as the database has them: for keys with a budget that asked."""
        self._writing = asyncio.Lock()

    def add(self, key_id: str, model: str, used: Used) -> None:
        row = (key_id, model, today())
        self._pending[row] = self._pending.get(row, Used()).plus(used)

    async def tokens_today(self, key_id: str) -> int:
        """Used by this key since midnight (UTC), what is not written yet included."""
        at = (key_id, today())
        if at not in self._written and self.records is not None:
            async with (
                self._writing
            ):  # a writing that runs now moves tokens from pending to written
                if at not in self._written:
                    self._written[at] = await asyncio.to_thread(self._sum, at)
        pending = sum(
            used.tokens
            for (key, _, day), used in self._pending.items()
            if (key, day) == at
        )
        return self._written.get(at, 0) + pending

    async def write(self) -> None:
        """Add what was counted to the database. What cannot be written stays, and is
        tried again.
        """
        async with self._writing:
            if self.records is None or not (self._pending or self._written):
                return
            batch = dict(self._pending)
            watched = [at for at in self._written if at[1] == today()]
            written = await asyncio.to_thread(self._write, self.records, batch, watched)
            for row, used in batch.items():
                self._pending[row] = Used(
                    *(now - then for now, then in zip(self._pending[row], used))
                )
                if not any(self._pending[row]):
                    del self._pending[row]
            self._written = written

    async def keep_writing(self) -> None:
        while True:
            await asyncio.sleep(SECONDS)
            try:
                await self.write()
            except Exception:
                log.exception("usage could not be written; it is kept and tried again")

    def _sum(self, at: tuple[str, str]) -> int:
        assert self.records is not None
        with self.records.reading() as session:
            return _tokens(session, at)

    @staticmethod
    def _write(
        records: Records, batch: dict[Row, Used], watched: list[tuple[str, str]]
    ) -> dict[tuple[str, str], int]:
        """Add the batch; return what (key, day) have come to, what other servers wrote included."""
        with records.session() as session:
            insert = (
                postgresql.insert
                if records.engine.dialect.name == "postgresql"
                else sqlite.insert
            )
            for (key, model, day), used in sorted(batch.items()):
                fresh = insert(Usage).values(
                    key_id=key, model=model, day=day, **used._asdict()
                )
                added = {
                    name: getattr(Usage, name) + getattr(fresh.excluded, name)
                    for name in Used._fields
                }
                session.execute(
                    fresh.on_conflict_do_update(
                        index_elements=["key_id", "model", "day"], set_=added
                    )
                )
            return {at: _tokens(session, at) for at in watched}


def _tokens(session: Session, at: tuple[str, str]) -> int:
    total = select(
        func.coalesce(func.sum(Usage.prompt_tokens + Usage.completion_tokens), 0)
    ).where(Usage.key_id == at[0], Usage.day == at[1])
    return int(session.scalar(total) or 0)


def of_key(records: Records, key_id: str, days: int) -> list[dict[str, str | int]]:
    """The rows of the last days, newest first."""
    since = (datetime.now(UTC) - timedelta(days=days - 1)).strftime("%Y-%m-%d")
    with records.reading() as session:
        rows = session.scalars(
            select(Usage)
            .where(Usage.key_id == key_id, Usage.day >= since)
            .order_by(Usage.day.desc(), Usage.model)
        )
        return [
            {
                "day": row.day,
                "model": row.model,
                "requests": row.requests,
                "prompt_tokens": row.prompt_tokens,
                "completion_tokens": row.completion_tokens,
                "pictures": row.pictures,
            }
            for row in rows
        ]
