"""The server's own API, called in process: no socket, but every rule of the door (keys,
limits, places) as for anyone else.

httpx has such a transport too, but it hands out an answer only when it is whole; people
want to see a text as it is written.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, MutableMapping
from typing import Any

import httpx
from starlette.types import ASGIApp

log = logging.getLogger("miaobi.studio")

WAITING = 16
"""Messages of an answer that wait to be read before its maker has to."""
PATIENCE = 5.0
"""Seconds that an application gets to notice that its client has gone."""


class Inside(httpx.AsyncBaseTransport):
    """Requests to `app`, answered piece by piece. Closing the answer early is a client
    that goes away.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        body = await request.aread()
        call = _Call(body)
        scope = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": "1.1",
            "method": request.method,
            "scheme": "http",
            "path": request.url.path,
            "raw_path": request.url.raw_path.split(b"?")[0],
            "query_string": request.url.query,
            "root_path": "",
            "headers": [(name.lower(), value) for name, value in request.headers.raw],
            "server": (request.url.host, request.url.port or 80),
            "client": ("127.0.0.1", 0),
            "state": {},
        }
        call.work = asyncio.create_task(_run(self._app, scope, call))
        try:
            start = await call.next()
        except asyncio.CancelledError:
            await call.aclose()
            raise
        if start is None:
            await call.work
            raise httpx.RemoteProtocolError(
                "the application gave no answer", request=request
            )
        return httpx.Response(start["status"], headers=start["headers"], stream=call)


async def _run(app: ASGIApp, scope: dict[str, Any], call: _Call) -> None:
    try:
        await app(scope, call.receive, call.send)
    finally:
        await call.messages.put(None)


class _Call(httpx.AsyncByteStream):
    """One request on its way: what the application reads and sends."""

    work: asyncio.Task[None]

    def __init__(self, body: bytes) -> None:
        self.messages: asyncio.Queue[MutableMapping[str, Any] | None] = asyncio.Queue(
            WAITING
        )
        self._body: bytes | None = body
        self._left = asyncio.Event()

    async def next(self) -> MutableMapping[str, Any] | None:
        return await self.messages.get()

    async def receive(self) -> MutableMapping[str, Any]:
        if self._body is not None:
            body, self._body = self._body, None
            return {"type": "http.request", "body": body, "more_body": False}
        await self._left.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: MutableMapping[str, Any]) -> None:
        if not self._left.is_set():
            await self.messages.put(message)

    async def __aiter__(self) -> AsyncIterator[bytes]:
        while (message := await self.next()) is not None:
            yield message.get("body", b"")
            if not message.get("more_body", False):
                return

    async def aclose(self) -> None:
        self._left.set()
        while (
            not self.messages.empty()
        ):  # whoever waits to send goes on, and learns that nobody reads
            self.messages.get_nowait()
        await asyncio.wait({self.work}, timeout=PATIENCE)
        if not self.work.done():
            self.work.cancel()
        elif not self.work.cancelled() and (error := self.work.exception()):
            log.error("an answer broke off", exc_info=error)
