"""Two engines for one model: the one that is quickest alone, and the one that is
quickest in a crowd.

llama.cpp answers a lone request sooner, OpenVINO many at a time (measured.json). The
second is opened when two requests first meet, beside the answers that run, and takes
part once it is ready. As both round differently, one seed may give two texts: a lone
request is always answered by the first, so it is the same from one time to the next.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import aclosing
from typing import Any, cast

from miaobi.core.engine import Abilities, Chunk, TextEngine
from miaobi.core.errors import Unsupported
from miaobi.core.requests import Request

log = logging.getLogger("miaobi.engines")

GRACE_SECONDS = 0.005
"""How long a lone request waits for company: were the first of many to begin by itself,
the two engines would share the cores until it ends.
"""


class Paired:
    modality = "text"

    def __init__(
        self, solo: TextEngine, open_crowd: Callable[[], TextEngine], crowd: Abilities
    ) -> None:
        self.solo, self._open_crowd, self._crowd_controls = (
            solo,
            open_crowd,
            crowd.controls,
        )
        self.chats, self.context_length = solo.chats, solo.context_length
        self.abilities = Abilities(solo.abilities.controls | crowd.controls)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="miaobi-paired")
        self._opening: Future[TextEngine] | None = None
        self._running = 0

    async def generate(self, request: Request) -> AsyncIterator[Chunk]:
        self._running += 1
        try:
            engine, other = await self._choose(request)
            begun = False
            try:
                async with aclosing(cast(Any, engine.generate(request))) as chunks:
                    async for chunk in chunks:
                        begun = True
                        yield chunk
            except Unsupported:  # a control that it offers in some cases only
                if begun or other is None:
                    raise
                async with aclosing(cast(Any, other.generate(request))) as chunks:
                    async for chunk in chunks:
                        yield chunk
        finally:
            self._running -= 1

    async def _choose(self, request: Request) -> tuple[TextEngine, TextEngine | None]:
        """Who answers, and who may stand in."""
        wanted = set(request.changed())
        if not wanted <= self._crowd_controls:
            return self.solo, None
        if (
            self._running == 1
            and request.n == 1
            and wanted <= self.solo.abilities.controls
        ):
            await asyncio.sleep(GRACE_SECONDS)
            if self._running == 1:
                return self.solo, None
        if self._opening is None:
            self._opening = self._thread.submit(self._open_crowd)
        if not wanted <= self.solo.abilities.controls:
            return await asyncio.wrap_future(self._opening), None
        if not self._opening.done():
            return self.solo, None
        if (error := self._opening.exception()) is not None:
            log.warning("the engine for many requests could not be opened: %s", error)
            self._crowd_controls = frozenset()
            return self.solo, None
        return self._opening.result(), self.solo

    def close(self) -> None:
        self._thread.shutdown(wait=True)
        if self._opening is not None and self._opening.exception() is None:
            self._opening.result().close()
        self.solo.close()
