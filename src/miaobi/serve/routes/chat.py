"""/v1/chat/completions: a conversation to answer, in OpenAI's shapes, whole or as it comes.

Beyond OpenAI's fields it takes vLLM's (top_k, min_p, typical_p, repetition_penalty,
min_tokens). What is generated carries the label, as `miaobi` beside OpenAI's own
fields.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from fastapi import APIRouter, Response
from fastapi.responses import JSONResponse

from miaobi.core.engine import Chunk
from miaobi.core.requests import TextRequest
from miaobi.engines.model import Model
from miaobi.serve.callers import CurrentCaller
from miaobi.serve.services import Serving
from miaobi.serve.text.conversation import controls_of, request_of
from miaobi.serve.text.events import Events, streamed
from miaobi.serve.text.exchange import Answer, Exchange, whole
from miaobi.serve.text.fields import Chat
from miaobi.serve.text.logprobs import logprobs_of
from miaobi.serve.text.pieces import Pieces
from miaobi.serve.text.tools import Kit, kit_of

router = APIRouter(prefix="/v1/chat", tags=["text"])
BATCH = ("/v1/chat/completions",)


@router.post(
    "/completions",
    response_model=None,
    responses=streamed("The answer, or its pieces with stream: true."),
)
async def create(fields: Chat, services: Serving, caller: CurrentCaller) -> Response:
    """Answer a conversation."""
    limits = services.settings.limits
    kit = kit_of(fields, limits)
    controls = controls_of(fields, limits)

    def ask(model: Model) -> Sequence[TextRequest]:
        return [request_of(model, fields, kit, controls, limits)]

    exchange = Exchange(services, caller, fields.model, ask, "chatcmpl")
    only_one = fields.parallel_tool_calls is False
    if fields.stream:
        return Events(
            exchange,
            ChatEvents(fields.answers, kit, only_one, fields.top_count is not None),
            fields.includes_usage,
            fields.includes_usage_so_far,
        )
    answers = await whole(exchange, fields.answers)
    choices = [
        choice(index, answer, kit, only_one, fields.top_count is not None)
        for index, answer in enumerate(answers)
    ]
    return JSONResponse(
        {
            **exchange.head,
            "object": "chat.completion",
            "choices": choices,
            "usage": exchange.usage,
            "miaobi": exchange.label,
        }
    )


def choice(
    index: int, answer: Answer, kit: Kit, only_one: bool, logprobs: bool
) -> dict[str, Any]:
    chunk = Chunk(text=answer.text, finish=answer.finish)
    piece = Pieces(kit, only_one).read(chunk)
    message: dict[str, Any] = {
        "role": "assistant",
        "content": piece.text if piece.text or not piece.calls else None,
        "refusal": None,
    }
    if piece.calls:
        message["tool_calls"] = [call.body for call in piece.calls]
    return {
        "index": index,
        "message": message,
        "logprobs": logprobs_of(answer.logprobs) if logprobs else None,
        "finish_reason": reason(answer.finish, piece.calls),
    }


def reason(finish: str, calls: object) -> str:
    return "tool_calls" if calls and finish == "stop" else finish


class ChatEvents:
    """The pieces of `count` answers; see text/events.py."""

    object = "chat.completion.chunk"
    plain = (
        '{"index":',
        ',"delta":{"content":',
        '},"logprobs":null,"finish_reason":null}',
    )

    def __init__(self, count: int, kit: Kit, only_one: bool, logprobs: bool) -> None:
        self.count = count
        self.logprobs = logprobs
        self.pieces = [Pieces(kit, only_one) for _ in range(count)]
        self.has_tools = bool(kit.tools)

    def quick(self, chunk: Chunk) -> bool:
        return chunk.finish is None and not chunk.logprobs and not self.has_tools

    def begin(self) -> Iterable[dict[str, Any]]:
        return [
            self._choice(index, {"role": "assistant", "content": ""})
            for index in range(self.count)
        ]

    def choices(self, chunk: Chunk) -> Iterable[dict[str, Any]]:
        logprobs = (
            logprobs_of(chunk.logprobs) if self.logprobs and chunk.logprobs else None
        )
        if not self.has_tools:
            yield self._choice(
                chunk.index,
                {"content": chunk.text} if chunk.text or logprobs else {},
                logprobs,
                chunk.finish,
            )
            return
        pieces = self.pieces[chunk.index]
        before = pieces.called
        piece = pieces.read(chunk)
        if piece.text or logprobs:
            yield self._choice(chunk.index, {"content": piece.text}, logprobs)
        if piece.calls:
            yield self._choice(
                chunk.index,
                {
                    "tool_calls": [
                        {"index": before + position, **call.body}
                        for position, call in enumerate(piece.calls)
                    ]
                },
            )
        if chunk.finish:
            yield self._choice(
                chunk.index, {}, None, reason(chunk.finish, pieces.called)
            )

    def _choice(
        self,
        index: int,
        delta: dict[str, Any],
        logprobs: dict[str, Any] | None = None,
        finish: str | None = None,
    ) -> dict[str, Any]:
        return {
            "index": index,
            "delta": delta,
            "logprobs": logprobs,
            "finish_reason": finish,
        }
