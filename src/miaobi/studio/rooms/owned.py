"""Files of the page belong to the key that they were named to, and are named without
where they lie on this machine.

Gradio names files by their path, takes any path in its folder from anybody, and finds a
folder's name by what is in the file. So every answer to a visitor has a word of our
making in the place of that folder, and what it names is noted as the visitor's. In
requests the word is the folder again, for names that are the visitor's; any other is
not there.
"""

from __future__ import annotations

import json
import re
import secrets
from collections import defaultdict
from contextlib import suppress
from pathlib import Path
from urllib.parse import unquote

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from miaobi.serve.errors import ApiError

NAME = rb'/((?:[^"\\<>\s]|\\.| )+)'
TEXTS = ("application/json", "text/event-stream", "text/html")
KEPT = 10_000
"""Names of one key; the oldest are forgotten first."""


class Owned:
    def __init__(self, app: ASGIApp, folder: Path) -> None:
        """`folder`: where Gradio keeps what visitors send and see."""
        self.app = app
        self._folder = str(folder).encode()
        place = f"/{secrets.token_hex(16)}"
        self._place = place.encode()
        self._named = re.compile(self._place + NAME)
        self._file = re.compile(rf"(.*/file=){place}/(.+)", re.DOTALL)
        self._written = re.compile(
            b"|".join(
                re.escape(form)
                for form in {self._folder, json.dumps(str(folder))[1:-1].encode()}
            )
        )
        self._names = defaultdict[str, dict[str, None]](dict)
        """Of each key, in the order in which they were told."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or "/assets/" in scope["path"]:
            await self.app(scope, receive, send)
            return
        names = self._names[scope["state"]["caller"].key_id]
        headers = MutableHeaders(scope=scope)
        # What is compressed cannot be read on its way out.
        del headers["accept-encoding"]
        scope = {**scope, "headers": headers.raw}
        file = self._file.fullmatch(scope["path"])
        if file is not None:
            scope["path"] = f"{file[1]}{self._folder.decode()}/{file[2]}"
        elif "/file=" in scope["path"]:
            await _missing(scope, receive, send)
            return
        if file is not None and file[2] not in names:
            await _missing(scope, receive, send)
            return
        if headers.get("content-type", "").startswith("application/json"):
            body = await _whole(receive)
            named = {
                name
                for match in self._named.finditer(body)
                for name in _forms(match[1])
            }
            if not named <= names.keys() or self._written.search(body):
                await _missing(scope, receive, send)
                return
            body = self._named.sub(lambda match: self._folder + b"/" + match[1], body)
            headers["content-length"] = str(len(body))
            receive = _of(body, receive)
        await self.app(scope, receive, _Renaming(self, names, send))

    def rename(self, body: bytes, names: dict[str, None]) -> bytes:
        """Return a text without the folder's path, and note the names in it."""
        renamed = self._written.sub(self._place, body)
        for match in self._named.finditer(renamed):
            for name in _forms(match[1]):
                names[name] = None
        while len(names) > KEPT:
            del names[next(iter(names))]
        return renamed


class _Renaming:
    """Sends texts without the folder's path."""

    def __init__(self, owned: Owned, names: dict[str, None], send: Send) -> None:
        self._owned = owned
        self._names = names
        self._send = send
        self._is_text = False
        self._start: Message | None = None

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            kind = Headers(raw=message["headers"]).get("content-type", "")
            self._is_text = kind.startswith(TEXTS)
            self._start = message
            return
        if message["type"] == "http.response.body" and self._is_text:
            body = self._owned.rename(message.get("body", b""), self._names)
            message = {**message, "body": body}
        if self._start is not None:
            start, self._start = self._start, None
            if self._is_text and not message.get("more_body", False):
                MutableHeaders(scope=start)["content-length"] = str(len(body))
            elif self._is_text:
                del MutableHeaders(scope=start)["content-length"]
            await self._send(start)
        await self._send(message)


def _forms(name: bytes) -> set[str]:
    """Return a name as JSON, an address or HTML spells it, in plain letters."""
    text = name.decode("utf-8", "replace")
    forms = {text, unquote(text)}
    with suppress(ValueError):  # it is not out of JSON
        forms.add(str(json.loads(f'"{text}"')))
    return forms


async def _missing(scope: Scope, receive: Receive, send: Send) -> None:
    error = ApiError(404, "The studio has no such file.", code="file_not_found")
    await error.response()(scope, receive, send)


async def _whole(receive: Receive) -> bytes:
    body = b""
    while True:
        message = await receive()
        body += bytes(message.get("body", b""))
        if not message.get("more_body", False):
            return body


def _of(body: bytes, receive: Receive) -> Receive:
    """Return what gives this body, then what `receive` gives."""
    is_read = False

    async def next_message() -> Message:
        nonlocal is_read
        if is_read:
            return await receive()
        is_read = True
        return {"type": "http.request", "body": body, "more_body": False}

    return next_message
