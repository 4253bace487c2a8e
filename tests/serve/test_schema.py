"""The schema changes only after a copy, never from a newer one; and `miaobi doctor` says
what is pending without touching the database.
"""

from __future__ import annotations

import logging
import shutil
import sqlite3
import stat
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import text
from tests.serve.databases import postgres

from miaobi.cli import main
from miaobi.core.errors import Damaged, DoesNotFit
from miaobi.serve import copies, database
from miaobi.serve.checks import check_database
from miaobi.serve.copies import COPIES, copy_database, list_copies
from miaobi.serve.database import Records, open_records
from miaobi.serve.schema import newest_revision

__all__ = ["postgres"]

INSERT_KEY = "INSERT INTO keys (id, name, sha256, created) VALUES (:id, :id, :id, 1)"


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A database at revision 0001 with one key: what the server here would open."""
    path = tmp_path / "records.sqlite"
    records = open_records(f"sqlite:///{path}", "0001")
    add_key(records, "first")
    records.close()
    monkeypatch.setenv("MIAOBI_DATABASE_URL", f"sqlite:///{path}")
    return path


def add_key(records: Records, name: str) -> None:
    with records.engine.begin() as connection:
        connection.execute(text(INSERT_KEY), {"id": name})


def key_names(path: Path) -> list[str]:
    with closing(sqlite3.connect(path)) as connection:
        return [row[0] for row in connection.execute("SELECT name FROM keys")]


def revision_in(path: Path) -> str:
    with closing(sqlite3.connect(path)) as connection:
        (row,) = connection.execute("SELECT version_num FROM alembic_version")
    return str(row[0])


def stamp(path: Path, revision: str) -> None:
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("UPDATE alembic_version SET version_num = ?", (revision,))


def contents(folder: Path) -> dict[str, tuple[int, bytes]]:
    """Name -> time of the last change, bytes."""
    return {
        path.name: (path.stat().st_mtime_ns, path.read_bytes())
        for path in folder.iterdir()
    }


# Copies.


def test_a_database_is_copied_before_it_is_migrated(file: Path) -> None:
    file.chmod(0o600)
    open_records(f"sqlite:///{file}").close()
    (copy,) = list_copies(file)
    assert copy.revision == "0001"
    assert revision_in(copy.path) == "0001"
    assert revision_in(file) == newest_revision()
    assert key_names(copy.path) == ["first"]
    assert key_names(file) == ["first"]
    assert stat.S_IMODE(copy.path.stat().st_mode) == 0o600
    assert not [path for path in file.parent.iterdir() if ".part" in path.name]


def test_what_is_in_the_write_ahead_log_is_copied(file: Path) -> None:
    """Another server has the database open, and its last writes are in the log only."""
    with closing(sqlite3.connect(file)) as other:
        other.execute("PRAGMA wal_autocheckpoint = 0")
        other.execute(INSERT_KEY, {"id": "second"})
        other.commit()
        assert b"second" not in file.read_bytes()
        open_records(f"sqlite:///{file}").close()
    assert key_names(list_copies(file)[0].path) == ["first", "second"]


def test_a_copy_is_a_database_that_opens(file: Path) -> None:
    open_records(f"sqlite:///{file}").close()
    shutil.copy(list_copies(file)[0].path, file.with_name("restored.sqlite"))
    records = open_records(f"sqlite:///{file.with_name('restored.sqlite')}")
    add_key(records, "third")
    records.close()


def test_without_pending_migrations_nothing_is_copied(tmp_path: Path) -> None:
    path = tmp_path / "records.sqlite"
    for _ in range(2):
        open_records(f"sqlite:///{path}").close()
    assert list_copies(path) == []


def test_copies_are_never_overwritten_and_the_last_ones_stay(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        copies.time, "gmtime", lambda: (2026, 11, 30, 20, 15, 12, 0, 0, 0)
    )
    new_copies = [copy_database(file, "0001") for _ in range(COPIES + 9)]
    assert len({copy.path for copy in new_copies}) == COPIES + 9
    assert list_copies(file) == new_copies[: -COPIES - 1 : -1]
    assert new_copies[0].path.name == "records.sqlite.0001.20261130-201512.copy"


def test_without_space_for_the_copy_nothing_changes(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(file.parent)._replace(free=10)
    with monkeypatch.context() as patch:
        patch.setattr(copies.shutil, "disk_usage", lambda path: usage)
        with pytest.raises(DoesNotFit, match="copied before its schema changes"):
            open_records(f"sqlite:///{file}")
    assert revision_in(file) == "0001"
    open_records(f"sqlite:///{file}").close()
    assert revision_in(file) == newest_revision()


def test_a_migration_that_fails_leaves_the_database_as_it_was(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("the last step of the migration")

    with monkeypatch.context() as patch:
        patch.setattr("alembic.runtime.migration.HeadMaintainer.update_to_step", fail)
        with pytest.raises(RuntimeError):
            open_records(f"sqlite:///{file}")
    assert revision_in(file) == "0001"
    assert key_names(file) == ["first"]


def test_a_dump_of_postgresql_is_up_to_the_operator(
    postgres: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    import psycopg

    with psycopg.connect(postgres, autocommit=True) as connection:
        connection.execute("DROP SCHEMA public CASCADE")
        connection.execute("CREATE SCHEMA public")
    open_records(postgres, "0001").close()
    monkeypatch.setenv("MIAOBI_DATABASE_URL", postgres.replace("@", ":secret@"))
    finding = check_database()
    assert "0002 (Keys" in finding.what and "pg_dump" in finding.mend
    assert "secret" not in str(finding)
    with caplog.at_level(logging.WARNING, "miaobi.serve"):
        open_records(postgres).close()
    assert "from revision 0001: 0002 (Keys" in caplog.text
    assert "pg_dump --format=custom" in caplog.text
    with psycopg.connect(postgres, autocommit=True) as connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
    with pytest.raises(Damaged, match="revision 9999"):
        open_records(postgres)
    assert "restore an older dump" in check_database().mend


# Newer schemas.


def test_the_schema_of_a_newer_miaobi_is_refused(file: Path) -> None:
    open_records(f"sqlite:///{file}").close()
    stamp(file, "9999")
    before = file.read_bytes()
    with pytest.raises(Damaged) as caught:
        open_records(f"sqlite:///{file}")
    assert "9999" in caught.value.problem
    assert newest_revision() in caught.value.problem
    assert str(list_copies(file)[0].path) in caught.value.remedy
    assert file.read_bytes() == before


def test_only_a_copy_that_this_version_reads_is_a_remedy(file: Path) -> None:
    stamp(file, "9999")
    copy = copy_database(file, "9998")
    with pytest.raises(Damaged) as caught:
        open_records(f"sqlite:///{file}")
    assert str(copy.path) not in caught.value.remedy
    assert "newer" in caught.value.remedy


def test_commands_say_it_without_a_trace(
    file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stamp(file, "9999")
    assert main(["keys", "list"]) == Damaged.exit_code
    error = capsys.readouterr().err
    assert "9999" in error and "Traceback" not in error


# What `miaobi doctor` says.


def test_doctor_names_what_is_pending_and_touches_nothing(
    file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = contents(file.parent)
    main(["doctor"])
    output = capsys.readouterr().out
    assert "0002 (Keys that may change" in output
    assert f"copies it to {file.parent}" in output and "MB free" in output
    assert contents(file.parent) == before


@pytest.fixture
def running(file: Path) -> Iterator[Path]:
    """The database while a server has it open, with writes in its log."""
    records = open_records(f"sqlite:///{file}")
    add_key(records, "second")
    yield file
    records.close()


def test_doctor_beside_a_running_server(running: Path) -> None:
    before = contents(running.parent)
    finding = check_database()
    assert finding.state == "ok"
    assert f"up to date (revision {newest_revision()})" in finding.what
    after = contents(running.parent)
    shared = "records.sqlite-shm"  # SQLite's locks
    assert before.keys() == after.keys()
    assert {**before, shared: None} == {**after, shared: None}


def test_doctor_says_what_is_wrong(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(file.parent)._replace(free=10)
    with monkeypatch.context() as patch:
        patch.setattr("miaobi.serve.checks.shutil.disk_usage", lambda path: usage)
        finding = check_database()
    assert finding.state == "problem"
    assert "free some space" in finding.mend
    stamp(file, "9999")
    finding = check_database()
    assert finding.state == "problem"
    assert "9999" in finding.what
    file.write_bytes(b"no database" * 100)
    assert check_database().state == "problem"
    monkeypatch.setenv("MIAOBI_DATABASE_URL", f"sqlite:///{tmp_path / 'none.sqlite'}")
    assert check_database().state == "ok"
    assert not (tmp_path / "none.sqlite").exists()
    url = "postgresql://nobody:secret@127.0.0.1:1/none"
    monkeypatch.setenv("MIAOBI_DATABASE_URL", url)
    finding = check_database()
    assert finding.state == "problem"
    assert "secret" not in str(finding)


# Locks.


def test_a_locked_database_is_worth_another_try(
    client: TestClient, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    answered = client.post("/v1/feedback", json=thumb())
    assert answered.status_code == 200, answered.text
    (file,) = tmp_path.rglob("records.sqlite")
    services = client.app.state.services  # type: ignore[attr-defined]
    monkeypatch.setattr(database, "WAIT_SECONDS", 0.01)
    impatient = open_records(f"sqlite:///{file}")
    engine = services.records.engine
    services.records.engine = impatient.engine
    with closing(sqlite3.connect(file, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        answer = client.post("/v1/feedback", json=thumb())
        with pytest.raises(DoesNotFit, match="busy"):
            open_records(f"sqlite:///{file}")
        other.execute("ROLLBACK")
    assert answer.status_code == 503
    assert int(answer.headers["retry-after"]) > 0
    assert "busy" in answer.json()["error"]["message"]
    assert client.post("/v1/feedback", json=thumb()).status_code == 200
    services.records.engine = engine
    impatient.close()


def thumb() -> dict[str, object]:
    messages = [{"role": "user", "content": "a"}]
    return {
        "kind": "thumb",
        "model": "echo",
        "messages": messages,
        "chosen": "b",
        "label": True,
    }
