"""What `miaobi doctor` says of the server's database: where it is, which migrations are
pending, where its copy would go. Reads it only, and leaves no file beside it.
"""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import quote

from sqlalchemy import URL, Engine, NullPool, create_engine, make_url

from miaobi.core.errors import MiaobiError
from miaobi.core.language import say
from miaobi.serve.copies import size_of
from miaobi.serve.database import explain_connection, make_engine
from miaobi.serve.schema import (
    Migration,
    dump_command,
    histories,
    pending_migrations,
    revision_of,
    sqlite_file,
)
from miaobi.serve.settings import Settings
from miaobi.verbs.doctor import Finding, State

CONNECT_SECONDS = 5
"""How long a PostgreSQL server may take to answer."""


def check_database() -> Finding:
    """Return what is to be known before the server's next start."""
    try:
        with explain_connection():
            return _check(make_url(Settings().database))
    except MiaobiError as error:
        return _finding("problem", error.problem, error.remedy)


def _check(url: URL) -> Finding:
    if url.get_backend_name() != "sqlite":
        timeout = {"connect_timeout": str(CONNECT_SECONDS)}
        engine = make_engine(url.update_query_dict(timeout))
    elif url.database and Path(url.database).is_file():
        engine = _open_read_only(url)
    else:
        return _finding(
            "ok",
            say(
                f"none at {url.database} yet; the server's first start makes it",
                f"{url.database} 尚不存在；服务器首次启动时创建",
            ),
        )
    try:
        with engine.connect() as connection:
            revisions = [(one, revision_of(connection, one)) for one in histories()]
        pending = list[Migration]()
        for history, revision in revisions:
            pending += pending_migrations(engine, history, revision)
    finally:
        engine.dispose()
    location = str(sqlite_file(engine) or url.render_as_string(hide_password=True))
    if pending:
        return _pending(engine, location, pending)
    listed = ", ".join(history.label(str(revision)) for history, revision in revisions)
    return _finding(
        "ok",
        say(
            f"{location}, up to date (revision {listed})",
            f"{location}，已是最新（版本 {listed}）",
        ),
    )


def _open_read_only(url: URL) -> Engine:
    assert url.database is not None
    file = Path(url.database).resolve()
    log = file.with_name(f"{file.name}-wal")
    # Without a log it is open nowhere, and SQLite need not make its own files beside it.
    mode = "mode=ro" if log.exists() else "immutable=1"
    uri = f"file:{quote(str(file))}?{mode}"
    return create_engine(
        url,
        creator=lambda: sqlite3.connect(uri, uri=True),
        poolclass=NullPool,
    )


def _pending(engine: Engine, location: str, pending: Sequence[Migration]) -> Finding:
    listed = ", ".join(map(str, pending))
    database = sqlite_file(engine)
    if database is None:
        return _finding(
            "ok",
            say(
                f"{location}: the server's next start migrates it: {listed}",
                f"{location}：服务器下次启动时将执行迁移：{listed}",
            ),
            say(
                f"copy it before: {dump_command(engine)}",
                f"请先备份：{dump_command(engine)}",
            ),
        )
    folder = database.resolve().parent
    size = size_of(database)
    free = shutil.disk_usage(folder).free
    what = say(
        f"{location}: the server's next start copies it to {folder} "
        f"({size / 1e6:,.1f} MB; {free / 1e6:,.1f} MB free) and migrates it: {listed}",
        f"{location}：服务器下次启动时先复制到 {folder}"
        f"（{size / 1e6:,.1f} MB；剩余 {free / 1e6:,.1f} MB），再执行迁移：{listed}",
    )
    if size > free:
        return _finding(
            "problem",
            what,
            say(
                "free some space: without a copy it is not migrated",
                "请清理空间：无法复制则不会迁移",
            ),
        )
    return _finding("ok", what)


def _finding(state: State, what: str, mend: str = "") -> Finding:
    return Finding(say("database", "数据库"), state, what, mend)
