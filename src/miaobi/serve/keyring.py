"""`miaobi keys`: make, list and revoke the keys in the server's database. A running
server knows within a second.

A key is "mb-" and 256 random bits. It is shown once; its SHA-256 is stored, which
suffices for secrets that cannot be guessed.
"""

from __future__ import annotations

import hashlib
import re
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Annotated

from pydantic import Field
from sqlalchemy import select

from miaobi.core.config import checked
from miaobi.core.errors import BadInput, Conflict, NotFound, nearest
from miaobi.core.language import say
from miaobi.serve.database import Records, open_records
from miaobi.serve.records import Key, new_id, now
from miaobi.serve.settings import Settings

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


def digest(secret: str) -> str:
    return hashlib.sha256(secret.encode("utf-8", "surrogateescape")).hexdigest()


@dataclass(frozen=True)
class NewKey:
    id: str
    name: str
    key: str

    def __str__(self) -> str:
        return "\n".join(
            [
                say(
                    f"The key of {self.name}, shown this once:",
                    f"{self.name} 的密钥（仅显示这一次）：",
                ),
                "",
                f"  {self.key}",
                "",
                say(
                    "Programs send it as Authorization: Bearer KEY; OpenAI's client as api_key.",
                    "程序以 Authorization: Bearer 密钥 发送；OpenAI 客户端用 api_key。",
                ),
            ]
        )


@dataclass(frozen=True)
class KeyFacts:
    """A key without its secret."""

    id: str
    name: str
    created: int
    requests_per_minute: int | None
    tokens_per_day: int | None
    operator: bool
    revoked: int | None

    def __str__(self) -> str:
        day = time.strftime("%Y-%m-%d", time.gmtime(self.created))
        limits = [
            say(
                f"{self.requests_per_minute} requests a minute",
                f"每分钟 {self.requests_per_minute} 次请求",
            )
            if self.requests_per_minute is not None
            else "",
            say(
                f"{self.tokens_per_day} tokens a day",
                f"每天 {self.tokens_per_day} 个词元",
            )
            if self.tokens_per_day is not None
            else "",
            say("operator", "管理员") if self.operator else "",
            say("revoked", "已撤销") if self.revoked else "",
        ]
        return "  ".join(part for part in (f"{self.name:<24}", day, *limits) if part)


@dataclass(frozen=True)
class Keyring:
    keys: tuple[KeyFacts, ...]

    def __str__(self) -> str:
        return "\n".join(map(str, self.keys)) or say(
            "There are no keys. `miaobi keys create NAME` makes one.",
            "还没有密钥。可用 `miaobi keys create 名称` 创建。",
        )


@contextmanager
def _opened(database_url: str) -> Iterator[Records]:
    records = open_records(Settings(database_url=database_url).database)
    try:
        yield records
    finally:
        records.close()


@checked
def create(
    name: str,
    *,
    requests_per_minute: Annotated[int, Field(ge=1, lt=2**53)] | None = None,
    tokens_per_day: Annotated[int, Field(ge=1, lt=2**53)] | None = None,
    operator: bool = False,
    database_url: str = "",
) -> NewKey:
    """Make a key. From then on the server answers no request without one.

    Args:
        name: Whose it is: letters, digits, dots, hyphens.
        requests_per_minute: How often it may ask a model, counted over the last minute.
            Without it: no limit.
        tokens_per_day: Tokens it may use in a day (UTC), prompts and answers together.
            Without it: no limit.
        operator: It may also change what everybody gets: promote a model's version, or go back.
        database_url: The server's database, when not $MIAOBI_DATABASE_URL or SQLite
            under $MIAOBI_HOME.
    """
    if not NAME.fullmatch(name):
        raise BadInput(
            say(f"{name!r} cannot name a key.", f"{name!r} 不能作为密钥名称。"),
            say(
                "Up to 64 letters, digits, dots, hyphens and underscores, a letter or digit first.",
                "最多 64 个字母、数字、点、连字符或下划线，以字母或数字开头。",
            ),
        )
    secret = f"mb-{secrets.token_urlsafe(32)}"
    with _opened(database_url) as records, records.session() as session:
        if session.scalar(select(Key).where(Key.name == name)):
            raise Conflict(
                say(
                    f"There is a key named {name} already, or was: names are not used twice.",
                    f"已有（或曾有）名为 {name} 的密钥：名称不可重复使用。",
                ),
                say(
                    "Choose another name; `miaobi keys list` shows them.",
                    "请换一个名称；`miaobi keys list` 可列出全部。",
                ),
            )
        row = Key(
            id=new_id("key"),
            name=name,
            sha256=digest(secret),
            requests_per_minute=requests_per_minute,
            tokens_per_day=tokens_per_day,
            operator=operator,
        )
        session.add(row)
        session.flush()
        return NewKey(row.id, name, secret)


def list_keys(*, database_url: str = "") -> Keyring:
    """The keys by name, with their limits; the keys themselves cannot be shown again.

    Args:
        database_url: The server's database, when not $MIAOBI_DATABASE_URL or SQLite
            under $MIAOBI_HOME.
    """
    with _opened(database_url) as records:
        return Keyring(tuple(_facts(row) for row in all_keys(records)))


def revoke(name: str, *, database_url: str = "") -> KeyFacts:
    """End a key. A running server refuses it within a second; answers it has begun end.

    Args:
        name: Its name, as `miaobi keys list` shows it.
        database_url: The server's database, when not $MIAOBI_DATABASE_URL or SQLite
            under $MIAOBI_HOME.
    """
    with _opened(database_url) as records, records.session() as session:
        row = session.scalar(select(Key).where(Key.name == name))
        if row is None:
            raise NotFound(
                say(f"There is no key named {name!r}.", f"没有名为 {name!r} 的密钥。"),
                nearest(name, session.scalars(select(Key.name))),
            )
        row.revoked = row.revoked or now()
        return _facts(row)


def all_keys(records: Records) -> list[Key]:
    """With the revoked ones."""
    with records.reading() as session:
        return list(session.scalars(select(Key).order_by(Key.name)))


def _facts(row: Key) -> KeyFacts:
    return KeyFacts(
        row.id,
        row.name,
        row.created,
        row.requests_per_minute,
        row.tokens_per_day,
        row.operator,
        row.revoked,
    )
