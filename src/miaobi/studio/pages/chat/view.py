"""What the page shows: gathered once for a request, and filled into the templates."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from starlette.responses import HTMLResponse

from miaobi.core.language import say
from miaobi.serve.records import Conversation
from miaobi.studio.pages.chat.answers import Answer, Answers, answers_of
from miaobi.studio.pages.chat.entries import Entry, Reply, by_day, entries_of
from miaobi.studio.pages.chat.sheet import Sheet
from miaobi.studio.pages.chat.talkers import (
    Talker,
    context_length,
    preset,
    talkers,
)
from miaobi.studio.pages.chat.tree import branch
from miaobi.studio.visit import Visit

ORIGIN = "studio"
PAGE = 50
"""Conversations of the list that are shown at once."""


@dataclass(frozen=True)
class Past:
    """Conversations of the list."""

    rows: Sequence[Conversation]
    """One more than PAGE where there is more."""
    current: str = ""
    """The id of the one that is looked at."""
    query: str = ""
    """What they were searched for."""

    @property
    def days(self) -> list[tuple[str, list[Conversation]]]:
        """They under "Today" and so on."""
        return by_day(self.rows[:PAGE])

    @property
    def last(self) -> str:
        """The id of the last one, where there is more after it."""
        return self.rows[PAGE - 1].id if len(self.rows) > PAGE else ""


@dataclass
class View:
    visit: Visit
    conversation: Conversation | None
    turns: list[Entry]
    talkers: Sequence[Talker]
    talker: Talker | None
    """That answers next."""
    context_length: int | None
    sheet: Sheet
    past: Past
    writing: Sequence[Answer] = ()
    """Answers of this conversation that are being written."""
    fault: str = ""
    """What is wrong with the message that was to be sent."""

    @property
    def title(self) -> str:
        return self.conversation.title if self.conversation else say("Chat", "对话")

    @property
    def stores(self) -> bool:
        return self.visit.services.conversations.kept

    @property
    def days(self) -> float:
        """That the operator keeps conversations; 0 for without end."""
        return self.visit.services.conversations.days

    @property
    def last(self) -> Reply | None:
        return self.turns[-1].reply if self.turns else None

    @property
    def parent(self) -> str:
        """The turn that a new message follows."""
        return self.turns[-1].id if self.turns else ""

    @property
    def left(self) -> str:
        """The tokens of the context that are left."""
        used = self.last.details.get("total_tokens") if self.last else None
        length = self.context_length
        if length is None:
            return ""
        if used is None:
            return say(f"{length:,} tokens of context", f"上下文 {length:,} 个词元")
        left = max(0, length - used)
        return say(f"{left:,} of {length:,} left", f"剩余 {left:,} / {length:,}")

    @property
    def pace(self) -> str:
        """The line under the composer: speed and what is left."""
        speed = self.last.speed if self.last else ""
        return " · ".join(filter(None, (speed, self.left)))

    def at(self, **query: str | None) -> str:
        """Return an address of this conversation."""
        return self.to(self.conversation, **query)

    def to(self, conversation: Conversation | None, **query: str | None) -> str:
        """Return an address of a conversation, or of a new one."""
        path = f"chat/{conversation.id}" if conversation else "chat"
        return self.visit.address(path, **query)

    def do(self, action: str, turn: str = "") -> str:
        """Return where something is done to this conversation, or to a turn of it."""
        parts = [part for part in (self._id, turn, action) if part]
        return self.visit.address("/".join(["chat", *parts]))

    @property
    def _id(self) -> str:
        return self.conversation.id if self.conversation else ""

    def asks(self, name: str, turn: str) -> bool:
        """Whether the address asks for this turn to be edited, worded, ..."""
        return self.visit.query.get(name) == turn


async def view_of(
    visit: Visit,
    conversation_id: str | None,
    turn_id: str | None,
    sheet: Sheet | None = None,
) -> View:
    """Gather what the page shows.

    Args:
        visit: of the person
        conversation_id: which conversation; None for a new one
        turn_id: through which turn; None for the branch that was used last
        sheet: settings as they are typed; by default those of the conversation

    Raises NotFound.
    """
    answers = answers_of(visit)
    key_id = visit.caller.key_id
    models = await talkers(visit)
    conversation, entries, writing = None, list[Entry](), dict[str, Answer]()
    if conversation_id is not None:
        conversation, turns, writing = await answers.read(key_id, conversation_id)
        entries = entries_of(branch(turns, turn_id), writing.get)
    await asyncio.to_thread(_render, entries)
    last = entries[-1].reply if entries else None
    talker = preset(visit, models, last.model if last else None)
    length = await context_length(visit, talker.name) if talker else None
    return View(
        visit,
        conversation,
        entries,
        models,
        talker,
        length,
        sheet or sheet_of(conversation, last),
        Past(await asyncio.to_thread(past, answers, key_id), conversation_id or ""),
        list(writing.values()),
    )


def _render(entries: Sequence[Entry]) -> None:
    """Render what is not rendered yet. It may take a while, so in a thread."""
    for entry in entries:
        _ = entry.reply.blocks


def past(
    answers: Answers, key_id: str, query: str = "", after: str | None = None
) -> list[Conversation]:
    """Return the conversations of the list. It blocks."""
    return answers.conversations.listed(
        key_id, origin=ORIGIN, query=query, after=after, limit=PAGE
    )


def sheet_of(conversation: Conversation | None, last: Reply | None = None) -> Sheet:
    """Return the settings of a conversation, with what the last answer blamed."""
    notes: dict[str, Any] = conversation.notes if conversation else {}
    sheet = Sheet.of(notes.get("settings", {}))
    if last and last.error:
        sheet.blame(last.error["param"], last.error["message"])
    return sheet


def page(
    visit: Visit, view: View, headers: dict[str, str] | None = None, status: int = 200
) -> HTMLResponse:
    """Answer with the page, or with its main part where that is asked for."""
    template = "chat/part.html" if visit.is_partial else "chat/page.html"
    answer = visit.html(template, status, view=view)
    answer.headers.update(headers or {})
    return answer
