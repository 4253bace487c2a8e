"""Conversations that are kept: a tree of turns for each key, found, forked, exported
and deleted, on both databases.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import update
from tests.serve.databases import database, postgres

from miaobi.core.errors import BadInput, NotFound, Unsupported
from miaobi.serve.app import create_app
from miaobi.serve.conversations import DAY, Conversations
from miaobi.serve.database import Records, open_records
from miaobi.serve.periodic import periodic
from miaobi.serve.records import Conversation, Turn, now
from miaobi.serve.services import Services

__all__ = ["database", "postgres"]


@pytest.fixture
def records(database: str) -> Iterator[Records]:
    records = open_records(database)
    yield records
    records.close()


@pytest.fixture
def kept(records: Records) -> Conversations:
    return Conversations(records)


def said(text: str) -> list[dict[str, Any]]:
    part = {"type": "input_text", "text": text}
    return [{"type": "message", "role": "user", "content": [part]}]


def answered(text: str) -> list[dict[str, Any]]:
    part = {"type": "output_text", "text": text}
    return [{"type": "message", "role": "assistant", "content": [part]}]


def texts(turns: list[Turn]) -> list[str]:
    return [turn.input[0]["content"][0]["text"] for turn in turns]


def test_a_conversation_is_a_tree(kept: Conversations) -> None:
    first = kept.add("a", said("one"), answered("1"), model="echo")
    second = kept.add("a", said("two"), answered("2"), parent_id=first.id)
    again = kept.add("a", said("two, please"), answered("2!"), parent_id=first.id)
    third = kept.add("a", said("three"), parent_id=again.id)
    assert texts(kept.path("a", third.id)) == ["one", "two, please", "three"]
    assert texts(kept.path("a", second.id)) == ["one", "two"]
    turns = kept.turns("a", first.conversation_id)
    assert texts(turns) == ["one", "two", "two, please", "three"]
    branches = [turn.id for turn in turns if turn.parent_id == first.id]
    assert branches == [second.id, again.id]
    assert kept.find("a", first.conversation_id).title == "one"


def test_a_person_answers_later(kept: Conversations) -> None:
    turn = kept.add("a", said("is anybody there?"), origin="support")
    kept.answer("a", turn.id, answered("Yes, Ada."))
    assert kept.turn("a", turn.id).output == answered("Yes, Ada.")
    assert [row.id for row in kept.listed("a", query="ada")] == [turn.conversation_id]


def test_the_last_used_comes_first_and_pages_join(
    kept: Conversations, records: Records
) -> None:
    ids = []
    for number in range(5):
        conversation = kept.start("a", "studio", f"number {number}")
        ids.append(conversation.id)
        with records.session() as session:
            session.execute(
                update(Conversation)
                .where(Conversation.id == conversation.id)
                .values(updated=now() - 100 + number // 2)
            )
    everything = [row.id for row in kept.listed("a")]
    assert set(everything) == set(ids) and everything[0] == ids[4]
    pages = list[str]()
    while True:
        rows = kept.listed("a", after=pages[-1] if pages else None, limit=2)
        pages += [row.id for row in rows[:2]]
        if len(rows) <= 2:
            break
    assert pages == everything
    kept.add("a", said("again"), conversation_id=ids[1])
    assert kept.listed("a")[0].id == ids[1]
    assert kept.listed("a", origin="support") == []


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ("STRASSE", True),
        ("straße", True),
        ("春江", True),
        ("100%", True),
        ("1000", False),
    ],
)
def test_titles_and_turns_are_searched(
    kept: Conversations, query: str, found: bool
) -> None:
    turn = kept.add("a", said("Die Straße, 100% sure"), answered("春江花月夜 \x00"))
    titled = kept.start("a", "studio", "Straße, 春江, 100%")
    kept.add("a", said("nothing of it"))
    expected = {turn.conversation_id, titled.id} if found else set()
    assert {row.id for row in kept.listed("a", query=query)} == expected


def test_renamed_forked_and_exported(kept: Conversations) -> None:
    first = kept.add("a", said("one"), answered("1"), model="echo")
    second = kept.add("a", said("two"), answered("2"), parent_id=first.id)
    kept.add("a", said("other"), parent_id=first.id)
    assert kept.rename("a", first.conversation_id, " Numbers ").title == "Numbers"
    with pytest.raises(BadInput):
        kept.rename("a", first.conversation_id, " ")
    fork = kept.fork("a", second.id)
    assert fork.title == "Numbers" and fork.id != first.conversation_id
    copies = kept.turns("a", fork.id)
    assert texts(copies) == ["one", "two"]
    assert texts(kept.path("a", copies[-1].id)) == ["one", "two"]
    exported = kept.as_json("a", first.conversation_id)
    assert [turn["parent_id"] for turn in exported["turns"]] == [
        None,
        first.id,
        first.id,
    ]
    assert kept.as_markdown("a", first.conversation_id, second.id) == (
        "# Numbers\n\n## User\n\none\n\n## Assistant (echo)\n\n1\n\n"
        "## User\n\ntwo\n\n## Assistant\n\n2\n"
    )
    assert "other" in kept.as_markdown("a", first.conversation_id)


def test_a_turn_that_goes_is_bridged(kept: Conversations) -> None:
    first = kept.add("a", said("one"))
    second = kept.add("a", said("two"), parent_id=first.id)
    third = kept.add("a", said("three"), parent_id=second.id)
    kept.delete_turn("a", second.id)
    assert texts(kept.path("a", third.id)) == ["one", "three"]
    kept.delete_turn("a", first.id)
    assert texts(kept.path("a", third.id)) == ["three"]
    kept.delete_turn("a", third.id)
    assert kept.listed("a") == []


def test_another_key_sees_and_changes_nothing(kept: Conversations) -> None:
    turn = kept.add("a", said("secret"))
    mine = turn.conversation_id
    assert kept.listed("b") == [] and kept.listed("b", query="secret") == []
    attempts = [
        lambda: kept.turn("b", turn.id),
        lambda: kept.path("b", turn.id),
        lambda: kept.answer("b", turn.id, answered("x")),
        lambda: kept.delete_turn("b", turn.id),
        lambda: kept.add("b", said("x"), parent_id=turn.id),
        lambda: kept.add("b", said("x"), conversation_id=mine),
        lambda: kept.find("b", mine),
        lambda: kept.turns("b", mine),
        lambda: kept.listed("b", after=mine),
        lambda: kept.rename("b", mine, "x"),
        lambda: kept.fork("b", turn.id),
        lambda: kept.delete("b", mine),
        lambda: kept.as_json("b", mine),
        lambda: kept.as_markdown("b", mine),
    ]
    for attempt in attempts:
        with pytest.raises(NotFound):
            attempt()
    assert kept.delete_all("b") == 0
    assert kept.turn("a", turn.id).output == []
    assert kept.delete_all("a") == 1 and kept.listed("a") == []


def test_what_is_old_is_not_found_and_goes(
    kept: Conversations, records: Records
) -> None:
    old = kept.add("a", said("old"))
    young = kept.add("a", said("young"))
    with records.session() as session:
        session.execute(
            update(Conversation)
            .where(Conversation.id == old.conversation_id)
            .values(updated=now() - 30 * DAY - 1)
        )
    with pytest.raises(NotFound):
        kept.turn("a", old.id)
    assert [row.id for row in kept.listed("a")] == [young.conversation_id]
    forever = Conversations(records, days=0)
    assert forever.sweep() == 0 and forever.turn("a", old.id)
    assert kept.sweep() == 1
    with pytest.raises(NotFound):
        forever.turn("a", old.id)


def test_a_turn_goes_on_while_another_server_deletes_its_parent(
    kept: Conversations,
) -> None:
    """Whichever comes first, every turn has its path."""
    first = kept.add("a", said("one"))
    for _ in range(5):
        last = kept.add("a", said("last"), parent_id=first.id)
        with ThreadPoolExecutor(4) as pool:
            added = [
                pool.submit(kept.add, "a", said("next"), parent_id=last.id)
                for _ in range(3)
            ]
            pool.submit(kept.delete_turn, "a", last.id).result()
        assert all(
            task.exception() is None or isinstance(task.exception(), NotFound)
            for task in added
        )
        turns = kept.turns("a", first.conversation_id)
        assert all(kept.path("a", turn.id)[0].id == first.id for turn in turns)


def test_the_server_sweeps(services: Services) -> None:
    """As it starts, and again and again."""
    work = periodic.get("conversations")
    with TestClient(create_app(services)):
        kept = services.conversations
        turn = kept.add("local", said("old"))
        with services.records.session() as session:
            session.execute(update(Conversation).values(updated=1))
        asyncio.run(work.run(services))
        forever = Conversations(services.records, days=0)
        assert forever.listed("local") == []
        with pytest.raises(NotFound):
            forever.turn("local", turn.id)


def test_one_switch_stores_nothing_and_leaves_what_is_there(
    kept: Conversations, records: Records
) -> None:
    turn = kept.add("a", said("one"))
    off = Conversations(records, kept=False)
    for attempt in (
        lambda: off.add("a", said("two"), parent_id=turn.id),
        lambda: off.start("a", "studio"),
        lambda: off.fork("a", turn.id),
    ):
        with pytest.raises(Unsupported, match="keeps no conversations"):
            attempt()
    assert off.turn("a", turn.id).id == turn.id
    off.delete("a", turn.conversation_id)
    assert off.listed("a") == []
