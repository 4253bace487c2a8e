"""What each key used of each model on each day (UTC), in units (units.py): for its
budget and its bill.

Counted in memory and written every few seconds (periodic/usage.py) in one transaction,
and when the server stops; a server that is killed loses what it counted since. Several
servers may share one database: rows are added to, never replaced.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

from sqlalchemy import func, select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session

from miaobi.serve.database import Records
from miaobi.serve.records import Usage
from miaobi.serve.units import REQUESTS, TOKENS, report


class Entry(NamedTuple):
    """Whose amount it is, of what."""

    key_id: str
    model: str
    day: str
    unit: str


KeyDay = tuple[str, str]
"""A key and a day."""


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
        self._pending: dict[Entry, float] = {}
        self._written: dict[KeyDay, int] = {}
        """Tokens as the database has them, for keys with a budget that sent requests."""
        self._writing = asyncio.Lock()

    def add(self, key_id: str, model: str, amounts: Mapping[str, float]) -> None:
        """Add what one request used, by unit."""
        day = today()
        for unit, amount in {REQUESTS: 1, **amounts}.items():
            entry = Entry(key_id, model, day, unit)
            self._pending[entry] = self._pending.get(entry, 0) + amount

    async def tokens_today(self, key_id: str) -> int:
        """Used by this key since midnight (UTC), what is not written yet included."""
        key_day = (key_id, today())
        if key_day not in self._written and self.records is not None:
            # A writing that runs now moves tokens from pending to written.
            async with self._writing:
                if key_day not in self._written:
                    tokens = await asyncio.to_thread(self._sum, key_day)
                    self._written[key_day] = tokens
        pending = sum(
            amount
            for entry, amount in self._pending.items()
            if (entry.key_id, entry.day) == key_day and entry.unit in TOKENS
        )
        return self._written.get(key_day, 0) + int(pending)

    async def write(self) -> None:
        """Add what was counted to the database. What cannot be written stays, and is
        tried again.
        """
        async with self._writing:
            if self.records is None or not (self._pending or self._written):
                return
            batch = dict(self._pending)
            watched = [key_day for key_day in self._written if key_day[1] == today()]
            written = await asyncio.to_thread(self._write, self.records, batch, watched)
            for entry, amount in batch.items():
                self._pending[entry] -= amount
                if not self._pending[entry]:
                    del self._pending[entry]
            self._written = written

    def _sum(self, key_day: KeyDay) -> int:
        assert self.records is not None
        with self.records.reading() as session:
            return _tokens(session, key_day)

    @staticmethod
    def _write(
        records: Records, batch: Mapping[Entry, float], watched: list[KeyDay]
    ) -> dict[KeyDay, int]:
        """Add the batch; return what the watched have come to, with what other servers wrote."""
        on_postgresql = records.engine.dialect.name == "postgresql"
        insert = postgresql.insert if on_postgresql else sqlite.insert
        with records.session() as session:
            for entry, amount in sorted(batch.items()):
                row = insert(Usage).values(**entry._asdict(), amount=amount)
                added = {"amount": Usage.amount + row.excluded.amount}
                session.execute(
                    row.on_conflict_do_update(index_elements=Entry._fields, set_=added)
                )
            return {key_day: _tokens(session, key_day) for key_day in watched}


def _tokens(session: Session, key_day: KeyDay) -> int:
    key_id, day = key_day
    total = select(func.coalesce(func.sum(Usage.amount), 0)).where(
        Usage.key_id == key_id, Usage.day == day, Usage.unit.in_(TOKENS)
    )
    return int(session.scalar(total) or 0)


def of_key(records: Records, key_id: str, days: int) -> list[dict[str, str | float]]:
    """Return what a key used in the last days: a row for each day and model, newest first."""
    since = (datetime.now(UTC) - timedelta(days=days - 1)).strftime("%Y-%m-%d")
    query = (
        select(Usage)
        .where(Usage.key_id == key_id, Usage.day >= since)
        .order_by(Usage.day.desc(), Usage.model, Usage.unit)
    )
    amounts = dict[tuple[str, str], dict[str, float]]()
    with records.reading() as session:
        for row in session.scalars(query):
            by_unit = amounts.setdefault((row.day, row.model), {})
            by_unit[row.unit] = _number(row.amount)
    return [
        {"day": day, "model": model, REQUESTS: 0, **report(by_unit)}
        for (day, model), by_unit in amounts.items()
    ]


def _number(amount: float) -> float:
    """Return whole amounts as integers: they come from the database as floats."""
    return int(amount) if amount.is_integer() else amount
