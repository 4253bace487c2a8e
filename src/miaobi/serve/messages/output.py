"""The answer of /v1/messages: its blocks as they grow, the events that say so, the
message that it is in the end; and its errors.

A streamed answer and a whole one are built by the same steps.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from miaobi.core.engine import Chunk
from miaobi.engines.text.streaming import StopText
from miaobi.serve.errors import ApiError
from miaobi.serve.messages.blocks import CLIENT_NAMES
from miaobi.serve.text.dialect import renamed
from miaobi.serve.text.events import EventStream, dumped
from miaobi.serve.text.exchange import Exchange
from miaobi.serve.text.pieces import Pieces
from miaobi.serve.text.tools import Call

Event = dict[str, Any]
STOP_REASONS = {
    "stop": "end_turn",
    "length": "max_tokens",
    "content_filter": "refusal",
    "cancelled": "pause_turn",
}
ERROR_TYPES = {413: "request_too_large", 409: "invalid_request_error"}
"""Where Anthropic has another word than OpenAI."""


class Refused(ApiError):
    """An error in Anthropic's shape, with OpenAI's param and code beside it."""

    @property
    def body(self) -> dict[str, Any]:
        error = super().body["error"]
        kind = ERROR_TYPES.get(self.status, error["type"])
        if kind in ("server_error", "not_implemented_error"):
            kind = "api_error"
        return {"type": "error", "error": {**error, "type": kind}}


def refused(error: ApiError) -> Refused:
    """Return the error in the words and the shape of this dialect."""
    same = renamed(error, CLIENT_NAMES)
    return Refused(
        same.status,
        same.message,
        code=same.code,
        param=same.param,
        retry_after=same.retry_after,
        headers=same.headers,
    )


class Output:
    """The blocks of one answer. `push` takes what the model wrote, and returns the
    events of it.
    """

    def __init__(
        self, exchange: Exchange, pieces: Pieces, stops: Sequence[str]
    ) -> None:
        """Args:
        exchange: that makes the answer.
        pieces: reads the calls.
        stops: texts before which the answer ends. Not every engine says which of them
            came, so they are looked for here.
        """
        self.exchange = exchange
        self.stop = StopText(stops)
        self.blocks = list[dict[str, Any]]()
        self.stop_reason: str | None = None
        self._pieces = pieces
        self._texts = list[str]()
        self._is_writing = False

    def push(self, chunk: Chunk) -> list[Event]:
        if self.stop_reason is not None:
            return []
        piece = self._pieces.read(self._cut(chunk))
        events = list[Event]()
        if piece.text:
            if not self._is_writing:
                events.append(self._start({"type": "text", "text": ""}))
                self._is_writing = True
            self._texts.append(piece.text)
            events.append(self._delta({"type": "text_delta", "text": piece.text}))
        for call in piece.calls:
            events += self._end_text()
            events += self._call(call)
        if piece.finish:
            events += self._end_text()
            self.exchange.is_whole = self.stop.stopped
            self.stop_reason = STOP_REASONS[piece.finish]
            called = any(block["type"] == "tool_use" for block in self.blocks)
            if self.stop.stopped:
                self.stop_reason = "stop_sequence"
            elif called and piece.finish == "stop":
                self.stop_reason = "tool_use"
        return events

    def _cut(self, chunk: Chunk) -> Chunk:
        """Return what stands before a stop; with it the answer ends."""
        text = self.stop.push(chunk.text)
        if self.stop.stopped:
            return replace(chunk, text=text, finish="stop")
        if chunk.finish:
            text += self.stop.flush()
        return replace(chunk, text=text)

    def _end_text(self) -> list[Event]:
        if not self._is_writing:
            return []
        self.blocks[-1]["text"] = "".join(self._texts)
        self._texts = []
        self._is_writing = False
        return [self._stop()]

    def _call(self, call: Call) -> list[Event]:
        block = {"type": "tool_use", "id": call.id, "name": call.name, "input": {}}
        events = [
            self._start(block),
            self._delta({"type": "input_json_delta", "partial_json": call.arguments}),
            self._stop(),
        ]
        block["input"] = input_of(call)
        return events

    def _start(self, block: dict[str, Any]) -> Event:
        self.blocks.append(block)
        return {
            "type": "content_block_start",
            "index": len(self.blocks) - 1,
            "content_block": dict(block),
        }

    def _delta(self, delta: Mapping[str, Any]) -> Event:
        return {
            "type": "content_block_delta",
            "index": len(self.blocks) - 1,
            "delta": delta,
        }

    def _stop(self) -> Event:
        return {"type": "content_block_stop", "index": len(self.blocks) - 1}


def input_of(call: Call) -> dict[str, Any]:
    """Return the arguments of a call as an object. What a model wrote instead of one is
    its only field.
    """
    try:
        value = json.loads(call.arguments)
    except ValueError:
        value = call.arguments
    return value if isinstance(value, dict) else {"arguments": value}


def message_of(output: Output) -> dict[str, Any]:
    """Return the message as it stands now."""
    exchange = output.exchange
    return {
        "id": exchange.id.replace("-", "_"),
        "type": "message",
        "role": "assistant",
        "model": exchange.name,
        "content": output.blocks,
        "stop_reason": output.stop_reason,
        "stop_sequence": output.stop.stopped_by,
        "usage": _usage(exchange),
        "miaobi": exchange.label,
    }


def _usage(exchange: Exchange) -> dict[str, int]:
    return {
        "input_tokens": exchange.prompt_tokens,
        "output_tokens": exchange.completion_tokens,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": 0,
    }


class MessageEvents(EventStream):
    def __init__(self, output: Output) -> None:
        super().__init__(output.exchange)
        self.output = output

    def begin(self) -> bytes:
        message = message_of(self.output)
        return _events([{"type": "message_start", "message": message}])

    def pieces(self, chunks: list[Chunk]) -> bytes:
        return b"".join(_events(self.output.push(chunk)) for chunk in chunks)

    async def end(self) -> bytes:
        delta = {
            "stop_reason": self.output.stop_reason,
            "stop_sequence": self.output.stop.stopped_by,
        }
        usage = _usage(self.exchange)
        return _events(
            [
                {"type": "message_delta", "delta": delta, "usage": usage},
                {"type": "message_stop"},
            ]
        )

    def failed(self, error: ApiError) -> bytes:
        return _events([refused(error).body])

    def refused(self, error: ApiError) -> ApiError:
        return refused(error)


def _events(events: Iterable[Event]) -> bytes:
    return b"".join(
        f"event: {event['type']}\n".encode() + b"data: " + dumped(event) + b"\n\n"
        for event in events
    )
