"""The answer of /v1/responses: its items as they grow, the events that say so, and the
object that it is in the end.

A streamed answer and a whole one are built by the same steps; the latter keeps only
what they come to.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from miaobi.core.engine import Chunk
from miaobi.serve.errors import ApiError
from miaobi.serve.records import new_id, now
from miaobi.serve.responses.fields import ResponseFields
from miaobi.serve.responses.items import item_id, output_text
from miaobi.serve.text.exchange import Exchange
from miaobi.serve.text.fields import Closed
from miaobi.serve.text.logprobs import logprobs_of
from miaobi.serve.text.pieces import Pieces
from miaobi.serve.text.tools import Call

Event = dict[str, Any]
REASONS = {"length": "max_output_tokens", "content_filter": "content_filter"}
"""Why an answer is incomplete."""
ERRORS = {429: "rate_limit_exceeded", 400: "invalid_prompt"}
"""OpenAI's codes of a response that failed; any other is server_error."""


class Output:
    """The items of one answer. `push` takes what the model wrote, and returns the
    events of it.
    """

    def __init__(self, pieces: Pieces, fields: ResponseFields) -> None:
        self.items = list[dict[str, Any]]()
        self.finish: str | None = None
        self._pieces = pieces
        self._wants_logprobs = fields.wants_logprobs
        self._groups = fields.groups
        self._message: dict[str, Any] | None = None
        """The message that is being written; it is the last of the items."""
        self._texts = list[str]()

    def push(self, chunk: Chunk) -> list[Event]:
        piece = self._pieces.read(chunk)
        events = list[Event]()
        logprobs = list[dict[str, Any]]()
        if self._wants_logprobs:
            logprobs = logprobs_of(piece.logprobs)["content"]
        if piece.text or logprobs:
            events += self._write(piece.text, logprobs)
        for call in piece.calls:
            events += self._close("completed")
            events += self._call(call)
        if piece.finish:
            self.finish = piece.finish
            if not self.items:
                events += self._open()
            events += self._close(self.status)
        return events

    @property
    def status(self) -> str:
        """Of the whole answer."""
        return "completed" if self.finish == "stop" else "incomplete"

    def _write(self, text: str, logprobs: list[dict[str, Any]]) -> list[Event]:
        events = self._open() if self._message is None else []
        assert self._message is not None
        self._texts.append(text)
        self._message["content"][0]["logprobs"] += logprobs
        delta = {"delta": text, "logprobs": logprobs}
        return [*events, self._event("response.output_text.delta", delta)]

    def _open(self) -> list[Event]:
        self._message = {
            "id": item_id("msg"),
            "type": "message",
            "status": "in_progress",
            "role": "assistant",
            "content": [],
        }
        self.items.append(self._message)
        added = self._item_event("response.output_item.added", self._message)
        self._message["content"].append(output_text(""))
        part = {"part": output_text("")}
        return [added, self._event("response.content_part.added", part)]

    def _close(self, status: str) -> list[Event]:
        message = self._message
        if message is None:
            return []
        part = message["content"][0]
        part["text"] = "".join(self._texts)
        message["status"] = status
        done = {"text": part["text"], "logprobs": part["logprobs"]}
        events = [
            self._event("response.output_text.done", done),
            self._event("response.content_part.done", {"part": part}),
            self._item_event("response.output_item.done", message),
        ]
        self._message = None
        self._texts = []
        return events

    def _call(self, call: Call) -> list[Event]:
        item = {
            "id": item_id("fc"),
            "type": "function_call",
            "status": "in_progress",
            "call_id": call.id,
            "name": call.name,
            "arguments": "",
        }
        if call.name in self._groups:
            item["namespace"] = self._groups[call.name]
        self.items.append(item)
        added = self._item_event("response.output_item.added", item)
        item |= {"status": "completed", "arguments": call.arguments}
        at = {"item_id": item["id"], "output_index": len(self.items) - 1}
        kind = "response.function_call_arguments"
        return [
            added,
            {"type": f"{kind}.delta", **at, "delta": call.arguments},
            {"type": f"{kind}.done", **at, "arguments": call.arguments},
            self._item_event("response.output_item.done", item),
        ]

    def _event(self, kind: str, fields: Mapping[str, Any]) -> Event:
        """An event of the message that is being written."""
        assert self._message is not None
        return {
            "type": kind,
            "item_id": self._message["id"],
            "output_index": len(self.items) - 1,
            "content_index": 0,
            **fields,
        }

    def _item_event(self, kind: str, item: Mapping[str, Any]) -> Event:
        """An event of the last item, as it is at this moment."""
        copy = dict(item)
        if "content" in copy:
            copy["content"] = list(copy["content"])
        return {"type": kind, "output_index": len(self.items) - 1, "item": copy}


class Answer:
    """The response object: from its beginning to its end."""

    def __init__(
        self, fields: ResponseFields, exchange: Exchange, output: Output, stored: bool
    ) -> None:
        self.id = new_id("resp", "_")
        self.fields = fields
        self.exchange = exchange
        self.output = output
        self.stored = stored
        self.completed: int | None = None

    def body(self, error: ApiError | None = None) -> dict[str, Any]:
        """Return the object as it stands now; failed, with an error."""
        finish = self.output.finish
        status = "in_progress" if finish is None else self.output.status
        if error is not None:
            status = "failed"
        if status == "completed" and self.completed is None:
            self.completed = now()
        reason = REASONS.get(finish or "")
        return {
            "id": self.id,
            "object": "response",
            "created_at": self.exchange.created,
            "completed_at": self.completed,
            "status": status,
            "error": None if error is None else _failure(error),
            "incomplete_details": {"reason": reason} if reason else None,
            **_settings(self.fields),
            "store": self.stored,
            "output": self.output.items,
            "usage": None if finish is None else self.usage,
            "miaobi": self.exchange.label,
        }

    @property
    def usage(self) -> dict[str, Any]:
        used = self.exchange.usage
        return {
            "input_tokens": used["prompt_tokens"],
            "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
            "output_tokens": used["completion_tokens"],
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": used["total_tokens"],
        }


def _failure(error: ApiError) -> dict[str, Any]:
    return {
        "code": ERRORS.get(error.status, "server_error"),
        "message": error.message,
    }


def _settings(fields: ResponseFields) -> dict[str, Any]:
    """Return what was asked for, as every response repeats it."""
    text = (
        fields.text.model_dump(exclude_none=True, by_alias=True) if fields.text else {}
    )
    reasoning = fields.reasoning
    choice = fields.tool_choice or "auto"
    return {
        "model": fields.model,
        "previous_response_id": fields.previous_response_id,
        "instructions": fields.instructions,
        "background": False,
        "max_output_tokens": fields.max_output_tokens,
        "max_tool_calls": fields.max_tool_calls,
        "metadata": fields.metadata or {},
        "parallel_tool_calls": fields.parallel_tool_calls is not False,
        "prompt_cache_key": fields.prompt_cache_key,
        "reasoning": {
            "effort": reasoning.effort if reasoning else None,
            "summary": reasoning.summary if reasoning else None,
        },
        "safety_identifier": fields.safety_identifier,
        "service_tier": "default",
        "temperature": fields.temperature,
        "text": {"format": {"type": "text"}, **text},
        "tool_choice": choice.model_dump() if isinstance(choice, Closed) else choice,
        "tools": [tool.model_dump() for tool in fields.tools or ()],
        "top_logprobs": fields.top_logprobs or 0,
        "top_p": fields.top_p,
        "truncation": "disabled",
        "user": fields.user,
    }
