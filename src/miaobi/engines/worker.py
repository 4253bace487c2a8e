"""One thread for an engine: requests run one after the other, chunks leave as they are
made.

Knows nothing of models. The work is a plain function that sends chunks; sending also
raises once nobody waits any more, so work of many steps sends its progress after each.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncGenerator, Callable
from concurrent.futures import ThreadPoolExecutor

from miaobi.core.engine import Chunk

Send = Callable[[Chunk], None]


class Abandoned(Exception):
    """Raised from `send` in the worker when nobody waits for the answer any more."""


class Worker:
    """A thread named after the engine."""

    def __init__(self, name: str) -> None:
        self._pool = ThreadPoolExecutor(1, thread_name_prefix=f"miaobi-{name}")

    async def stream(self, work: Callable[[Send], None]) -> AsyncGenerator[Chunk, None]:
        """Yield what `work(send)` sends, until it returns.

        Leaving the iterator ends the work at its next `send`.
        """
        loop = asyncio.get_running_loop()
        inbox: asyncio.Queue[Chunk | BaseException | None] = asyncio.Queue()
        abandoned = threading.Event()

        def post(item: Chunk | BaseException | None) -> None:
            # The loop may have been closed: then nobody waits.
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(inbox.put_nowait, item)

        def send(chunk: Chunk) -> None:
            if abandoned.is_set():
                raise Abandoned
            post(chunk)

        def run() -> None:
            try:
                work(send)
            except BaseException as error:
                post(error)
            else:
                post(None)

        running = self._pool.submit(run)
        try:
            while (item := await inbox.get()) is not None:
                if isinstance(item, BaseException):
                    raise item
                yield item
        finally:
            abandoned.set()
            running.cancel()

    def close(self) -> None:
        """Wait for the step that is under way."""
        self._pool.shutdown(wait=True, cancel_futures=True)
