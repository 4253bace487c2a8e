"""Two engines for one model: one with low latency, one with high throughput.

llama.cpp answers a lone request sooner, OpenVINO many at a time (measured.json). The
second is opened when two requests first overlap, while the first goes on answering, and
takes part once it is open. As both round differently, one seed may give two texts: a
lone request is always answered by the first, so its answer can be repeated.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import aclosing
from typing import cast

from miaobi.core.engine import Abilities, Chunk, TextEngine, Tokenizes
from miaobi.core.errors import Unsupported
from miaobi.core.requests import Request, TextRequest

log = logging.getLogger("miaobi.engines")

GRACE_SECONDS = 0.005
"""How long a lone request waits for others: if the first of many began at once, the two
engines would share the cores until it ends.
"""


class Paired:
    """A text engine that gives each request to one of two.

    Args:
        low_latency: The engine for lone requests, open.
        open_throughput: Opens the engine for requests that overlap; called once, in a
            thread.
        throughput_abilities: What that engine will be able to do.
    """

    takes = TextRequest

    def __init__(
        self,
        low_latency: TextEngine,
        open_throughput: Callable[[], TextEngine],
        throughput_abilities: Abilities,
    ) -> None:
        self.low_latency = low_latency
        self._open_throughput = open_throughput
        self._throughput_controls = throughput_abilities.controls
        self.chats = low_latency.chats
        self.context_length = low_latency.context_length
        self.abilities = low_latency.abilities.joined(throughput_abilities)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="miaobi-paired")
        self._opening: Future[TextEngine] | None = None
        self._running = 0

    async def generate(self, request: Request) -> AsyncIterator[Chunk]:
        self._running += 1
        try:
            engine, substitute = await self._choose(request)
            started = False
            try:
                async with aclosing(_answer(engine, request)) as chunks:
                    async for chunk in chunks:
                        started = True
                        yield chunk
            except Unsupported:
                # An engine may refuse a control in some cases only.
                if started or substitute is None:
                    raise
                async with aclosing(_answer(substitute, request)) as chunks:
                    async for chunk in chunks:
                        yield chunk
        finally:
            self._running -= 1

    async def _choose(self, request: Request) -> tuple[TextEngine, TextEngine | None]:
        """Return the engine for this request, and the one to try where it refuses."""
        changed = request.changed()
        controls = set(changed)
        in_low_latency = self.low_latency.abilities.serves(changed)
        if not controls <= self._throughput_controls:
            return self.low_latency, None
        if self._running == 1 and request.n == 1 and in_low_latency:
            await asyncio.sleep(GRACE_SECONDS)
            if self._running == 1:
                return self.low_latency, None
        if self._opening is None:
            self._opening = self._thread.submit(self._open_throughput)
        if not in_low_latency:
            return await asyncio.wrap_future(self._opening), None
        if not self._opening.done():
            return self.low_latency, None
        error = self._opening.exception()
        if error is not None:
            log.warning("the engine for many requests could not be opened: %s", error)
            self._throughput_controls = frozenset()
            return self.low_latency, None
        return self._opening.result(), self.low_latency

    @property
    def bos_token(self) -> str | None:
        return cast(Tokenizes, self.low_latency).bos_token

    @property
    def eos_token(self) -> str | None:
        return cast(Tokenizes, self.low_latency).eos_token

    def tokenize(self, request: TextRequest, special: bool = True) -> list[int]:
        return cast(Tokenizes, self.low_latency).tokenize(request, special)

    def detokenize(self, ids: Sequence[int]) -> str:
        return cast(Tokenizes, self.low_latency).detokenize(ids)

    def close(self) -> None:
        self._thread.shutdown(wait=True)
        if self._opening is not None and self._opening.exception() is None:
            self._opening.result().close()
        self.low_latency.close()


def _answer(engine: TextEngine, request: Request) -> AsyncGenerator[Chunk, None]:
    """The engine's chunks, as a generator that can be closed early."""
    return cast(AsyncGenerator[Chunk, None], engine.generate(request))
