"""What the routes, the studio and the worker share: one object, made from the settings,
opened and closed with the server.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from functools import cached_property
from typing import Annotated

from fastapi import Depends, Request

from miaobi.serve.admission import Admission
from miaobi.serve.conversations import Conversations
from miaobi.serve.database import Records, open_records
from miaobi.serve.files import Files
from miaobi.serve.image.temporary import TemporaryFiles
from miaobi.serve.jobs import Queue
from miaobi.serve.jobs.worker import Supervisor
from miaobi.serve.keys import Keys
from miaobi.serve.packs import Fetches
from miaobi.serve.parts import Uploads
from miaobi.serve.pool import Pool
from miaobi.serve.sessions import Sessions
from miaobi.serve.settings import Settings


@dataclass
class Services:
    settings: Settings
    pool: Pool
    admission: Admission
    sessions: Sessions = field(default_factory=Sessions)
    """The studio's visitors: the guard takes the cookie `sessions.COOKIE` for the key
    that `sessions.key` says, under /studio only.
    """
    fetches: Fetches = field(default_factory=Fetches)
    records: Records = field(init=False)
    files: Files = field(init=False)
    uploads: Uploads = field(init=False)
    conversations: Conversations = field(init=False)
    jobs: Queue = field(init=False)
    supervisor: Supervisor = field(init=False)
    """These from `open` to `close`."""
    ready: bool = False
    """Everything that was to be opened at the start is."""
    _warming: asyncio.Task[None] = field(init=False)

    @cached_property
    def keys(self) -> Keys:
        """Whose a key is."""
        return Keys(self.settings)

    @cached_property
    def temporary_files(self) -> TemporaryFiles:
        """Generated pictures that were answered as URLs."""
        return TemporaryFiles(
            self.settings.folder / "pictures", self.settings.picture_seconds
        )

    async def open(self) -> None:
        """Before the first request: the database is brought up to date, models named at
        the start are opened.
        """
        self.records = await asyncio.to_thread(open_records, self.settings.database)
        self.keys.records = self.admission.ledger.records = self.records
        await self.keys.read()
        self.files = Files.of(self.records, self.settings)
        await asyncio.to_thread(self.files.sweep)
        self.uploads = Uploads(self.files)
        self.conversations = Conversations(
            self.records,
            self.settings.keep_conversations,
            self.settings.conversation_days,
        )
        await asyncio.to_thread(self.conversations.sweep)
        self.jobs = Queue(self.records)
        self.supervisor = Supervisor(self.settings, self.jobs)
        await self.supervisor.start()
        self._warming = asyncio.create_task(self._warm())
        if not self.settings.models:
            await self._warming

    async def _warm(self) -> None:
        """Open the models of --model while the server already listens and says that it
        is not ready.
        """
        await self.pool.warm([name.partition("=")[0] for name in self.settings.models])
        self.ready = True

    async def close(self) -> None:
        """After the last answer."""
        self._warming.cancel()
        await self.fetches.close()
        await self.supervisor.stop()
        await self.pool.close()
        await self.admission.ledger.write()
        self.records.close()


async def services_of(request: Request) -> Services:
    """Asynchronous, or the framework would ask a thread each time."""
    services: Services = request.app.state.services
    return services


Serving = Annotated[Services, Depends(services_of)]
"""For routes: `services: Serving`."""
