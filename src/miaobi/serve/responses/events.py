"""The events of /v1/responses: each has a type and a number, and the last one comes
when the turn is stored, so that it can be gone on with at once.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable

from miaobi.core.engine import Chunk
from miaobi.serve.errors import ApiError
from miaobi.serve.responses.items import CLIENT_NAMES
from miaobi.serve.responses.output import Answer, Event
from miaobi.serve.text.dialect import renamed
from miaobi.serve.text.events import EventStream, dumped


class ResponseEvents(EventStream):
    def __init__(self, answer: Answer, keep: Callable[[], Awaitable[None]]) -> None:
        """Args:
        answer: that is to be made.
        keep: stores it, once it is whole.
        """
        super().__init__(answer.exchange)
        self.answer = answer
        self.keep = keep
        self._number = 0

    def begin(self) -> bytes:
        response = self.answer.body()
        return self._numbered(
            {"type": f"response.{step}", "response": response}
            for step in ("created", "in_progress")
        )

    def pieces(self, chunks: list[Chunk]) -> bytes:
        return b"".join(
            self._numbered(self.answer.output.push(chunk)) for chunk in chunks
        )

    async def end(self) -> bytes:
        response = self.answer.body()
        await self.keep()
        kind = f"response.{response['status']}"
        return self._numbered([{"type": kind, "response": response}])

    def failed(self, error: ApiError) -> bytes:
        response = self.answer.body(renamed(error, CLIENT_NAMES))
        return self._numbered([{"type": "response.failed", "response": response}])

    def refused(self, error: ApiError) -> ApiError:
        return renamed(error, CLIENT_NAMES)

    def _numbered(self, events: Iterable[Event]) -> bytes:
        parts = list[bytes]()
        for event in events:
            data = dumped({**event, "sequence_number": self._number})
            parts.append(f"event: {event['type']}\n".encode() + b"data: " + data)
            self._number += 1
        return b"".join(part + b"\n\n" for part in parts)
