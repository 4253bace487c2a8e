"""One thread for an engine that paints: requests come one after the other, chunks leave
as they are made.

Knows nothing of models. The work is a plain function that sends chunks; sending is also
where it learns that nobody waits for it any more, so work of many steps sends its
progress after each.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncGenerator, Callable
from concurrent.futures import ThreadPoolExecutor

from miaobi.core.engine import Chunk

Send = Callable[[Chunk], None]


class Left(Exception):
    """Raised from `send` in the worker when whoever asked has left."""


class Worker:
    def __init__(self, name: str) -> None:
        self._pool = ThreadPoolExecutor(1, thread_name_prefix=f"miaobi-{name}")

    async def stream(self, work: Callable[[Send], None]) -> AsyncGenerator[Chunk, None]:
        """What `work(send)` sends, until it returns. Leaving the iterator ends the work
        at its next `send`.
        """
        loop, inbox, left = (
            asyncio.get_running_loop(),
            asyncio.Queue[Chunk | BaseException | None](),
            threading.Event(),
        )

        def post(item: Chunk | BaseException | None) -> None:
            with contextlib.suppress(
                RuntimeError
            ):  # the loop was closed meanwhile: nobody waits
                loop.call_soon_threadsafe(inbox.put_nowait, item)

        def send(chunk: Chunk) -> None:
            if left.is_set():
                raise Left
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
            left.set()
            running.cancel()

    def close(self) -> None:
        """Waits for the step that is under way."""
        self._pool.shutdown(wait=True, cancel_futures=True)
