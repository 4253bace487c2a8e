"""/v1/completions: texts to go on with, as they stand, in OpenAI's shapes. A model that
was trained here begins a document with them. With a suffix, a model that was trained to
fills in between the two, as editors ask for.
"""

from __future__ import annotations

import asyncio
import codecs
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from fastapi import APIRouter, Response
from fastapi.responses import JSONResponse

from miaobi.core.artifacts import TokenLogprob
from miaobi.core.engine import Chunk
from miaobi.core.requests import TextRequest
from miaobi.engines.model import Model
from miaobi.serve.admission import Slot
from miaobi.serve.callers import CurrentCaller
from miaobi.serve.services import Serving
from miaobi.serve.text.events import Events, streamed
from miaobi.serve.text.exchange import Answer, Exchange, Put, whole
from miaobi.serve.text.fields import Completion, within

router = APIRouter(prefix="/v1/completions", tags=["text"])
BATCH = ("/v1/completions",)
LENGTH = 16
"""Tokens of an answer by default: OpenAI's number."""


@router.post(
    "",
    response_model=None,
    responses=streamed("The texts, or their pieces with stream: true."),
)
async def create(
    fields: Completion, services: Serving, caller: CurrentCaller
) -> Response:
    """Go on with a text, or with several.

    echo with logprobs scores the prompts as well, and max_tokens 0 only them.
    """
    limits = services.settings.limits
    prompts = fields.prompts(limits)
    controls = fields.controls(limits)
    length = LENGTH if fields.max_tokens is None else fields.max_tokens
    within("max_tokens", length, limits.max_tokens)
    controls["max_new_tokens"] = max(1, length)
    if fields.logprobs is not None:
        controls["logprobs"] = fields.logprobs
    if fields.suffix:
        controls["suffix"] = fields.suffix

    def ask(model: Model) -> Sequence[TextRequest]:
        # A model that answers in a form of its own, a label, is asked no length.
        own = {
            name: value
            for name, value in controls.items()
            if name != "max_new_tokens"
            or fields.max_tokens is not None
            or name in model.engine.abilities.controls
        }
        return [_request(model, prompt, own) for prompt in prompts]

    exchange = Scoring(
        services,
        caller,
        fields.model,
        ask,
        "cmpl",
        echo=bool(fields.echo),
        top_count=fields.logprobs,
        generates=length > 0,
    )
    count = fields.answers * len(prompts)
    if fields.stream:
        return Events(
            exchange,
            TextEvents(exchange, count),
            fields.includes_usage,
            fields.includes_usage_so_far,
        )
    answers = await whole(exchange, count)
    return JSONResponse(
        {
            **exchange.head,
            "object": "text_completion",
            "choices": [
                choice(index, exchange.echoes.get(index, ""), answer, fields.logprobs)
                for index, answer in enumerate(answers)
            ],
            "usage": exchange.usage,
            "miaobi": exchange.label,
        }
    )


def _request(
    model: Model, prompt: str | list[int], controls: Mapping[str, Any]
) -> TextRequest:
    request: TextRequest
    if isinstance(prompt, list):
        request = model.request(prompt_ids=tuple(prompt), **controls)
    elif model.chats:
        request = model.request(prompt, raw=True, **controls)
    else:
        request = model.request(prompt, **controls)
    return request


@dataclass
class Scoring(Exchange):
    """An exchange that may say the prompts again, with each token's log-probability."""

    echo: bool = False
    top_count: int | None = None
    """How many likely tokens to name beside each; None for no log-probabilities."""
    generates: bool = True
    """Whether anything follows the prompts."""
    echoes: dict[int, str] = field(default_factory=dict)
    """The prompt before each answer."""

    async def _answer(
        self, request: TextRequest, first: int, slot: Slot, put: Put
    ) -> None:
        assert self.model is not None
        indices = range(first, first + request.n)
        if self.echo:
            echo = self._echo_of(self.model, request)
            self.echoes |= dict.fromkeys(indices, echo)
        if self.echo and self.top_count is not None:
            entries = await self._score(self.model, request, self.top_count)
            for index in indices:
                put(Chunk(index, logprobs=tuple(entries)))
        if self.generates:
            await super()._answer(request, first, slot, put)
            return
        tokens = len(await asyncio.to_thread(self.model.tokenizer.tokenize, request))
        slot.add("prompt_tokens", tokens)
        self.prompt_tokens += tokens
        for index in indices:
            put(Chunk(index, finish="length"))

    async def _score(
        self, model: Model, request: TextRequest, top_count: int
    ) -> list[TokenLogprob]:
        """Return the entries of a prompt's tokens."""
        ids = await asyncio.to_thread(model.tokenizer.tokenize, request)
        scorer = await asyncio.to_thread(model.scorer)
        return await asyncio.to_thread(scorer.score, ids, top_count)

    def _echo_of(self, model: Model, request: TextRequest) -> str:
        if request.prompt_ids is not None:
            return model.tokenizer.detokenize(request.prompt_ids)
        # A model that was trained here begins a document with a token of its own.
        return (request.prompt or "").removeprefix(model.bos_token)


def choice(
    index: int, echo: str, answer: Answer, logprobs: int | None
) -> dict[str, Any]:
    return {
        "index": index,
        "text": echo + answer.text,
        "logprobs": None if logprobs is None else Logprobs(echo).push(answer.logprobs),
        "finish_reason": answer.finish,
    }


class Logprobs:
    """Log-probabilities in OpenAI's parallel lists, and where each token begins.

    Args:
        echo: what is said again of the prompt.
    """

    def __init__(self, echo: str) -> None:
        self._echo = echo
        self._at = 0
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def push(self, entries: Sequence[TokenLogprob]) -> dict[str, Any]:
        """Return the lists of the next tokens."""
        offsets = list[int]()
        for item in entries:
            offsets.append(self._at)
            is_first = math.isnan(item.logprob)
            # The first may be a token that the tokenizer put there.
            if not is_first or self._echo.encode().startswith(item.bytes):
                self._at += len(self._decoder.decode(item.bytes))
        return {
            "tokens": [spelled(item) for item in entries],
            "token_logprobs": [finite(item) for item in entries],
            "text_offset": offsets,
            "top_logprobs": [top_logprobs(item) for item in entries],
        }


def spelled(item: TokenLogprob) -> str:
    """Return a token as OpenAI spells it: a part of a character as bytes:\\xe6."""
    if item.part is None:
        return item.token
    return "bytes:" + "".join(f"\\x{byte:02x}" for byte in item.part)


def finite(item: TokenLogprob) -> float | None:
    """Return a log-probability as JSON has it; None for a text's first token."""
    return None if math.isnan(item.logprob) else max(item.logprob, -9999.0)


def top_logprobs(item: TokenLogprob) -> dict[str, float | None] | None:
    """Return the likeliest tokens, with the token itself; None for a text's first."""
    if math.isnan(item.logprob):
        return None
    values = dict[str, float | None]()
    for other in (*item.top_logprobs, item):
        values.setdefault(spelled(other), finite(other))
    return values


class TextEvents:
    """The pieces of `count` answers, with the prompts before them where they are to be
    echoed; see text/events.py.
    """

    object = "text_completion"
    plain = ('{"index":', ',"text":', ',"logprobs":null,"finish_reason":null}')

    def __init__(self, exchange: Scoring, count: int) -> None:
        self._exchange = exchange
        self._logprobs = dict[int, Logprobs]()
        self._begun = [not exchange.echo] * count

    def quick(self, chunk: Chunk) -> bool:
        begun = self._begun[chunk.index]
        return begun and chunk.finish is None and not chunk.logprobs

    def begin(self) -> Iterable[dict[str, Any]]:
        return []

    def choices(self, chunk: Chunk) -> Iterable[dict[str, Any]]:
        index = chunk.index
        echo = self._exchange.echoes.get(index, "")
        logprobs = None
        if chunk.logprobs:
            lists = self._logprobs.setdefault(index, Logprobs(echo))
            logprobs = lists.push(chunk.logprobs)
        text = chunk.text if self._begun[index] else echo + chunk.text
        self._begun[index] = True
        yield {
            "index": index,
            "text": text,
            "logprobs": logprobs,
            "finish_reason": chunk.finish,
        }
