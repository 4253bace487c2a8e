"""The database opens, is brought up to date once, and keeps its word, on SQLite and on
PostgreSQL.
"""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import select, text
from tests.serve.databases import database, postgres

from miaobi.core.errors import BadInput
from miaobi.serve.database import open_records
from miaobi.serve.records import Key, Table, Usage, new_id

__all__ = ["database", "postgres"]


def test_the_migrations_lead_to_the_models(database: str) -> None:
    records = open_records(database)
    with records.engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, Table.metadata) == []
    records.close()


def test_keys_of_older_servers_keep_their_rights(database: str) -> None:
    records = open_records(database, "0001")
    with records.engine.begin() as connection:
        connection.execute(
            text(
                "INSERT INTO keys (id, name, sha256, created) VALUES ('key-1', 'old', '0', 1)"
            )
        )
    records.close()
    records = open_records(database)
    with records.session() as session:
        session.add(Key(id="key-2", name="new", sha256="1"))
    with records.reading() as session:
        assert {key.name: key.operator for key in session.scalars(select(Key))} == {
            "old": True,
            "new": False,
        }
    records.close()


def test_usage_of_older_servers_becomes_amounts(database: str) -> None:
    records = open_records(database, "0002")
    rows = [
        {"key": "key-1", "day": "2026-11-30", "amounts": (7, 210, 90, 0)},
        {"key": "key-2", "day": "2026-12-01", "amounts": (2, 0, 0, 5)},
    ]
    with records.engine.begin() as connection:
        for row in rows:
            key, day, amounts = row.values()
            connection.execute(
                text("INSERT INTO usage VALUES (:key, 'm', :day, :r, :p, :c, :i)"),
                {"key": key, "day": day, **dict(zip("rpci", amounts))},
            )
    records.close()
    records = open_records(database)
    with records.reading() as session:
        query = select(Usage.key_id, Usage.model, Usage.day, Usage.unit, Usage.amount)
        assert set(map(tuple, session.execute(query))) == {
            ("key-1", "m", "2026-11-30", "requests", 7),
            ("key-1", "m", "2026-11-30", "prompt_tokens", 210),
            ("key-1", "m", "2026-11-30", "completion_tokens", 90),
            ("key-2", "m", "2026-12-01", "requests", 2),
            ("key-2", "m", "2026-12-01", "pictures", 5),
        }
    records.close()


def test_servers_opened_together_bring_it_up_to_date_once(database: str) -> None:
    opened = []
    failed = []

    def open_one() -> None:
        try:
            opened.append(open_records(database))
        except Exception as error:
            failed.append(error)

    threads = [threading.Thread(target=open_one) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed and len(opened) == 4
    for records in opened:
        records.close()


def test_a_transaction_is_whole_or_not_at_all(database: str) -> None:
    records = open_records(database)
    with pytest.raises(RuntimeError), records.session() as session:
        session.add(Key(id=new_id("key"), name="a", sha256="0"))
        session.flush()
        raise RuntimeError
    with records.reading() as session:
        assert session.scalars(select(Key)).all() == []
    records.close()


def test_writers_wait_for_each_other(database: str) -> None:
    records = open_records(database)

    def add(prefix: str) -> None:
        for number in range(10):
            with records.session() as session:
                session.scalars(
                    select(Key)
                ).all()  # reads first: on SQLite, the transaction that cannot be raised to a writing one
                session.add(
                    Key(
                        id=new_id("key"),
                        name=f"{prefix}{number}",
                        sha256=f"{prefix}{number}",
                    )
                )

    threads = [threading.Thread(target=add, args=(prefix,)) for prefix in "abcd"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with records.reading() as session:
        assert len(session.scalars(select(Key)).all()) == 40
    records.close()


def test_what_is_accepted_is_on_disk(tmp_path: Path) -> None:
    records = open_records(f"sqlite:///{tmp_path / 'r.sqlite'}")
    with records.session() as session:
        assert session.connection().exec_driver_sql("PRAGMA synchronous").scalar() == 2
        assert (
            session.connection().exec_driver_sql("PRAGMA journal_mode").scalar()
            == "wal"
        )
        assert session.connection().exec_driver_sql("PRAGMA foreign_keys").scalar() == 1
    records.close()


@pytest.mark.parametrize(
    "url",
    ["nonsense", "sqlite://", "mysql://x/y", "postgresql://nobody@127.0.0.1:1/none"],
)
def test_a_url_that_leads_nowhere_is_refused(url: str) -> None:
    with pytest.raises(BadInput):
        open_records(url)


def test_ids_sort_by_time() -> None:
    ids = [new_id("file") for _ in range(3)]
    assert len(set(ids)) == 3 and all(len(item) == len("file-") + 28 for item in ids)
    assert [item[:17] for item in ids] == sorted(item[:17] for item in ids)


def test_an_sqlite_file_elsewhere_is_refused_by_its_setting() -> None:
    with pytest.raises(BadInput, match="on this machine") as refused:
        open_records("sqlite:///s3://bucket/records.sqlite")
    assert "MIAOBI_DATABASE_URL" in refused.value.remedy
    assert not Path("s3:").exists()
