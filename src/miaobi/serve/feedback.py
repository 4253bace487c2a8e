"""What people thought of answers: thumbs, edits and blind votes, each its key's own,
and the tuning set they make together.

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
    """Newest first; one more than `limit` where there are more."""
    with records.reading() as session:
        query = select(Feedback).where(Feedback.key_id == key_id)
        last = session.get(Feedback, after) if after else None
        if last is not None:
            query = query.where(
                (Feedback.created < last.created)
                | ((Feedback.created == last.created) & (Feedback.id < last.id))
            )
        return list(
            session.scalars(
                query.order_by(Feedback.created.desc(), Feedback.id.desc()).limit(
                    limit + 1
                )
            )
        )


def remove(records: Records, key_id: str, id: str) -> bool:
    """Whether it was there, and this key's."""
    with records.session() as session:
        gone = session.execute(
            delete(Feedback)
            .where(Feedback.id == id, Feedback.key_id == key_id)
            .returning(Feedback.id)
        )
        return gone.first() is not None


def counts(records: Records, key_id: str) -> dict[str, int]:
    """How much of each kind."""
    with records.reading() as session:
        query = (
            select(Feedback.kind, func.count())
            .where(Feedback.key_id == key_id)
            .group_by(Feedback.kind)
        )
        return {row[0]: row[1] for row in session.execute(query)}


def export(records: Records, key_id: str, shape: Shape) -> Iterator[str]:
    """Lines of JSON in the order they were given."""
    kinds, last = ("thumb",) if shape == "thumbs" else ("edit", "vote"), (0, "")
    while True:
        with records.reading() as session:
            later = (Feedback.created > last[0]) | (
                (Feedback.created == last[0]) & (Feedback.id > last[1])
            )
            rows = list(
                session.scalars(
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
            )
        if not rows:
            return
        last = (rows[-1].created, rows[-1].id)
        for row in rows:
            yield json.dumps(_example(row, shape), ensure_ascii=False) + "\n"


def _example(row: Feedback, shape: Shape) -> dict[str, Any]:
    prompt = _prompt(row.messages)
    return (
        {"prompt": prompt, "completion": row.chosen, "label": row.label}
        if shape == "thumbs"
        else {"prompt": prompt, "chosen": row.chosen, "rejected": row.rejected}
    )


def _prompt(messages: Sequence[Mapping[str, Any]]) -> Any:
    """A lone question as a text, which models without a chat template can learn from too."""
    return (
        messages[0]["content"]
        if len(messages) == 1 and messages[0]["role"] == "user"
        else list(messages)
    )
