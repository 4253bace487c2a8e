"""Opening the database: SQLite under $MIAOBI_HOME, or PostgreSQL by URL; brought up to
date, one server at a time, before use.

SQLite: write-ahead log, so that readers never wait; every commit is on disk before it
    is answered (synchronous FULL); a transaction that writes takes the lock at its
    beginning, so that none fails half way because another wrote first.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import URL, Connection, Engine, create_engine, event, make_url, text
from sqlalchemy.exc import (
    ArgumentError,
    DBAPIError,
    OperationalError,
    SQLAlchemyError,
)
from sqlalchemy.orm import Session

from miaobi.core.errors import BadInput, DoesNotFit
from miaobi.core.files import locked
from miaobi.core.language import say
from miaobi.serve.schema import upgrade

WAIT_SECONDS = 30
"""How long a write waits for another's to end."""
FULL = ("disk is full", "No space left", "disk I/O error")
"""Parts of what SQLite and PostgreSQL say on a full disk."""
LOCKED = "is locked"
"""Of what SQLite says after WAIT_SECONDS."""
LOCK = 0x6D69616F6269
"""Of PostgreSQL, held while the schema is brought up to date: "miaobi" in ASCII."""


class Records:
    """Sessions on one database; threads and processes may share it."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self._reading = engine.execution_options(miaobi_reads_only=True)

    @contextmanager
    def session(self) -> Iterator[Session]:
        """A transaction that may write: committed when the block ends, undone when it
        raises. Blocks; call it in a thread.
        """
        with (
            explain_refusal(),
            Session(self.engine, expire_on_commit=False) as session,
            session.begin(),
        ):
            yield session

    @contextmanager
    def reading(self) -> Iterator[Session]:
        """A transaction that only reads, and never waits for a lock."""
        with (
            explain_refusal(),
            Session(self._reading, expire_on_commit=False) as session,
            session.begin(),
        ):
            yield session

    def close(self) -> None:
        self.engine.dispose()


@contextmanager
def explain_refusal() -> Iterator[None]:
    """Turn a full disk, and a lock that another program holds for too long, into
    DoesNotFit: the operator's to mend, and worth trying again.
    """
    try:
        yield
    except OperationalError as error:
        reason = str(error.orig)
        if any(message in reason for message in FULL):
            raise DoesNotFit(
                say(
                    "The disk is full; nothing was recorded.",
                    "磁盘已满，未记录任何内容。",
                ),
                say("Free some space and try again.", "请清理空间后重试。"),
            ) from None
        if LOCKED in reason:
            raise DoesNotFit(
                say(
                    "The database is busy: another program holds its lock; "
                    "nothing was recorded.",
                    "数据库正忙：其他程序占用了锁，未记录任何内容。",
                ),
                say("Try again in a moment.", "请稍后重试。"),
            ) from None
        raise


def open_records(url: str, revision: str = "head") -> Records:
    """Open the database at `url` and bring it up to date, or to an older `revision` (a
    number in migrations/versions).

    Raise BadInput for a URL that leads nowhere, Damaged for the schema of a newer
    miaobi, DoesNotFit where the disk is full or another program holds the lock.
    """
    with explain_connection(), explain_refusal():
        engine = make_engine(url)
        try:
            with _exclusive(engine) as connection:
                upgrade(connection, revision)
        except BaseException:
            engine.dispose()
            raise
    return Records(engine)


@contextmanager
def explain_connection() -> Iterator[None]:
    """Turn the errors of a URL that leads to no database into BadInput."""
    try:
        yield
    except (ArgumentError, ModuleNotFoundError) as error:
        raise BadInput(
            say(
                f"The database's URL cannot be used: {error}.",
                f"数据库地址无法使用：{error}。",
            ),
            "sqlite:////srv/miaobi.sqlite, postgresql://user@host/miaobi (pip install 'miaobi[postgres]')",
        ) from None
    except SQLAlchemyError as error:
        cause = error.orig if isinstance(error, DBAPIError) else error
        reason = str(cause).strip().splitlines()[0]
        raise BadInput(
            say(
                f"The database cannot be opened: {reason}", f"无法打开数据库：{reason}"
            ),
            say(
                "Check MIAOBI_DATABASE_URL and that its server runs.",
                "请检查 MIAOBI_DATABASE_URL，并确认数据库正在运行。",
            ),
        ) from None


def make_engine(url: str | URL) -> Engine:
    """Return an engine whose transactions are as the module's docstring says."""
    parsed = make_url(url)
    if parsed.drivername in ("postgres", "postgresql"):
        parsed = parsed.set(drivername="postgresql+psycopg")
    if parsed.get_backend_name() != "sqlite":
        return create_engine(parsed, pool_pre_ping=True)
    if "://" in (parsed.database or ""):
        raise BadInput(
            say(
                f"The database is {url}, but an SQLite file has to be on this machine.",
                f"数据库为 {url}，但 SQLite 文件必须保存在本机。",
            ),
            say(
                "Set MIAOBI_DATABASE_URL to a file here, or to postgresql://user@host/miaobi for several servers.",
                "请将 MIAOBI_DATABASE_URL 设为本机文件；多台服务器请用 postgresql://user@host/miaobi。",
            ),
        )
    if parsed.database:
        Path(parsed.database).parent.mkdir(parents=True, exist_ok=True)
    engine = create_engine(parsed, connect_args={"timeout": WAIT_SECONDS})
    event.listen(engine, "connect", _prepare_sqlite)
    event.listen(engine, "begin", _begin_sqlite)
    return engine


def _prepare_sqlite(connection: Any, _: object) -> None:
    # The driver begins no transactions by itself: _begin_sqlite does.
    connection.isolation_level = None
    for pragma in ("journal_mode = WAL", "synchronous = FULL", "foreign_keys = ON"):
        connection.execute(f"PRAGMA {pragma}").close()


def _begin_sqlite(connection: Connection) -> None:
    reads_only = connection.get_execution_options().get("miaobi_reads_only")
    connection.exec_driver_sql("BEGIN" if reads_only else "BEGIN IMMEDIATE")


@contextmanager
def _exclusive(engine: Engine) -> Iterator[Connection]:
    """A connection, while no other server changes the schema."""
    if engine.dialect.name == "sqlite":
        database = engine.url.database
        if not database or database == ":memory:":
            raise BadInput(
                say(
                    "A database in memory is lost with every connection.",
                    "内存数据库会随连接丢失。",
                ),
                "sqlite:////srv/miaobi.sqlite",
            )
        with locked(Path(f"{database}.lock")), engine.connect() as connection:
            yield connection
            connection.commit()
        return
    with engine.connect() as connection:
        connection.execute(text("SELECT pg_advisory_lock(:number)"), {"number": LOCK})
        connection.commit()
        try:
            yield connection
            connection.commit()
        finally:
            connection.rollback()
            connection.execute(
                text("SELECT pg_advisory_unlock(:number)"), {"number": LOCK}
            )
            connection.commit()
