"""ASGI applications that the server mounts at /NAME, such as the studio."""

from __future__ import annotations

from typing import Protocol

from fastapi import FastAPI
from starlette.types import Receive, Scope, Send

from miaobi.core.registry import Registry


class Page(Protocol):
    """An ASGI application, opened with the server's own and closed with it."""

    def __init__(self, app: FastAPI) -> None: ...

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None: ...

    async def close(self) -> None: ...


pages: Registry[type[Page]] = Registry("pages", {"studio": "miaobi.studio.app:Studio"})
