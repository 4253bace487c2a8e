"""The schema of the server's database: the revisions of each package's tables, which of
them are pending, and how all are brought up to date.

An SQLite file is copied before it is changed (copies.py), in the transaction that
changes it, so that nothing is written between the two. Knows no tables: those are in
the modules that tables.py registers, each with the folder of its history.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
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
from miaobi.serve.tables import OWN, tables

log = logging.getLogger("miaobi.serve")

ENVIRONMENT = Path(__file__).with_name("migrations")
"""Holds env.py, which Alembic runs for every history."""


@dataclass(frozen=True)
class History:
    """The revisions of one package's tables."""

    package: str
    """Its name among the tables."""
    folder: Path
    """Of the versions."""

    @property
    def version_table(self) -> str:
        """The table that says which revision a database has."""
        if self.package == OWN:
            return "alembic_version"
        return f"alembic_version_{self.package}"

    @property
    def scripts(self) -> ScriptDirectory:
        return ScriptDirectory(str(ENVIRONMENT), version_locations=[str(self.folder)])

    def label(self, text: str) -> str:
        """Return `text` with the package's name in front, unless it is the server."""
        return text if self.package == OWN else f"{self.package} {text}"


@dataclass(frozen=True)
class Migration:
    """A step of one history to `revision`."""

    history: History
    revision: str
    summary: str

    def __str__(self) -> str:
        return self.history.label(f"{self.revision} ({self.summary})")


def histories() -> list[History]:
    """Return the history of every registered package, the server's own first."""
    names = (OWN, *tables.added())
    return [History(name, tables.get(name).MIGRATIONS) for name in names]


def newest_revision() -> str:
    """Return the revision that this version of miaobi reads and writes."""
    revision = histories()[0].scripts.get_current_head()
    assert revision is not None
    return revision


def revision_of(connection: Connection, history: History) -> str | None:
    """Return a database's revision; None if it was never brought to one."""
    opts = {"version_table": history.version_table}
    return MigrationContext.configure(connection, opts=opts).get_current_revision()


def pending_migrations(
    engine: Engine, history: History, revision: str | None, target: str = "head"
) -> list[Migration]:
    """Return the migrations to `target` after `revision`, which the database of
    `engine` has. Raise Damaged for a revision that the installed package does not know.
    """
    scripts = history.scripts
    revisions = [script.revision for script in scripts.walk_revisions()]
    if revision is not None and revision not in revisions:
        if history.package == OWN:
            raise _newer_schema(engine, revision, revisions)
        raise _newer_package(history, revision, revisions)
    pending = list[Migration]()
    for script in scripts.walk_revisions(head=target):
        if script.revision == revision:
            break
        summary = (script.doc or "").partition("\n")[0].rstrip(".")
        pending.append(Migration(history, script.revision, summary))
    return pending[::-1]


def upgrade(connection: Connection, target: str = "head") -> None:
    """Bring a database up to date, in one transaction that this begins and the caller
    commits.

    Args:
        connection: to the database.
        target: the server's own revision; an older one leaves out other packages' tables.

    Raise Damaged for a newer schema, DoesNotFit if it cannot be copied.
    """
    connection.begin()
    pending = list[Migration]()
    for history in histories() if target == "head" else histories()[:1]:
        revision = revision_of(connection, history)
        pending += pending_migrations(connection.engine, history, revision, target)
    if not pending:
        return
    if inspect(connection).get_table_names():
        _make_safe(connection, pending)
    for history in dict.fromkeys(migration.history for migration in pending):
        command.upgrade(_config(connection, history), target)


def _config(connection: Connection, history: History) -> Config:
    """What Alembic and env.py need to know."""
    config = Config()
    for name, value in (
        ("script_location", str(ENVIRONMENT)),
        ("version_locations", str(history.folder)),
        ("path_separator", "newline"),
    ):
        config.set_main_option(name, value.replace("%", "%%"))
    config.attributes["connection"] = connection
    config.attributes["version_table"] = history.version_table
    return config


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


def _make_safe(connection: Connection, pending: Sequence[Migration]) -> None:
    """Copy the database, or log that its copy is the operator's to make."""
    current = revision_of(connection, histories()[0]) or "none"
    listed = ", ".join(map(str, pending))
    database = sqlite_file(connection.engine)
    if database is None:
        log.warning(
            "the database is migrated from revision %s: %s; miaobi copies no PostgreSQL "
            "database: the way back is a dump from before this start (%s)",
            current,
            listed,
            dump_command(connection.engine),
        )
        return
    copy = copy_database(database, current)
    log.info(
        "the database is migrated from revision %s: %s; it was copied to %s before",
        current,
        listed,
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
                f"; or restore the copy made before the upgrade: {readable[0].path}.",
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


def _newer_package(history: History, revision: str, revisions: list[str]) -> Damaged:
    name, newest = history.package, revisions[0]
    return Damaged(
        say(
            f"The database has revision {revision} of the tables of {name}; "
            f"the installed package knows revisions up to {newest}.",
            f"数据库中 {name} 的表为版本 {revision}；已安装的软件包只支持到 {newest}。",
        ),
        say(
            "Install the version of the package that wrote it, or a newer one.",
            "请安装写入它的软件包版本或更新的版本。",
        ),
    )
