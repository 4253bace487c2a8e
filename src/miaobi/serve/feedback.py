"""Opinions of answers: thumbs, edits and blind votes, each belonging to a key, and the
tuning set that they make together.

A line of the export is what `miaobi finetune --task preference` reads: pairs of a
chosen and a rejected answer (edits and votes; for DPO and ORPO), or single answers with
a thumb (for KTO).
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

from sqlalchemy import delete, func, select

from miaobi.serve.database import Records
from miaobi.serve.records import Feedback, new_id

Shape = Literal["pairs", "thumbs"]
BATCH = 500
"""Rows that an export reads at a time."""


def add(records: Records, key_id: str, **fields: Any) -> Feedback:
    with records.session() as session:
        row = Feedback(id=new_id("feedback"), key_id=key_id, **fields)
        session.add(row)
        return row


def listed(
    records: Records, key_id: str, after: str | None, limit: int
) -> list[Feedback]:
    """Return the key's feedback, newest first; one more than `limit` if there is more."""
    with records.reading() as session:
        query = select(Feedback).where(Feedback.key_id == key_id)
        last = session.get(Feedback, after) if after else None
        if last is not None:
            query = query.where(
                (Feedback.created < last.created)
                | ((Feedback.created == last.created) & (Feedback.id < last.id))
            )
        newest_first = query.order_by(Feedback.created.desc(), Feedback.id.desc())
        return list(session.scalars(newest_first.limit(limit + 1)))


def remove(records: Records, key_id: str, id: str) -> bool:
    """Delete it; return whether it was there and belonged to the key."""
    with records.session() as session:
        gone = session.execute(
            delete(Feedback)
            .where(Feedback.id == id, Feedback.key_id == key_id)
            .returning(Feedback.id)
        )
        return gone.first() is not None


def counts(records: Records, key_id: str) -> dict[str, int]:
    """Return the number of rows of each kind."""
    with records.reading() as session:
        query = (
            select(Feedback.kind, func.count())
            .where(Feedback.key_id == key_id)
            .group_by(Feedback.kind)
        )
        return {row[0]: row[1] for row in session.execute(query)}


def export(records: Records, key_id: str, shape: Shape) -> Iterator[str]:
    """Yield lines of JSON, in the order in which the feedback came."""
    kinds = ("thumb",) if shape == "thumbs" else ("edit", "vote")
    last = (0, "")
    while True:
        with records.reading() as session:
            later = (Feedback.created > last[0]) | (
                (Feedback.created == last[0]) & (Feedback.id > last[1])
            )
            query = (
                select(Feedback)
                .where(
                    Feedback.key_id == key_id,
                    Feedback.kind.in_(kinds),
                    Feedback.label.is_not(None) | (Feedback.kind == "edit"),
                    later,
                )
                .order_by(Feedback.created, Feedback.id)
                .limit(BATCH)
            )
            rows = list(session.scalars(query))
        if not rows:
            return
        last = (rows[-1].created, rows[-1].id)
        for row in rows:
            yield json.dumps(_example(row, shape), ensure_ascii=False) + "\n"


def _example(row: Feedback, shape: Shape) -> dict[str, Any]:
    prompt = _prompt(row.messages)
    if shape == "thumbs":
        return {"prompt": prompt, "completion": row.chosen, "label": row.label}
    return {"prompt": prompt, "chosen": row.chosen, "rejected": row.rejected}


def _prompt(messages: Sequence[Mapping[str, Any]]) -> Any:
    """Return a single question as a text, from which models without a chat template can
    learn too; a longer conversation as its messages.
    """
    if len(messages) == 1 and messages[0]["role"] == "user":
        return messages[0]["content"]
    return list(messages)
