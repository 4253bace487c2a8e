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

from alembic import command
from alembic.config import Config
from sqlalchemy import Connection, Engine, create_engine, event, make_url, text
from sqlalchemy.exc import ArgumentError, OperationalError, SQLAlchemyError
from sqlalchemy.orm import Session

from miaobi.core.errors import BadInput, DoesNotFit
from miaobi.core.files import locked
from miaobi.core.language import say

MIGRATIONS = Path(__file__).with_name("migrations")
WAIT_SECONDS = 30
"""For another's write to end."""
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
            _explained(),
            Session(self.engine, expire_on_commit=False) as session,
            session.begin(),
        ):
            yield session

    @contextmanager
    def reading(self) -> Iterator[Session]:
        """A transaction that only reads, and so waits for nobody."""
        with (
            _explained(),
            Session(self._reading, expire_on_commit=False) as session,
            session.begin(),
        ):
            yield session

    def close(self) -> None:
        self.engine.dispose()


@contextmanager
def _explained() -> Iterator[None]:
    """A full disk is the operator's to mend and no defect."""
    try:
        yield
    except OperationalError as error:
        if not any(
            word in str(error.orig)
            for word in ("disk is full", "No space left", "disk I/O error")
        ):
            raise
        raise DoesNotFit(
            say(
                "The disk is full; nothing was recorded.", "磁盘已满，未记录任何内容。"
            ),
            say("Free some space and try again.", "请清理空间后重试。"),
        ) from None


def open_records(url: str, revision: str = "head") -> Records:
    """Open the database at `url` and bring it up to date, or to an older `revision` (a
    number in migrations/versions). Raises BadInput for a URL that leads nowhere.
    """
    try:
        engine = _engine(url)
        with _alone(engine) as connection:
            config = Config()
            config.set_main_option(
                "script_location", str(MIGRATIONS).replace("%", "%%")
            )
            config.attributes["connection"] = connection
            command.upgrade(config, revision)
    except (ArgumentError, ModuleNotFoundError) as error:
        raise BadInput(
            say(
                f"The database's URL cannot be used: {error}.",
                f"数据库地址无法使用：{error}。",
            ),
            "sqlite:////srv/miaobi.sqlite, postgresql://user@host/miaobi (pip install 'miaobi[postgres]')",
        ) from None
    except SQLAlchemyError as error:
        reason = str(getattr(error, "orig", error)).strip().splitlines()[0]
        raise BadInput(
            say(
                f"The database cannot be opened: {reason}", f"无法打开数据库：{reason}"
            ),
            say(
                "Check MIAOBI_DATABASE_URL and that its server runs.",
                "请检查 MIAOBI_DATABASE_URL，并确认数据库正在运行。",
            ),
        ) from None
    return Records(engine)


def _engine(url: str) -> Engine:
    parsed = make_url(url)
    if parsed.drivername in ("postgres", "postgresql"):
        parsed = parsed.set(drivername="postgresql+psycopg")
    if parsed.get_backend_name() != "sqlite":
        return create_engine(parsed, pool_pre_ping=True)
    if parsed.database:
        Path(parsed.database).parent.mkdir(parents=True, exist_ok=True)
    engine = create_engine(parsed, connect_args={"timeout": WAIT_SECONDS})
    event.listen(engine, "connect", _prepare_sqlite)
    event.listen(engine, "begin", _begin_sqlite)
    return engine


def _prepare_sqlite(connection: Any, _: object) -> None:
    connection.isolation_level = (
        None  # the driver would begin transactions by its own ideas; _begin_sqlite does
    )
    for pragma in ("journal_mode = WAL", "synchronous = FULL", "foreign_keys = ON"):
        connection.execute(f"PRAGMA {pragma}").close()


def _begin_sqlite(connection: Connection) -> None:
    connection.exec_driver_sql(
        "BEGIN"
        if connection.get_execution_options().get("miaobi_reads_only")
        else "BEGIN IMMEDIATE"
    )


@contextmanager
def _alone(engine: Engine) -> Iterator[Connection]:
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
