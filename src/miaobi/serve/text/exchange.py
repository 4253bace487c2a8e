"""One request to a model that writes, from its slot in the queue to its last token.

`run(put)` holds a slot and the model while the answers are made, passes every chunk to
`put`, and counts. Several prompts run at the same time; the answers of prompt p
are numbered p n to p n + n - 1.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from typing import Any, cast

from miaobi.core.artifacts import FinishReason, TokenLogprob
from miaobi.core.engine import Chunk
from miaobi.core.requests import TextRequest
from miaobi.engines.model import Model
from miaobi.provenance.label import NOTICE
from miaobi.serve.admission import Slot
from miaobi.serve.callers import Caller
from miaobi.serve.records import now
from miaobi.serve.services import Services

Put = Callable[[Chunk], None]


@dataclass
class Exchange:
    """One HTTP request on its way to a model and back.

    `ask(model)` returns the requests for the opened model, all with the same n, and
    raises what is wrong with them.
    """

    services: Services
    caller: Caller
    name: str
    ask: Callable[[Model], Sequence[TextRequest]]
    prefix: str
    """Of the answer's id: "chatcmpl"."""
    id: str = ""
    created: int = field(default_factory=now)
    model: Model | None = None
    seed: int | None = None
    prompt_tokens: int = 0
    completion_tokens: int = 0
    is_whole: bool = False
    """Set by whoever takes the chunks, once it wants no more of them."""

    def __post_init__(self) -> None:
        self.id = f"{self.prefix}-{secrets.token_hex(12)}"

    async def run(self, put: Put) -> None:
        """Make all answers. Raises ApiError and MiaobiError."""
        async with (
            self.services.admission.slot(self.caller, self.name) as slot,
            self.services.pool.lease(self.name) as model,
        ):
            requests = self.ask(model)
            self.model = model
            self.seed = requests[0].seed
            if len(requests) == 1:
                await self._answer(requests[0], 0, slot, put)
            else:
                await self._answers(requests, slot, put)

    async def _answers(
        self, requests: Sequence[TextRequest], slot: Slot, put: Put
    ) -> None:
        """Several at the same time; when one fails, the others are left."""
        making = [
            asyncio.ensure_future(self._answer(request, at * request.n, slot, put))
            for at, request in enumerate(requests)
        ]
        try:
            await asyncio.gather(*making)
        finally:
            for task in making:
                task.cancel()
            await asyncio.gather(*making, return_exceptions=True)

    async def _answer(
        self, request: TextRequest, first: int, slot: Slot, put: Put
    ) -> None:
        assert self.model is not None
        async with aclosing(cast(Any, self.model.engine.generate(request))) as chunks:
            async for chunk in chunks:
                if chunk.prompt_tokens:
                    slot.add("prompt_tokens", chunk.prompt_tokens)
                    self.prompt_tokens += chunk.prompt_tokens
                if chunk.tokens:
                    slot.add("completion_tokens", chunk.tokens)
                    self.completion_tokens += chunk.tokens
                if chunk.text or chunk.finish or chunk.logprobs:
                    put(replace(chunk, index=chunk.index + first) if first else chunk)
                if self.is_whole:
                    return

    @property
    def usage(self) -> dict[str, int]:
        return {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.completion_tokens,
            "total_tokens": self.prompt_tokens + self.completion_tokens,
        }

    @property
    def head(self) -> dict[str, Any]:
        """What stands in every object of this answer. The fingerprint says which
        version of the model answered.
        """
        assert self.model is not None
        return {
            "id": self.id,
            "created": self.created,
            "model": self.name,
            "system_fingerprint": f"{self.model.weights.label}:{self.model.engine_name}",
        }

    @property
    def label(self) -> dict[str, Any]:
        """How the answer came to be, and that a machine wrote it."""
        assert self.model is not None
        return {
            "notice": NOTICE,
            "model": self.model.weights.label,
            "engine": self.model.engine_name,
            "seed": self.seed,
        }


@dataclass
class Answer:
    """One whole answer."""

    text: str = ""
    finish: FinishReason = "cancelled"
    logprobs: list[TokenLogprob] = field(default_factory=list)


async def whole(exchange: Exchange, count: int) -> list[Answer]:
    """All answers, when the last of them has ended."""
    texts = [list[str]() for _ in range(count)]
    answers = [Answer() for _ in range(count)]

    def put(chunk: Chunk) -> None:
        texts[chunk.index].append(chunk.text)
        answers[chunk.index].logprobs.extend(chunk.logprobs)
        answers[chunk.index].finish = chunk.finish or answers[chunk.index].finish

    await exchange.run(put)
    for answer, pieces in zip(answers, texts, strict=True):
        answer.text = "".join(pieces)
    return answers
