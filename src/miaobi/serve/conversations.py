"""Conversations that are kept: one table for all parts of miaobi that hold them.

A conversation belongs to a key and is a tree of turns: a turn is what was said to the
model and what it answered, and turns with the same parent are branches. The items of a
turn have the shape that /v1/responses gives them (responses/items.py).

Knows nothing of HTTP or models. Every call names the key whose conversations it is
about: others' are as if they were not. All of them block; call them in a thread. What
was not used for the operator's retention is not found any more, and `sweep`
(periodic/conversations.py) deletes it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from sqlalchemy import Select, and_, delete, func, or_, select, update
from sqlalchemy.orm import Session

from miaobi.core.errors import BadInput, NotFound, Unsupported
from miaobi.core.language import say
from miaobi.serve.database import Records
from miaobi.serve.records import Conversation, Turn, new_id, now

DAY = 86_400
TITLE_LENGTH = 200
PAGE = 100
Items = Sequence[Mapping[str, Any]]
ROLES = {
    "user": ("User", "用户"),
    "assistant": ("Assistant", "助手"),
    "system": ("System", "系统"),
    "developer": ("System", "系统"),
}


class Conversations:
    def __init__(self, records: Records, kept: bool = True, days: float = 30) -> None:
        """Args:
        records: the database.
        kept: whether new turns may be stored.
        days: without a new turn, after which a conversation goes; 0 for never.
        """
        self.records = records
        self.kept = kept
        self.days = days

    # Turns.

    def add(
        self,
        key_id: str,
        input: Items,
        output: Items = (),
        *,
        parent_id: str | None = None,
        conversation_id: str | None = None,
        id: str | None = None,
        model: str | None = None,
        details: Mapping[str, Any] | None = None,
        origin: str = "responses",
    ) -> Turn:
        """Store a turn after `parent_id`; without one, at the beginning of
        `conversation_id`, or of a new conversation.

        Args:
            key_id: whose conversation it is
            input: items that were said to the model
            output: items that it answered
            parent_id: the turn before
            conversation_id: a conversation of this key; follows from parent_id
            id: of the new turn
            model: that answered
            details: how it was answered, as JSON
            origin: of a new conversation

        Raises NotFound for the turn or conversation of another key, Unsupported where
        the operator has switched storing off.
        """
        self.demand_storing()
        text = "\n".join(texts_of([*input, *output]))
        with self.records.session() as session:
            if parent_id is not None:
                parent = self._locked_turn(session, key_id, parent_id)
                conversation_id = parent.conversation_id
            if conversation_id is None:
                conversation = _conversation(key_id, origin, title_of(input))
                session.add(conversation)
                session.flush()
            else:
                conversation = self._conversation(session, key_id, conversation_id)
                conversation.updated = now()
                if not conversation.title:
                    _name(conversation, title_of(input))
            turn = Turn(
                id=id or new_id("turn", "_"),
                conversation_id=conversation.id,
                number=_next_number(session, conversation.id),
                parent_id=parent_id,
                model=model,
                input=list(input),
                output=list(output),
                details=dict(details or {}),
                folded_text=folded(text),
            )
            session.add(turn)
        return turn

    def turn(self, key_id: str, id: str) -> Turn:
        """Return a turn. Raise NotFound."""
        with self.records.reading() as session:
            return self._turn(session, key_id, id)

    def path(self, key_id: str, id: str) -> list[Turn]:
        """Return the turns from the first to this one. Raise NotFound."""
        with self.records.reading() as session:
            last = self._turn(session, key_id, id)
            return path_to(last, _turns(session, last.conversation_id))

    def answer(
        self,
        key_id: str,
        id: str,
        output: Items,
        model: str | None = None,
        details: Mapping[str, Any] | None = None,
    ) -> Turn:
        """Replace what was answered, as when a person answers later, or while an answer
        is written; and how it was answered, where `details` are given. Raise NotFound.
        """
        with self.records.session() as session:
            turn = self._turn(session, key_id, id)
            turn.output = list(output)
            turn.model = model
            if details is not None:
                turn.details = dict(details)
            text = "\n".join(texts_of([*turn.input, *output]))
            turn.folded_text = folded(text)
            self._conversation(session, key_id, turn.conversation_id).updated = now()
        return turn

    def delete_turn(self, key_id: str, id: str) -> None:
        """Delete a turn; those after it follow the one before it. A conversation goes
        with its last turn. Raise NotFound.
        """
        with self.records.session() as session:
            turn = self._locked_turn(session, key_id, id)
            session.execute(
                update(Turn)
                .where(
                    Turn.conversation_id == turn.conversation_id, Turn.parent_id == id
                )
                .values(parent_id=turn.parent_id)
            )
            session.delete(turn)
            session.flush()
            of_conversation = Turn.conversation_id == turn.conversation_id
            if session.scalar(select(Turn.id).where(of_conversation).limit(1)) is None:
                _delete(session, Conversation.id == turn.conversation_id)

    # Conversations.

    def start(
        self,
        key_id: str,
        origin: str,
        title: str = "",
        notes: Mapping[str, Any] | None = None,
    ) -> Conversation:
        """Store an empty conversation; without a title, its first turn gives it one.
        Raise Unsupported where storing is switched off.
        """
        self.demand_storing()
        with self.records.session() as session:
            conversation = _conversation(key_id, origin, title, notes)
            session.add(conversation)
        return conversation

    def find(self, key_id: str, id: str) -> Conversation:
        """Return a conversation. Raise NotFound."""
        with self.records.reading() as session:
            return self._conversation(session, key_id, id)

    def turns(self, key_id: str, id: str) -> list[Turn]:
        """Return all turns of a conversation, in the order in which they were stored:
        the tree by their parent_id. Raise NotFound.
        """
        with self.records.reading() as session:
            self._conversation(session, key_id, id)
            return _turns(session, id)

    def listed(
        self,
        key_id: str,
        *,
        origin: str | None = None,
        query: str = "",
        after: str | None = None,
        limit: int = PAGE,
    ) -> list[Conversation]:
        """Return conversations, the one used last first; one more than `limit` if there
        is more.

        Args:
            key_id: whose
            origin: only those held there
            query: only those with this in their title or in a turn
            after: the id of the last one of the page before
            limit: of one page
        """
        rows = self._living(key_id)
        if origin is not None:
            rows = rows.where(Conversation.origin == origin)
        if query:
            wanted = folded(query)
            in_turn = select(Turn.conversation_id).where(
                Turn.folded_text.contains(wanted, autoescape=True)
            )
            in_title = Conversation.folded_title.contains(wanted, autoescape=True)
            rows = rows.where(or_(in_title, Conversation.id.in_(in_turn)))
        with self.records.reading() as session:
            if after is not None:
                last = self._conversation(session, key_id, after)
                rows = rows.where(
                    (Conversation.updated < last.updated)
                    | (
                        (Conversation.updated == last.updated)
                        & (Conversation.id < last.id)
                    )
                )
            newest_first = rows.order_by(
                Conversation.updated.desc(), Conversation.id.desc()
            )
            return list(session.scalars(newest_first.limit(limit + 1)))

    def note(self, key_id: str, id: str, notes: Mapping[str, Any]) -> Conversation:
        """Replace the notes of a conversation. Raise NotFound."""
        with self.records.session() as session:
            conversation = self._conversation(session, key_id, id)
            conversation.notes = dict(notes)
        return conversation

    def rename(self, key_id: str, id: str, title: str) -> Conversation:
        """Give a conversation another title. Raise NotFound, BadInput for an empty one."""
        if not title.strip():
            raise BadInput(
                say("The title is empty.", "标题为空。"),
                say("Give it a few words.", "请写几个字。"),
            )
        with self.records.session() as session:
            conversation = self._conversation(session, key_id, id)
            _name(conversation, title)
        return conversation

    def fork(self, key_id: str, turn_id: str, title: str = "") -> Conversation:
        """Store a conversation of its own that has gone as far as this turn. Raise
        NotFound, or Unsupported where storing is switched off.
        """
        self.demand_storing()
        with self.records.session() as session:
            last = self._turn(session, key_id, turn_id)
            origin = self._conversation(session, key_id, last.conversation_id)
            copy = _conversation(
                key_id, origin.origin, title or origin.title, origin.notes
            )
            session.add(copy)
            session.flush()
            parent_id: str | None = None
            path = path_to(last, _turns(session, origin.id))
            for number, turn in enumerate(path, 1):
                copied = Turn(
                    id=new_id("turn", "_"),
                    conversation_id=copy.id,
                    number=number,
                    parent_id=parent_id,
                    model=turn.model,
                    input=turn.input,
                    output=turn.output,
                    details=turn.details,
                    folded_text=turn.folded_text,
                    created=turn.created,
                )
                session.add(copied)
                parent_id = copied.id
        return copy

    def delete(self, key_id: str, id: str) -> None:
        """Delete a conversation with its turns. Raise NotFound."""
        with self.records.session() as session:
            self._conversation(session, key_id, id)
            _delete(session, Conversation.id == id)

    def delete_all(self, key_id: str, origin: str | None = None) -> int:
        """Delete everything of this key, or what was held in one part of miaobi; return
        how many conversations that were.
        """
        which = [Conversation.key_id == key_id]
        if origin is not None:
            which.append(Conversation.origin == origin)
        with self.records.session() as session:
            return _delete(session, and_(*which))

    def as_json(self, key_id: str, id: str) -> dict[str, Any]:
        """Return a conversation with all its branches, as JSON. Raise NotFound."""
        conversation = self.find(key_id, id)
        return {
            "object": "conversation",
            "id": conversation.id,
            "origin": conversation.origin,
            "title": conversation.title,
            "notes": conversation.notes,
            "created_at": conversation.created,
            "updated_at": conversation.updated,
            "turns": [
                {
                    "id": turn.id,
                    "parent_id": turn.parent_id,
                    "model": turn.model,
                    "created_at": turn.created,
                    "input": turn.input,
                    "output": turn.output,
                    "details": turn.details,
                }
                for turn in self.turns(key_id, id)
            ],
        }

    def as_markdown(self, key_id: str, id: str, turn_id: str | None = None) -> str:
        """Return one branch of a conversation for reading: up to `turn_id`, or up to the
        turn that was stored last. Raise NotFound.
        """
        conversation = self.find(key_id, id)
        turns = self.turns(key_id, id)
        if turn_id is not None and turn_id not in {turn.id for turn in turns}:
            raise missing_turn(turn_id)
        ends = [turn for turn in turns if turn_id in (None, turn.id)]
        branch = path_to(ends[-1], turns) if ends else []
        parts = [f"# {conversation.title}"]
        for turn in branch:
            for item in [*turn.input, *turn.output]:
                parts += _section(item, turn.model)
        return "\n\n".join(parts) + "\n"

    def sweep(self) -> int:
        """Delete what has not been used for longer than the retention; return how many
        conversations that were.
        """
        if not self.days:
            return 0
        with self.records.session() as session:
            return _delete(session, Conversation.updated < self._since())

    def demand_storing(self) -> None:
        """Raise Unsupported where the operator has switched storing off."""
        if self.kept:
            return
        raise Unsupported(
            say(
                "This server keeps no conversations.",
                "此服务器不保存对话。",
            ),
            say(
                "Send store: false and the whole conversation with each request.",
                "请设置 store: false，并在每次请求中发送完整对话。",
            ),
            field="store",
        )

    # Inside one transaction.

    def _since(self) -> int:
        return now() - int(self.days * DAY) if self.days else 0

    def _living(self, key_id: str) -> Select[Conversation]:
        return select(Conversation).where(
            Conversation.key_id == key_id, Conversation.updated >= self._since()
        )

    def _conversation(self, session: Session, key_id: str, id: str) -> Conversation:
        row = session.scalar(self._living(key_id).where(Conversation.id == id))
        if row is None:
            raise NotFound(
                say(
                    f"There is no conversation {id[:64]!r}.",
                    f"没有对话 {id[:64]!r}。",
                )
            )
        return row

    def _turn(self, session: Session, key_id: str, id: str) -> Turn:
        living = self._living(key_id).with_only_columns(Conversation.id)
        row = session.scalar(
            select(Turn).where(Turn.id == id, Turn.conversation_id.in_(living))
        )
        if row is None:
            raise missing_turn(id)
        return row

    def _locked_turn(self, session: Session, key_id: str, id: str) -> Turn:
        """Return a turn, which no other server deletes before this transaction ends."""
        turn = self._turn(session, key_id, id)
        owner = select(Conversation.id).where(Conversation.id == turn.conversation_id)
        session.execute(owner.with_for_update())
        if session.scalar(select(Turn.id).where(Turn.id == id)) is None:
            raise missing_turn(id)
        return turn


def missing_turn(id: str) -> NotFound:
    return NotFound(
        say(
            f"There is no turn {id[:64]!r}: it was not stored, or was deleted, or has expired.",
            f"没有轮次 {id[:64]!r}：未保存、已删除或已过期。",
        )
    )


def path_to(last: Turn, turns: Iterable[Turn]) -> list[Turn]:
    """Return the turns from the first to `last`, of all turns of its conversation."""
    by_id = {turn.id: turn for turn in turns}
    path = [last]
    while path[-1].parent_id is not None:
        path.append(by_id[path[-1].parent_id])
    return path[::-1]


def texts_of(items: Items) -> list[str]:
    """Return what is to be read in these items, in order."""
    texts = list[str]()
    for item in items:
        for part in item.get("content") or ():
            texts.append(part.get("text") or part.get("refusal") or "")
        texts += [item[name] for name in ("name", "arguments") if name in item]
        output = item.get("output", "")
        texts += (
            [output] if isinstance(output, str) else texts_of([{"content": output}])
        )
    return [text for text in texts if text]


def title_of(items: Items) -> str:
    """Return the beginning of the first message of a person."""
    for item in items:
        if item.get("role") == "user":
            return " ".join(" ".join(texts_of([item])).split())[:80]
    return ""


def folded(text: str) -> str:
    """Return the text as it is searched. PostgreSQL stores no NUL."""
    return text.casefold().replace("\x00", "")


def _conversation(
    key_id: str, origin: str, title: str, notes: Mapping[str, Any] | None = None
) -> Conversation:
    conversation = Conversation(
        id=new_id("conv", "_"), key_id=key_id, origin=origin, notes=dict(notes or {})
    )
    _name(conversation, title)
    return conversation


def _name(conversation: Conversation, title: str) -> None:
    conversation.title = title.strip().replace("\x00", "")[:TITLE_LENGTH]
    conversation.folded_title = folded(conversation.title)


def _turns(session: Session, conversation_id: str) -> list[Turn]:
    query = select(Turn).where(Turn.conversation_id == conversation_id)
    return list(session.scalars(query.order_by(Turn.number, Turn.id)))


def _next_number(session: Session, conversation_id: str) -> int:
    of_conversation = Turn.conversation_id == conversation_id
    last = session.scalar(select(func.max(Turn.number)).where(of_conversation))
    return (last or 0) + 1


def _delete(session: Session, which: Any) -> int:
    """Delete conversations; the database deletes their turns with them."""
    rows = session.execute(delete(Conversation).where(which).returning(Conversation.id))
    return len(rows.all())


def _section(item: Mapping[str, Any], model: str | None) -> list[str]:
    """Return a heading and the text of one item, in Markdown."""
    kind = item.get("type", "message")
    if kind == "message":
        english, chinese = ROLES[item["role"]]
        heading: str = say(english, chinese)
        if item["role"] == "assistant" and model:
            heading += f" ({model})"
        return [f"## {heading}", "\n\n".join(texts_of([item]))]
    if kind == "function_call":
        heading = say(f"Call of {item['name']}", f"调用 {item['name']}")
        return [f"## {heading}", f"```json\n{item['arguments']}\n```"]
    if kind == "function_call_output":
        heading = say("Result", "结果")
        output = item["output"]
        text = output if isinstance(output, str) else json.dumps(output)
        return [f"## {heading}", f"```\n{text}\n```"]
    return []
