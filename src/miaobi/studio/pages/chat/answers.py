"""Answers that are being written: each by a task of the server, whoever reads along.

A browser that leaves, reloads or opens a second tab changes nothing: the answer goes on,
and is stored while it grows and at its end. Stopping ends the task, and keeps what was
written.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import suppress
from typing import Any
from weakref import WeakKeyDictionary

from fastapi import FastAPI

from miaobi.core.errors import MiaobiError
from miaobi.serve.conversations import Conversations
from miaobi.serve.errors import ApiError, from_exception
from miaobi.serve.records import Conversation, Turn
from miaobi.studio.pages.chat.asking import Question, answer_items, text_of
from miaobi.studio.pages.chat.markdown import Growing, code
from miaobi.studio.pages.chat.unkept import unkept
from miaobi.studio.visit import Refused, Visit

PACE = 0.1
"""Seconds between two looks at an answer, at least."""
SHARE = 10
"""The time between two looks is so many times what rendering took: a long block is
looked at more seldom, and rendering takes at most a tenth of the server.
"""
SAVED = 2.0
"""Seconds between two savings of what was written."""
HEARTBEAT = 10.0
"""Seconds after which a reader hears that the stream is alive."""


class Answer:
    """An answer that is being written, or was until a moment ago."""

    def __init__(
        self,
        visit: Visit,
        conversations: Conversations,
        turn: Turn,
        question: Question,
        is_code: bool,
    ) -> None:
        """Args:
        visit: of the person who asked; the API is called in their name
        conversations: where the turn is stored
        turn: that is answered; what it holds of an answer is gone on with
        question: what is asked
        is_code: whether the answer is JSON, and no Markdown
        """
        self.key_id = visit.caller.key_id
        self.id = turn.id
        self.conversation_id = turn.conversation_id
        self.model = str(question.body["model"])
        self.text = text_of(turn)
        self.details = dict(turn.details)
        self.is_done = False
        self.version = 0
        """Grows with each look."""
        self.blocks = list[str]()
        """The HTML of what is finished, block by block, as of the last look."""
        self.tail = ""
        """The HTML of what is being written."""
        self._visit = visit
        self._conversations = conversations
        self._question = question
        self._is_code = is_code
        self._growing = Growing()
        self._calls = list[Mapping[str, Any]]()
        self._tokens_before = int(self.details.get("tokens", 0))
        self._seconds_before = float(self.details.get("seconds", 0.0))
        self._began: float | None = None
        self._wrote = asyncio.Event()
        self._ended = asyncio.Event()
        self._looked = asyncio.Condition()
        self._writer = asyncio.create_task(self._write())
        self._task = asyncio.create_task(self._run())

    # For readers.

    async def news(self, seen: int) -> int:
        """Return the number of a look that is newer than `seen`, once there is one; the
        same number after a while without news.
        """
        async with self._looked:
            with suppress(TimeoutError):
                async with asyncio.timeout(PACE * SHARE):
                    await self._looked.wait_for(
                        lambda: self.version > seen or self.is_done
                    )
        return self.version

    async def stop(self) -> None:
        """End the answer where it is, and wait until that is stored."""
        self._writer.cancel()
        await asyncio.wait({self._task})

    # The task.

    async def _run(self) -> None:
        looking = asyncio.create_task(self._look())
        self.details |= {"status": "running", "error": None, "finish": None}
        status = "done"
        try:
            await self._writer
        except asyncio.CancelledError:
            status = "stopped"
        except Exception as error:
            status = "failed"
            self.details["error"] = _as_noted(error, self._visit)
        self._ended.set()
        self._wrote.set()
        await looking
        self.details["status"] = status
        try:
            await self._save()
        except Exception as error:
            # The conversation was deleted meanwhile, or the disk is full.
            self.details |= {"status": "failed", "error": _as_noted(error, self._visit)}
        self.is_done = True
        await self._announce()

    async def _write(self) -> None:
        question = self._question
        async with self._visit.events(question.path, question.body) as events:
            async for event in events:
                self._take(event)

    def _take(self, event: Mapping[str, Any]) -> None:
        label = event.get("miaobi")
        if label is not None:
            self.details |= {"seed": label["seed"], "version": label["model"]}
        for choice in event.get("choices", ()):
            delta = choice.get("delta", {})
            text = choice.get("text") or delta.get("content") or ""
            if text and self._began is None:
                self._began = time.monotonic()
            self.text += text
            self._calls += delta.get("tool_calls", ())
            if choice["finish_reason"]:
                self.details["finish"] = choice["finish_reason"]
        used = event.get("usage")
        if used:
            self.details["tokens"] = self._tokens_before + used["completion_tokens"]
            self.details["total_tokens"] = used["total_tokens"]
        if self._began is not None:
            seconds = time.monotonic() - self._began
            self.details["seconds"] = round(self._seconds_before + seconds, 3)
        self._wrote.set()

    async def _look(self) -> None:
        """Render what was written and tell the readers, again and again."""
        saved = time.monotonic()
        while not self._ended.is_set():
            await self._wrote.wait()
            self._wrote.clear()
            began = time.monotonic()
            await self._render()
            cost = time.monotonic() - began
            await self._announce()
            if time.monotonic() - saved > SAVED:
                with suppress(MiaobiError):  # said at the end, if it is so then
                    await self._save()
                saved = time.monotonic()
            with suppress(TimeoutError):
                async with asyncio.timeout(max(PACE, SHARE * cost)):
                    await self._ended.wait()

    async def _render(self) -> None:
        """Render what was written, in a thread: others' answers do not wait for it."""
        if self._is_code:
            self.tail = code(self.text)
            return
        await asyncio.to_thread(self._growing.update, self.text)
        self.blocks = self._growing.blocks.copy()
        self.tail = self._growing.tail

    async def _announce(self) -> None:
        async with self._looked:
            self.version += 1
            self._looked.notify_all()

    async def _save(self) -> None:
        output = answer_items(self.text, self._calls)
        if not self.text and not self._calls:
            output = []
        await asyncio.to_thread(
            self._conversations.answer,
            self.key_id,
            self.id,
            output,
            self.model,
            dict(self.details),
        )


class Answers:
    """The answers of one server that are being written, and where conversations are."""

    def __init__(self, conversations: Conversations) -> None:
        self.conversations = conversations
        self._by_turn = dict[str, Answer]()

    def begin(
        self, visit: Visit, turn: Turn, question: Question, is_code: bool
    ) -> Answer:
        """Begin to write the answer of a turn."""
        self._forget()
        answer = Answer(visit, self.conversations, turn, question, is_code)
        self._by_turn[turn.id] = answer
        return answer

    def of(self, key_id: str, turn_id: str) -> Answer | None:
        """Return the answer that is being written for a turn of this key."""
        answer = self._by_turn.get(turn_id)
        if answer is None or answer.is_done or answer.key_id != key_id:
            return None
        return answer

    async def read(
        self, key_id: str, conversation_id: str
    ) -> tuple[Conversation, list[Turn], dict[str, Answer]]:
        """Return a conversation of this key, its turns, and the answers that are being
        written, by the ids of their turns. One that ends while the turns are read is
        among them: they are from before its end. Raise NotFound.
        """
        before = self.within(key_id, conversation_id)
        conversation, turns = await asyncio.to_thread(
            self._stored, key_id, conversation_id
        )
        writing = [*before, *self.within(key_id, conversation_id)]
        return conversation, turns, {answer.id: answer for answer in writing}

    def _stored(
        self, key_id: str, conversation_id: str
    ) -> tuple[Conversation, list[Turn]]:
        return (
            self.conversations.find(key_id, conversation_id),
            self.conversations.turns(key_id, conversation_id),
        )

    def within(self, key_id: str, conversation_id: str) -> list[Answer]:
        """Return those of one conversation of this key."""
        return [
            answer
            for answer in self._by_turn.values()
            if not answer.is_done
            and (answer.key_id, answer.conversation_id) == (key_id, conversation_id)
        ]

    def _forget(self) -> None:
        for turn_id, answer in list(self._by_turn.items()):
            if answer.is_done:
                del self._by_turn[turn_id]


_of_app = WeakKeyDictionary[FastAPI, Answers]()


def answers_of(visit: Visit) -> Answers:
    """Return the answers of the server that is visited."""
    if visit.app not in _of_app:
        stored = visit.services.conversations
        _of_app[visit.app] = Answers(stored if stored.kept else unkept())
    return _of_app[visit.app]


async def looks(answer: Answer, visit: Visit) -> AsyncIterator[int]:
    """Yield at each look at an answer until it is done, the server stops, or the reader
    leaves; the same number again where nothing is new.
    """
    seen = answer.version
    yield seen
    while not answer.is_done and not visit.services.admission.draining:
        seen = await answer.news(seen)
        yield seen


def _as_noted(error: Exception, visit: Visit) -> dict[str, Any]:
    """Return an error as a turn's details keep it."""
    if isinstance(error, Refused):
        return {
            "message": error.message,
            "code": error.code,
            "param": error.param,
            "status": error.status,
        }
    answer: ApiError = from_exception(error, visit.request.state.request_id)
    return {
        "message": answer.message,
        "code": answer.code,
        "param": answer.param,
        "status": answer.status,
    }
