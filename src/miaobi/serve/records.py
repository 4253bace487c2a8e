"""The tables behind the server: keys, usage, files and uploads, jobs with their events,
feedback, conversations.
SQLite, or PostgreSQL by URL.

Times are UTC seconds since 1970, as OpenAI's objects have them. Ids are made here
(`new_id`), never by a client. The schema's history lies in migrations/, and
`open_records` (serve/database.py) brings a database up to date before it returns it.
"""

from __future__ import annotations

import secrets
import time
from pathlib import Path
from typing import Any, ClassVar

from sqlalchemy import (
    JSON,
    BigInteger,
    Dialect,
    Double,
    ForeignKey,
    Index,
    String,
    Text,
    TypeDecorator,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from miaobi.core.language import LANGUAGES, Wording, wordings_of

MESSAGE = "message"
"""The key of an event's data that holds its message in both languages."""
MIGRATIONS = Path(__file__).with_name("migrations") / "versions"


class WordedJson(TypeDecorator[Any]):
    """JSON whose texts keep both wordings: whoever reads it gets their own language,
    whatever language it was written in.
    """

    impl = JSON
    cache_ok = True
    KEY = "wordings"

    def process_bind_param(self, value: Any, dialect: Dialect) -> Any:
        return self._stored(value)

    def process_result_value(self, value: Any, dialect: Dialect) -> Any:
        return self._read(value)

    def _stored(self, value: Any) -> Any:
        if isinstance(value, dict):
            return {key: self._stored(item) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return [self._stored(item) for item in value]
        if isinstance(value, Wording):
            return {self.KEY: wordings_of(value)}
        return value

    def _read(self, value: Any) -> Any:
        if isinstance(value, list):
            return [self._read(item) for item in value]
        if not isinstance(value, dict):
            return value
        if value.keys() == {self.KEY}:
            return Wording(*(value[self.KEY][name] for name in LANGUAGES))
        return {key: self._read(item) for key, item in value.items()}


class Table(DeclarativeBase):
    """What every table derives from, those of other packages too (tables.py)."""

    type_annotation_map: ClassVar[dict[Any, Any]] = {
        dict[str, Any]: JSON,
        list[Any]: JSON,
        int: BigInteger,
        float: Double,
        str: String(255),
    }


def new_id(prefix: str, separator: str = "-") -> str:
    """ "file-019a...", "resp_019a...": the prefix, the time in ms (so that ids sort as
    they were made) and 64 random bits. No secret.
    """
    milliseconds = time.time_ns() // 1_000_000
    return f"{prefix}{separator}{milliseconds:012x}{secrets.token_hex(8)}"


def now() -> int:
    return int(time.time())


class Key(Table):
    """A caller's key: only its SHA-256 is kept."""

    __tablename__ = "keys"
    id: Mapped[str] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(unique=True)
    sha256: Mapped[str] = mapped_column(unique=True)
    requests_per_minute: Mapped[int | None]
    tokens_per_day: Mapped[int | None]
    operator: Mapped[bool] = mapped_column(default=False)
    created: Mapped[int] = mapped_column(default=now)
    revoked: Mapped[int | None]


class Usage(Table):
    """How much of one unit a key used of one model on one day (UTC): added to."""

    __tablename__ = "amounts"
    key_id: Mapped[str] = mapped_column(primary_key=True)
    model: Mapped[str] = mapped_column(primary_key=True)
    day: Mapped[str] = mapped_column(primary_key=True)
    unit: Mapped[str] = mapped_column(primary_key=True)
    amount: Mapped[float]


class File(Table):
    """A file that was uploaded or made by a job. Its bytes lie in folder/files/ID, its
    name is only a label.
    """

    __tablename__ = "files"
    id: Mapped[str] = mapped_column(primary_key=True)
    key_id: Mapped[str] = mapped_column(index=True)
    filename: Mapped[str]
    purpose: Mapped[str]
    bytes: Mapped[int]
    sha256: Mapped[str]
    created: Mapped[int] = mapped_column(default=now)
    expires: Mapped[int | None]


class Job(Table):
    """Work for another process. `status`: queued, running, paused, succeeded, failed, cancelled.

    A worker holds a job by `holder` until `held_until`, and renews that while it works;
    a job whose holder is gone is taken by the next, and goes on from its last
    checkpoint. Only the holder may end it, so no job ends twice.
    """

    __tablename__ = "jobs"
    id: Mapped[str] = mapped_column(primary_key=True)
    key_id: Mapped[str] = mapped_column(index=True)
    kind: Mapped[str]
    """"fine_tuning", "batch": which module of serve/jobs/work/ does it."""
    status: Mapped[str] = mapped_column(default="queued")
    request: Mapped[dict[str, Any]] = mapped_column("asked")
    """Its fields, as they were checked."""
    result: Mapped[dict[str, Any]] = mapped_column(WordedJson, default=dict)
    """Of the whole job; while it runs, how far it is."""
    error: Mapped[dict[str, Any] | None] = mapped_column(WordedJson)
    cancel: Mapped[bool] = mapped_column(default=False)
    attempts: Mapped[int] = mapped_column(default=0)
    holder: Mapped[str | None]
    held_until: Mapped[int | None]
    created: Mapped[int] = mapped_column(default=now)
    started: Mapped[int | None]
    ended: Mapped[int | None]
    __table_args__ = (Index("jobs_waiting", "status", "created"),)


class Event(Table):
    """What happened to a job, in order: messages, metrics of a step, checkpoints."""

    __tablename__ = "events"
    id: Mapped[str] = mapped_column(primary_key=True)
    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"))
    number: Mapped[int]
    kind: Mapped[str]
    """"message", "metrics", "checkpoint"."""
    level: Mapped[str] = mapped_column(default="info")
    message: Mapped[str] = mapped_column(Text)
    """In the language of the process that wrote it."""
    data: Mapped[dict[str, Any]] = mapped_column(WordedJson, default=dict)
    created: Mapped[int] = mapped_column(default=now)

    @property
    def text(self) -> str:
        """The message in the reader's language; older rows have one wording."""
        return str(self.data.get(MESSAGE, self.message))

    __table_args__ = (Index("events_in_order", "job_id", "number", unique=True),)


class Feedback(Table):
    """A thumb, an edit, or a blind vote between two models, in the shape that
    preference tuning reads.
    """

    __tablename__ = "feedback"
    id: Mapped[str] = mapped_column(primary_key=True)
    key_id: Mapped[str] = mapped_column(index=True)
    kind: Mapped[str]
    """"thumb", "edit", "vote"."""
    model: Mapped[str]
    other: Mapped[str | None]
    messages: Mapped[list[Any]]
    chosen: Mapped[str | None] = mapped_column(Text)
    rejected: Mapped[str | None] = mapped_column(Text)
    label: Mapped[bool | None]
    created: Mapped[int] = mapped_column(default=now)


class UploadInParts(Table):
    """A file that arrives in parts. `status`: pending, completed, cancelled, expired.

    Its parts are rows of `files` with the purpose `files.PART_PURPOSE` and the upload's id as
    their name.
    """

    __tablename__ = "uploads"
    id: Mapped[str] = mapped_column(primary_key=True)
    key_id: Mapped[str] = mapped_column(index=True)
    filename: Mapped[str]
    purpose: Mapped[str]
    bytes: Mapped[int]
    """Of the whole file, as its client announced them."""
    status: Mapped[str] = mapped_column(default="pending")
    file_id: Mapped[str | None]
    """Of the whole file, once it is completed."""
    file_seconds: Mapped[int | None]
    """After how long that file expires."""
    created: Mapped[int] = mapped_column(default=now)
    expires: Mapped[int]


class Conversation(Table):
    """What a person or a program and a model said to each other; belongs to a key.

    Written and read by serve/conversations.py alone.
    """

    __tablename__ = "conversations"
    id: Mapped[str] = mapped_column(primary_key=True)
    key_id: Mapped[str]
    origin: Mapped[str]
    """Which part of miaobi it was held in: "responses", "studio", ..."""
    title: Mapped[str] = mapped_column(Text)
    folded_title: Mapped[str] = mapped_column(Text)
    """For searching: without the difference between capital and small letters."""
    notes: Mapped[dict[str, Any]] = mapped_column(default=dict)
    """Of the part that it was held in."""
    created: Mapped[int] = mapped_column(default=now)
    updated: Mapped[int] = mapped_column(default=now, index=True)
    """The time of its last turn, from which its retention counts."""
    __table_args__ = (Index("conversations_by_key", "key_id", "updated"),)


class Turn(Table):
    """What was said to the model, and what it answered. Turns with the same parent are
    branches: an answer made again, a question worded anew.
    """

    __tablename__ = "turns"
    id: Mapped[str] = mapped_column(primary_key=True)
    conversation_id: Mapped[str] = mapped_column(
        ForeignKey("conversations.id", ondelete="CASCADE"), index=True
    )
    number: Mapped[int]
    """In the order in which turns were stored, from 1."""
    parent_id: Mapped[str | None]
    """The turn before; None for the first."""
    model: Mapped[str | None]
    """None where a person answered, or nobody has yet."""
    input: Mapped[list[Any]]
    """Items in the shape of /v1/responses: messages, calls of tools, their results."""
    output: Mapped[list[Any]]
    details: Mapped[dict[str, Any]] = mapped_column(default=dict)
    """How it was answered: settings, status, usage, label."""
    folded_text: Mapped[str] = mapped_column(Text)
    """All texts, for searching."""
    created: Mapped[int] = mapped_column(default=now)
