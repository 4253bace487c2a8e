"""The pages that are still Gradio's, below /studio/LANGUAGE/rooms/. Gradio is imported in
a thread when the first visitor comes, who reads "one moment". Of its own routes only
those are reachable that these pages need: not its proxy, programs' API or editors.
"""

from __future__ import annotations

import asyncio
import re
from contextlib import AbstractAsyncContextManager
from importlib.resources import files
from importlib.util import find_spec
from string import Template
from typing import Any

from fastapi import FastAPI
from starlette.datastructures import MutableHeaders
from starlette.responses import HTMLResponse
from starlette.types import Message, Receive, Scope, Send

from miaobi.core.errors import MissingPart
from miaobi.core.language import say
from miaobi.serve.admission import Admission
from miaobi.serve.errors import ApiError
from miaobi.serve.services import Services
from miaobi.studio.rooms.keeping import folder_of
from miaobi.studio.rooms.owned import Owned

NEEDED = re.compile(
    r"/|/config|/theme\.css|/favicon\.ico|/(assets|static)/[^?]+"
    r"|/gradio_api/(info|startup-events|queue/(join|data)|upload|upload_progress"
    r"|cancel|reset|heartbeat/\w+|file=(?!\w+:/).+)"
)
"""Gradio's paths that the page asks for. What is given to file= is a file's path, never
another server's address.
"""
POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; "
    "style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; "
    "font-src 'self' data:; connect-src 'self' data: blob:; worker-src 'self' "
    "blob:; media-src 'self' blob:; object-src 'none'; "
    "base-uri 'self'; form-action 'self'; frame-ancestors 'none'"
)
ICON = (
    '<link rel="icon" href="data:image/svg+xml,%3Csvg '
    "xmlns=%22http://www.w3.org/2000/svg%22 viewBox=%220 0 32 32%22%3E%3Crect "
    "width=%2232%22 height=%2232%22 "
    "rx=%227%22 fill=%22%23ad3b27%22/%3E%3Ctext x=%2216%22 y=%2223%22 "
    "font-size=%2220%22 text-anchor=%22middle%22 "
    'fill=%22white%22%3E妙%3C/text%3E%3C/svg%3E">'
).encode()
TAGS = {"en": "en", "zh": "zh-CN"}
ELSEWHERE = re.compile(
    rb'<meta\s+(?:property|name)="(?:og|twitter):[^>]*>|<link rel="manifest"[^>]*>'
)
GONE = ApiError(
    503, "The studio is opening; load the page again.", retry_after=2
).response()
"""To a page from before a restart."""
HEADERS = {
    "content-security-policy": POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "same-origin",
}


POLL = 0.5
"""Seconds between two looks of an open page's event streams at whether the server is stopping."""


class Rooms:
    """One language's page, built when first asked for."""

    def __init__(self, app: FastAPI, language: str) -> None:
        self._app, self._language = app, language
        self._shell: Owned | None = None
        self._life: AbstractAsyncContextManager[Any] | None = None
        self._building: asyncio.Task[None] | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers.update(HEADERS)
                shared = [
                    name for name in headers if name.startswith("access-control-")
                ]
                for name in shared:
                    del headers[name]
            await send(message)

        await self._answer(scope, receive, send_with_headers)

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = scope["path"].removeprefix(f"/studio/{self._language}/rooms") or "/"
        if not NEEDED.fullmatch(path):
            await ApiError(404, "The studio has no such page.").response()(
                scope, receive, send
            )
        elif self._shell is None and find_spec("gradio") is None:
            raise MissingPart(
                say("The studio is not installed.", "未安装工作台。"),
                "pip install 'miaobi[studio]'",
            )
        elif self._shell is None:
            self._building = self._building or asyncio.create_task(self._build())
            await (self._wait if path == "/" else GONE)(scope, receive, send)
        elif path == "/":
            await self._front(scope, receive, send)
        else:
            listening = _Listening(receive, self._app.state.services.admission)
            try:
                await self._shell(
                    {**scope, "root_path": ""},
                    listening if scope["method"] == "GET" else receive,
                    send,
                )
            finally:
                listening.close()

    async def _front(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Gradio's HTML in the page's language, with our icon, and without what it says
        about itself and other hosts.
        """
        assert self._shell is not None
        start: Message = {}
        body = b""

        async def keep(message: Message) -> None:
            nonlocal start, body
            if message["type"] == "http.response.start":
                start = message
            body += message.get("body", b"")

        plain = [
            (name, value)
            for name, value in scope["headers"]
            if name != b"accept-encoding"
        ]
        await self._shell({**scope, "root_path": "", "headers": plain}, receive, keep)
        body = (
            ELSEWHERE.sub(b"", body)
            .replace(b"<head>", b"<head>" + ICON, 1)
            .replace(b'lang="en"', f'lang="{TAGS[self._language]}"'.encode(), 1)
        )
        MutableHeaders(scope=start)["content-length"] = str(len(body))
        await send(start)
        await send({"type": "http.response.body", "body": body})

    async def _wait(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ "One moment", which asks again by itself; or why there will be no page."""
        assert self._building is not None
        if self._building.done() and self._building.exception():
            building, self._building = self._building, None
            raise building.exception() or RuntimeError
        await HTMLResponse(
            _filled("moment.html", self._language), 202, {"cache-control": "no-store"}
        )(scope, receive, send)

    async def _build(self) -> None:
        from miaobi.studio.rooms import page

        services: Services = self._app.state.services
        shell, life = await asyncio.to_thread(
            page.build,
            self._app,
            services,
            self._language,
            f"/studio/{self._language}/rooms",
        )
        await life.__aenter__()
        self._shell = Owned(shell, folder_of(services.settings.folder))
        self._life = life

    async def close(self) -> None:
        if self._building is not None and not self._building.done():
            await asyncio.wait({self._building})
        if self._life is not None:
            self._shell, life, self._life = None, self._life, None
            await life.__aexit__(None, None, None)


class _Listening:
    """Pages keep event streams open for as long as they are looked at. When the server
    stops and the last answer is out, this tells them that their reader has gone: nobody
    waits for a window that somebody left open. May be cancelled and asked again, also
    by several at once (Starlette looks whether a client has left by asking without
    waiting).
    """

    def __init__(self, receive: Receive, admission: Admission) -> None:
        self._receive, self._admission = receive, admission
        self._next: asyncio.Future[Message] | None = None

    async def __call__(self) -> Message:
        waiting = self._next = self._next or asyncio.ensure_future(self._receive())
        while not waiting.done():
            if self._admission.draining and not any(self._admission.running.values()):
                return {"type": "http.disconnect"}
            await asyncio.wait({waiting}, timeout=POLL)
        if self._next is waiting:
            self._next = None
        return waiting.result()

    def close(self) -> None:
        if self._next is not None:
            self._next.cancel()


WORDS = {
    "en": {
        "lang": "en",
        "title": "One moment",
        "hint": "This page is opening for its first visitor.",
    },
    "zh": {
        "lang": "zh-CN",
        "title": "请稍候",
        "hint": "页面正在为第一位访客打开。",
    },
}


def _filled(name: str, chosen: str) -> str:
    text = files("miaobi.studio.rooms").joinpath(name).read_text(encoding="utf-8")
    return Template(text).substitute(WORDS[chosen])
