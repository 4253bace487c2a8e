"""Server-sent events: the chunks of an answer as they come.

The answer is made by a task of its own and handed over in handfuls: whatever came while
the last handful was being sent leaves as one, so a client that reads slowly holds up
neither the model nor its slot. Errors before the first event are answered as any
other; after it, as an event. The task that sends is cancelled when the client leaves
(bodies.py), and takes the other with it.
"""

from __future__ import annotations

import asyncio
import json
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Callable, Iterable
from contextlib import aclosing
from json.encoder import encode_basestring
from typing import Any, Protocol

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from miaobi.core.engine import Chunk
from miaobi.serve.errors import ApiError, from_exception
from miaobi.serve.text.exchange import Exchange

HEADERS = (
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),
)


def streamed(description: str) -> dict[int | str, dict[str, Any]]:
    """Return what the API's description says of an answer that is whole or streamed."""
    content: dict[str, Any] = {
        "application/json": {"schema": {"type": "object"}},
        "text/event-stream": {},
    }
    return {200: {"description": description, "content": content}}


class Shape(Protocol):
    """What an endpoint's events look like. Choices are OpenAI's, without what `Events`
    puts around them.
    """

    object: str
    plain: tuple[str, str, str]
    """A choice with nothing but text, in JSON, cut where its index and its text stand."""

    def begin(self) -> Iterable[dict[str, Any]]: ...

    def choices(self, chunk: Chunk) -> Iterable[dict[str, Any]]: ...

    def quick(self, chunk: Chunk) -> bool:
        """Whether the chunk is text and nothing else, to be sent as it is."""
        ...


class EventStream(Response, ABC):
    """What all dialects have in common: one answer, sent while it is made."""

    def __init__(self, exchange: Exchange) -> None:
        super().__init__()
        self.exchange = exchange

    @abstractmethod
    def begin(self) -> bytes:
        """The events before the first piece; the model is opened by now."""

    @abstractmethod
    def pieces(self, chunks: list[Chunk]) -> bytes:
        """The events of what came since the last time."""

    @abstractmethod
    async def end(self) -> bytes:
        """The events after the last piece."""

    @abstractmethod
    def failed(self, error: ApiError) -> bytes:
        """The events of an error after the first piece."""

    def refused(self, error: ApiError) -> ApiError:
        """An error before the first event, as it is answered."""
        return error

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        begun = False
        request_id = scope.get("state", {}).get("request_id", "-")
        async with aclosing(handfuls(self.exchange.run)) as coming:
            try:
                async for chunks in coming:
                    first = b""
                    if not begun:
                        first = self.begin()
                        await send(
                            {
                                "type": "http.response.start",
                                "status": 200,
                                "headers": list(HEADERS),
                            }
                        )
                    begun = True
                    await send(
                        {
                            "type": "http.response.body",
                            "body": first + self.pieces(chunks),
                            "more_body": True,
                        }
                    )
                last = await self.end()
            except Exception as error:
                answer = from_exception(error, request_id)
                if not begun:
                    raise self.refused(answer) from None
                last = self.failed(answer)
        await send({"type": "http.response.body", "body": last, "more_body": False})


class Events(EventStream):
    """Choices in OpenAI's shape."""

    def __init__(
        self,
        exchange: Exchange,
        shape: Shape,
        usage: bool,
        usage_so_far: bool = False,
    ) -> None:
        """Args:
        exchange: that makes the answer.
        shape: of the events.
        usage: whether the last event says what was used.
        usage_so_far: whether each event does.
        """
        super().__init__(exchange)
        self.shape = shape
        self.usage = usage
        self.usage_so_far = usage_so_far

    def begin(self) -> bytes:
        """The first events carry the label."""
        self._prepare()
        label = f',"miaobi":{dumped(self.exchange.label).decode()}'
        return "".join(
            self._event(choice, label) for choice in self.shape.begin()
        ).encode()

    def failed(self, error: ApiError) -> bytes:
        return b"data: " + dumped(error.body) + b"\n\n"

    def _prepare(self) -> None:
        """The parts that all events of this answer share."""
        head = dumped({**self.exchange.head, "object": self.shape.object})[:-1].decode()
        self._before = f'data: {head},"choices":['

    @property
    def _end(self) -> str:
        """The end of an event."""
        if not self.usage:
            return "}\n\n"
        used = dumped(self.exchange.usage).decode() if self.usage_so_far else "null"
        return f',"usage":{used}}}\n\n'

    def _event(self, choice: dict[str, Any], label: str = "") -> str:
        return f"{self._before}{dumped(choice).decode()}]{label}{self._end}"

    def pieces(self, chunks: list[Chunk]) -> bytes:
        parts = list[str]()
        before_index, before_text, after_text = self.shape.plain
        end = self._end
        for chunk in chunks:
            if self.shape.quick(chunk):
                parts.append(
                    f"{self._before}{before_index}{chunk.index}{before_text}"
                    f"{encode_basestring(chunk.text)}{after_text}]{end}"
                )
            else:
                parts += [self._event(choice) for choice in self.shape.choices(chunk)]
        return unbroken("".join(parts)).encode("utf-8", "replace")

    async def end(self) -> bytes:
        done = b"data: [DONE]\n\n"
        if not self.usage:
            return done
        return (
            b"data: "
            + dumped(
                {
                    **self.exchange.head,
                    "object": self.shape.object,
                    "choices": [],
                    "usage": self.exchange.usage,
                }
            )
            + b"\n\n"
            + done
        )


def dumped(value: Any) -> bytes:
    return unbroken(
        json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    ).encode("utf-8", "replace")


def unbroken(text: str) -> str:
    """The same JSON without the characters that some clients take for the end of a
    line, and so of an event.
    """
    return (
        text.replace("\x85", "\\u0085")
        .replace("\u2028", "\\u2028")
        .replace("\u2029", "\\u2029")
    )


async def handfuls(
    work: Callable[[Callable[[Chunk], None]], Any],
) -> AsyncGenerator[list[Chunk], None]:
    """What `work(put)` puts, as lists of all that came since the last. Raises what it
    raises; leaving early cancels it.
    """
    waiting = list[Chunk]()
    news = asyncio.Event()

    def put(chunk: Chunk) -> None:
        waiting.append(chunk)
        news.set()

    making = asyncio.ensure_future(work(put))
    making.add_done_callback(lambda _: news.set())
    try:
        while True:
            await news.wait()
            news.clear()
            if waiting:
                batch = waiting.copy()
                waiting.clear()
                yield batch
                if making.done():
                    news.set()
            elif making.done():
                making.result()
                return
    finally:
        if not making.done():
            making.cancel()
            await asyncio.gather(making, return_exceptions=True)
