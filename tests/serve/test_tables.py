"""Tables of other packages: migrated with the server's own, each by a history of its own."""

from __future__ import annotations

import sqlite3
import sys
from collections.abc import Iterator
from contextlib import closing
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest
from sqlalchemy import inspect, text
from tests.serve.databases import database, postgres

from miaobi.core.errors import Damaged
from miaobi.serve.checks import check_database
from miaobi.serve.copies import list_copies
from miaobi.serve.database import open_records
from miaobi.serve.schema import newest_revision
from miaobi.serve.tables import tables

__all__ = ["database", "postgres"]

MODULE = """
from pathlib import Path
MIGRATIONS = Path(__file__).with_name("versions of 100%")
"""
FIRST = '''"""Notes by key."""
import sqlalchemy as sa
from alembic import op
revision, down_revision = "0001", None

def upgrade():
    op.create_table("notes", sa.Column("id", sa.String(255), primary_key=True))
'''
SECOND = '''"""Their length."""
import sqlalchemy as sa
from alembic import op
revision, down_revision = "0002", "0001"

def upgrade():
    op.add_column("notes", sa.Column("seconds", sa.Double()))
'''


class Package:
    """The toy "notes", which tests install, upgrade and remove."""

    def __init__(self, folder: Path, patch: pytest.MonkeyPatch) -> None:
        self.versions = folder / "versions of 100%"
        self.patch = patch
        self.versions.mkdir()
        (folder / "notes_tables.py").write_text(MODULE, encoding="utf-8")
        self.add("0001_notes.py", FIRST)

    def install(self) -> None:
        entry = EntryPoint("notes", "notes_tables", tables.group)
        self.patch.setitem(tables._entries, "notes", entry)

    def uninstall(self) -> None:
        self.patch.delitem(tables._entries, "notes")

    def add(self, name: str, version: str) -> None:
        (self.versions / name).write_text(version, encoding="utf-8")


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Package]:
    monkeypatch.syspath_prepend(tmp_path)
    notes = Package(tmp_path, monkeypatch)
    notes.install()
    yield notes
    sys.modules.pop("notes_tables", None)


def columns(url: str) -> set[str]:
    """Of the table notes, after an opening."""
    records = open_records(url)
    names = {column["name"] for column in inspect(records.engine).get_columns("notes")}
    records.close()
    return names


def stamp(url: str, revision: str) -> None:
    records = open_records(url)
    with records.engine.begin() as connection:
        update = "UPDATE alembic_version_notes SET version_num = :revision"
        connection.execute(text(update), {"revision": revision})
    records.close()


def test_opening_migrates_every_package(database: str, package: Package) -> None:
    assert columns(database) == {"id"}
    package.add("0002_length.py", SECOND)
    assert columns(database) == {"id", "seconds"}


def test_a_package_that_is_gone_leaves_its_tables(
    database: str, package: Package
) -> None:
    columns(database)
    package.uninstall()
    records = open_records(database)
    with records.engine.begin() as connection:
        connection.execute(text("INSERT INTO notes VALUES ('a')"))
    records.close()
    package.add("0002_length.py", SECOND)
    package.install()
    assert columns(database) == {"id", "seconds"}
    records = open_records(database)
    with records.engine.connect() as connection:
        assert connection.execute(text("SELECT id FROM notes")).scalar() == "a"
    records.close()


def test_a_newer_package_wrote_it(database: str, package: Package) -> None:
    columns(database)
    stamp(database, "0007")
    with pytest.raises(Damaged, match=r"0007.*notes.*up to 0001") as caught:
        open_records(database)
    assert "Install the version of the package" in caught.value.remedy


def test_the_database_is_copied_before_and_doctor_names_what_is_pending(
    tmp_path: Path, package: Package, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "records.sqlite"
    url = f"sqlite:///{file}"
    monkeypatch.setenv("MIAOBI_DATABASE_URL", url)
    package.uninstall()
    open_records(url).close()
    package.install()
    assert "migrates it: notes 0001 (Notes by key)" in check_database().what
    columns(url)
    (copy,) = list_copies(file)
    assert copy.revision == newest_revision()
    with closing(sqlite3.connect(copy.path)) as connection:
        names = connection.execute("SELECT name FROM sqlite_master")
        assert "notes" not in {name for (name,) in names}
    expected = f"up to date (revision {newest_revision()}, notes 0001)"
    assert expected in check_database().what


def test_an_older_revision_of_the_server_has_its_own_tables_only(
    tmp_path: Path, package: Package
) -> None:
    records = open_records(f"sqlite:///{tmp_path / 'old.sqlite'}", "0001")
    assert "notes" not in inspect(records.engine).get_table_names()
    records.close()
