"""The schema of the server's database: its revisions, which are pending, and how it is
brought up to date.

An SQLite file is copied before it is changed (copies.py), in the transaction that
changes it, so that nothing is written between the two. Knows no tables: those are in
records.py, and their history in migrations/.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, Engine, inspect

from miaobi import __version__
from miaobi.core.errors import Damaged
from miaobi.core.language import say
from miaobi.serve.copies import copy_database, list_copies

log = logging.getLogger("miaobi.serve")

MIGRATIONS = Path(__file__).with_name("migrations")


@dataclass(frozen=True)
class Migration:
    """A step of the schema to `revision`."""

    revision: str
    summary: str

    def __str__(self) -> str:
        return f"{self.revision} ({self.summary})"


def newest_revision() -> str:
    """Return the revision that this version of miaobi reads and writes."""
    revision = ScriptDirectory(str(MIGRATIONS)).get_current_head()
    assert revision is not None
    return revision


def revision_of(connection: Connection) -> str | None:
    """Return the revision of a database; None if it was never brought to one."""
    return MigrationContext.configure(connection).get_current_revision()


def pending_migrations(
    engine: Engine, revision: str | None, target: str = "head"
) -> list[Migration]:
    """Return the migrations to `target` after `revision`, which the database of
    `engine` has. Raise Damaged for a revision that this version does not know.
    """
    scripts = ScriptDirectory(str(MIGRATIONS))
    revisions = [script.revision for script in scripts.walk_revisions()]
    if revision is not None and revision not in revisions:
        raise _newer_schema(engine, revision, revisions)
    pending = list[Migration]()
    for script in scripts.walk_revisions(head=target):
        if script.revision == revision:
            break
        summary = (script.doc or "").partition("\n")[0].rstrip(".")
        pending.append(Migration(script.revision, summary))
    return pending[::-1]


def upgrade(connection: Connection, target: str = "head") -> None:
    """Bring a database to `target`, in one transaction that this begins and the
    caller commits. Raise Damaged for a newer schema, DoesNotFit if it cannot be copied.
    """
    connection.begin()
    current = revision_of(connection)
    pending = pending_migrations(connection.engine, current, target)
    if pending and inspect(connection).get_table_names():
        _make_safe(connection.engine, current or "none", pending[-1].revision)
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    config.attributes["connection"] = connection
    command.upgrade(config, target)


def sqlite_file(engine: Engine) -> Path | None:
    """Return the file of an SQLite database, None for one of another kind."""
    if engine.dialect.name != "sqlite" or not engine.url.database:
        return None
    return Path(engine.url.database)


def dump_command(engine: Engine) -> str:
    """Return the command that copies a PostgreSQL database; the URL is without its
    password.
    """
    url = engine.url.set(drivername="postgresql").render_as_string(hide_password=True)
    return f"pg_dump --format=custom --file=miaobi.dump '{url}'"


def _make_safe(engine: Engine, current: str, target: str) -> None:
    """Copy the database, or log that its copy is the operator's to make."""
    database = sqlite_file(engine)
    if database is None:
        log.warning(
            "the database goes from revision %s to %s; miaobi copies no PostgreSQL "
            "database: the way back is a dump from before this start (%s)",
            current,
            target,
            dump_command(engine),
        )
        return
    copy = copy_database(database, current)
    log.info(
        "the database goes from revision %s to %s; it was copied to %s before",
        current,
        target,
        copy.path,
    )


def _newer_schema(engine: Engine, revision: str, revisions: list[str]) -> Damaged:
    newest = revisions[0]
    remedy = say(
        "Use the miaobi that wrote it, or a newer one",
        "请使用写入它的 miaobi 版本或更新的版本",
    )
    database = sqlite_file(engine)
    if database is None:
        remedy += say("; or restore an older dump.", "；或恢复较旧的转储。")
    else:
        readable = [
            copy for copy in list_copies(database) if copy.revision in revisions
        ]
        if readable:
            remedy += say(
                f"; or put the copy from before in its place: {readable[0].path}.",
                f"；或换回升级前的副本：{readable[0].path}。",
            )
        else:
            remedy += say(".", "。")
    return Damaged(
        say(
            f"The database has revision {revision} of the schema; "
            f"miaobi {__version__} knows revisions up to {newest}.",
            f"数据库结构的版本为 {revision}；miaobi {__version__} 只支持到 {newest}。",
        ),
        remedy,
    )
