"""An answer that ends while the page is being gathered."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any, cast

from miaobi.serve.records import Turn
from miaobi.serve.responses.items import input_text
from miaobi.studio.pages.chat.answers import Answers
from miaobi.studio.pages.chat.asking import Question, message_item
from miaobi.studio.pages.chat.entries import Reply
from miaobi.studio.pages.chat.unkept import unkept
from miaobi.studio.visit import Refused, Visit

KEY = "key-1"


class Asked:
    """A visit whose question is refused as soon as that is wanted."""

    def __init__(self) -> None:
        self.caller = SimpleNamespace(key_id=KEY)
        self.refuse = asyncio.Event()

    @asynccontextmanager
    async def events(
        self, path: str, body: Mapping[str, Any]
    ) -> AsyncIterator[AsyncIterator[Mapping[str, Any]]]:
        await self.refuse.wait()
        raise Refused(503, "The model broke.", "engine_error", None)
        yield


async def read_while_it_ends() -> Reply:
    """Return an answer that breaks after its turn was read, and before the reader looks
    whether it is being written.
    """
    conversations = unkept()
    answers, visit = Answers(conversations), Asked()
    turn = conversations.add(
        KEY, [message_item([input_text("call it")])], details={"status": "running"}
    )
    question = Question("/v1/chat/completions", {"model": "talker"})
    answers.begin(cast(Visit, visit), turn, question, is_code=False)
    loop, read = asyncio.get_running_loop(), conversations.turns

    async def end() -> None:
        visit.refuse.set()
        while answers.within(KEY, turn.conversation_id):
            await asyncio.sleep(0.01)

    def turns(key_id: str, conversation_id: str) -> list[Turn]:
        found = read(key_id, conversation_id)
        asyncio.run_coroutine_threadsafe(end(), loop).result(20)
        return found

    conversations.turns = turns  # type: ignore[method-assign]
    _, found, writing = await answers.read(KEY, turn.conversation_id)
    return Reply(found[0], writing.get(turn.id))


def test_an_answer_that_ends_while_it_is_read_was_not_interrupted() -> None:
    reply = asyncio.run(read_while_it_ends())
    assert reply.ending == ""
    assert reply.running is not None and reply.running.details["error"]
