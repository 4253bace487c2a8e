"""/v1/completions: texts to go on with, as they stand, in OpenAI's shapes. A model that
was trained here begins a document with them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from fastapi import APIRouter, Response
from fastapi.responses import JSONResponse

from miaobi.core.artifacts import TokenLogprob
from miaobi.core.engine import Chunk
from miaobi.core.requests import TextRequest
from miaobi.engines.model import Model
from miaobi.serve.callers import CurrentCaller
from miaobi.serve.services import Serving
from miaobi.serve.text.events import Events
from miaobi.serve.text.exchange import Answer, Exchange, whole
from miaobi.serve.text.fields import Completion, within

router = APIRouter(prefix="/v1/completions", tags=["text"])
BATCH = ("/v1/completions",)
LENGTH = 16
"""Tokens of an answer by default: OpenAI's number."""
STREAM: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "The texts, or their pieces with stream: true.",
        "content": {
            "application/json": {"schema": {"type": "object"}},
            "text/event-stream": {},
        },
    }
}


@router.post("", response_model=None, responses=STREAM)
async def create(
    fields: Completion, services: Serving, caller: CurrentCaller
) -> Response:
    """Go on with a text, or with several."""
    limits = services.settings.limits
    prompts = fields.prompts(limits)
    controls = fields.controls(limits)
    controls["max_new_tokens"] = (
        LENGTH if fields.max_tokens is None else fields.max_tokens
    )
    within("max_tokens", controls["max_new_tokens"], limits.max_tokens)
    if fields.logprobs is not None:
        controls["logprobs"] = fields.logprobs

    def ask(model: Model) -> Sequence[TextRequest]:
        raw = {"raw": True} if model.chats else {}
        # A model that answers in a form of its own, a label, is asked no length.
        own = {
            name: value
            for name, value in controls.items()
            if name != "max_new_tokens"
            or fields.max_tokens is not None
            or name in model.engine.abilities.controls
        }
        return [model.request(prompt, **raw, **own) for prompt in prompts]

    exchange = Exchange(services, caller, fields.model, ask, "cmpl")
    echoes = prompts if fields.echo else [""] * len(prompts)
    if fields.stream:
        return Events(
            exchange, TextEvents(fields.answers, echoes), fields.includes_usage
        )
    answers = await whole(exchange, fields.answers * len(prompts))
    choices = [
        choice(
            index, echoes[index // fields.answers], answer, fields.logprobs is not None
        )
        for index, answer in enumerate(answers)
    ]
    return JSONResponse(
        {
            **exchange.head,
            "object": "text_completion",
            "choices": choices,
            "usage": exchange.usage,
            "miaobi": exchange.label,
        }
    )


def choice(index: int, echo: str, answer: Answer, logprobs: bool) -> dict[str, Any]:
    return {
        "index": index,
        "text": echo + answer.text,
        "logprobs": logprobs_of(answer.logprobs, 0) if logprobs else None,
        "finish_reason": answer.finish,
    }


def logprobs_of(logprobs: Sequence[TokenLogprob], start: int) -> dict[str, Any]:
    """OpenAI's parallel lists; `start` is where in the answer the first token begins."""
    offsets = list[int]()
    at = start
    for item in logprobs:
        offsets.append(at)
        at += len(item.token)
    return {
        "tokens": [item.token for item in logprobs],
        "token_logprobs": [max(item.logprob, -9999.0) for item in logprobs],
        "text_offset": offsets,
        "top_logprobs": [
            {token: max(value, -9999.0) for token, value in item.top_logprobs}
            for item in logprobs
        ],
    }


class TextEvents:
    """The pieces of `count` answers to each prompt, with the prompts before them where
    they are to be echoed; see text/events.py.
    """

    object = "text_completion"
    plain = ('{"index":', ',"text":', ',"logprobs":null,"finish_reason":null}')

    def __init__(self, count: int, echoes: Sequence[str]) -> None:
        self.echoes = [echo for echo in echoes for _ in range(count)]
        self._at = [0] * len(self.echoes)

    def quick(self, chunk: Chunk) -> bool:
        return chunk.finish is None and not chunk.logprobs

    def begin(self) -> Iterable[dict[str, Any]]:
        return [
            {"index": index, "text": echo, "logprobs": None, "finish_reason": None}
            for index, echo in enumerate(self.echoes)
        ]

    def choices(self, chunk: Chunk) -> Iterable[dict[str, Any]]:
        logprobs = None
        if chunk.logprobs:
            logprobs = logprobs_of(chunk.logprobs, self._at[chunk.index])
            self._at[chunk.index] += sum(len(item.token) for item in chunk.logprobs)
        yield {
            "index": chunk.index,
            "text": chunk.text,
            "logprobs": logprobs,
            "finish_reason": chunk.finish,
        }
