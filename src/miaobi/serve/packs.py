"""Starter packs that this server fetches in the background, each once: whoever looks
sees the same fetch.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from dataclasses import dataclass, field
from functools import partial

from miaobi.core.errors import Conflict, MiaobiError
from miaobi.core.language import in_each, say
from miaobi.data import packs
from miaobi.serve.errors import without_paths

log = logging.getLogger("miaobi.serve")

SETTLED_SECONDS = 1.0
"""After so long, a rate says how long the rest takes."""


class _Stopped(Exception):
    """Somebody stopped the fetch."""


@dataclass
class Fetch:
    """A pack on its way here."""

    name: str
    total: float
    """Bytes, by the catalogue."""
    done: float = 0
    status: str = "fetching"
    """fetching, done, failed or stopped."""
    message: str = ""
    """Why it failed, and what to do."""
    began: float = field(default_factory=time.monotonic)
    stop: threading.Event = field(default_factory=threading.Event)

    @property
    def seconds_left(self) -> float | None:
        """By the mean rate; None where there is none yet."""
        seconds = time.monotonic() - self.began
        if self.status != "fetching" or not self.done or seconds < SETTLED_SECONDS:
            return None
        return (self.total - self.done) * seconds / self.done

    def progress(self, label: str, done: float, total: float) -> None:
        if self.stop.is_set():
            raise _Stopped
        self.done = min(done * 1e6, self.total)


class Fetches:
    """The fetches since this server started, the last one of each pack."""

    def __init__(self) -> None:
        self._by_name = dict[str, Fetch]()
        self._tasks = set[asyncio.Task[None]]()

    def of(self, name: str) -> Fetch | None:
        return self._by_name.get(name)

    def begin(self, name: str) -> Fetch:
        """Begin to fetch a pack, unless that is being done. Raises NotFound."""
        pack = packs.get(name)
        fetch = self._by_name.get(name)
        if fetch is None or fetch.status != "fetching":
            fetch = self._by_name[name] = Fetch(name, pack.megabytes * 1e6)
            task = asyncio.create_task(asyncio.to_thread(_fetch, fetch))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        return fetch

    def stop(self, name: str) -> Fetch:
        """Stop a fetch: nothing of it stays. Raises NotFound; Conflict where there is
        none.
        """
        packs.get(name)
        fetch = self._by_name.get(name)
        if fetch is None or fetch.status != "fetching":
            raise Conflict(
                say(f"{name} is not being fetched.", f"没有正在获取 {name}。")
            )
        fetch.stop.set()
        fetch.status = "stopped"
        return fetch

    async def close(self) -> None:
        """Stop all of them."""
        for fetch in self._by_name.values():
            fetch.stop.set()
        await asyncio.gather(*self._tasks)


def _fetch(fetch: Fetch) -> None:
    try:
        packs.path(fetch.name, progress=fetch.progress)
    except _Stopped:
        fetch.status = "stopped"
    except MiaobiError as error:
        fetch.message = in_each(partial(_message, error))
        fetch.status = "failed"
    except Exception:
        log.exception("a pack could not be fetched", extra={"pack": fetch.name})
        fetch.message = say(
            "It could not be fetched; see the server's log.",
            "获取失败，详见服务器日志。",
        )
        fetch.status = "failed"
    else:
        fetch.done, fetch.status = fetch.total, "done"


def _message(error: MiaobiError) -> str:
    return without_paths(error.sentence)
