"""What a server does again and again, beside answering: its own work, one module each,
and that of other packages.

Started with the server and stopped with it. Where several processes share a database
(servers, and the batches that answer requests) each runs all of it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import TYPE_CHECKING, Protocol

from miaobi.core.registry import Registry

if TYPE_CHECKING:
    from miaobi.serve.services import Services

log = logging.getLogger("miaobi.serve")

STOP_SECONDS = 10.0
"""For work that runs when the server stops, to end."""


class Periodic(Protocol):
    """A module or any other object."""

    seconds: float
    """Between two runs, and before the first."""

    async def run(self, services: Services) -> None:
        """Blocks nothing: what takes long goes to a thread."""


periodic: Registry[Periodic] = Registry(
    "periodic",
    {
        "conversations": "miaobi.serve.periodic.conversations",
        "files": "miaobi.serve.periodic.files",
        "temporary_files": "miaobi.serve.periodic.temporary_files",
        "usage": "miaobi.serve.periodic.usage",
    },
)


class Runner:
    """Runs everything registered, from `start` to `stop`."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._tasks = list[asyncio.Task[None]]()
        self._stopping = asyncio.Event()

    def start(self) -> None:
        for name in periodic.names():
            repeated = self._repeat(name, periodic.get(name))
            self._tasks.append(asyncio.create_task(repeated))

    async def stop(self) -> None:
        """Let what runs end, for STOP_SECONDS at most."""
        self._stopping.set()
        if self._tasks:
            _, late = await asyncio.wait(self._tasks, timeout=STOP_SECONDS)
            for task in late:
                task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _repeat(self, name: str, work: Periodic) -> None:
        while not await self._stops_within(work.seconds):
            try:
                await work.run(self._services)
            except Exception:
                log.exception("%s failed; next try in %g s", name, work.seconds)

    async def _stops_within(self, seconds: float) -> bool:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._stopping.wait(), seconds)
        return self._stopping.is_set()
