"""An answer as it is written, to one reader.

    answer    everything so far; the first event of each connection
    said      blocks that are finished since the last event, to be added
    tail      the block that is being written, to be put in
    done      the answer as it stands in the end, with what changes around it
    end       closes the stream

A reader whose connection broke begins anew, with everything. The stream ends without
`end` where the server stops; the reader comes back.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import suppress

from starlette.responses import Response, StreamingResponse

from miaobi.core.errors import NotFound
from miaobi.studio.pages.chat.answers import Answer, answers_of, looks
from miaobi.studio.pages.chat.view import view_of
from miaobi.studio.visit import Visit

PACE = 1.0
"""Seconds between two figures of the speed."""


async def follow(visit: Visit) -> Response:
    answers, key_id = answers_of(visit), visit.caller.key_id
    turn = await asyncio.to_thread(
        answers.conversations.turn, key_id, visit.path["turn"]
    )
    answer = answers.of(key_id, turn.id)
    return StreamingResponse(
        _events(visit, answer),
        media_type="text/event-stream",
        headers={"cache-control": "no-cache", "x-accel-buffering": "no"},
    )


async def _events(visit: Visit, answer: Answer | None) -> AsyncIterator[str]:
    if answer is not None:
        async for event in _growing(visit, answer):
            yield event
        if not answer.is_done:
            return
    with suppress(NotFound):  # deleted meanwhile
        view = await view_of(visit, visit.path["conversation"], visit.path["turn"])
        entry = next(item for item in view.turns if item.id == visit.path["turn"])
        yield _event("done", visit.text("chat/done.html", view=view, entry=entry))
    yield _event("end", "")


async def _growing(visit: Visit, answer: Answer) -> AsyncIterator[str]:
    view = await view_of(visit, answer.conversation_id, answer.id)
    reply = next(item.reply for item in view.turns if item.id == answer.id)
    sent, tail = len(answer.blocks), answer.tail
    yield _event("answer", visit.text("chat/text.html", view=view, reply=reply))
    paced = time.monotonic()
    async for _ in looks(answer, visit):
        if len(answer.blocks) > sent:
            yield _event("said", "".join(answer.blocks[sent:]))
            sent = len(answer.blocks)
        pace = ""
        if time.monotonic() - paced > PACE:
            paced = time.monotonic()
            pace = visit.text("chat/pace.html", view=view, is_late=True)
        if answer.tail != tail or pace:
            tail = answer.tail
            yield _event("tail", tail + pace)
        else:
            yield ": still here\n\n"


def _event(name: str, content: str) -> str:
    data = "".join(f"data: {part}\n" for part in content.split("\n"))
    return f"event: {name}\n{data}\n"
