"""Work for a client who sent a multipart form and may go away: it ends at once when the connection does, wherever it was waiting.

For every other body, bodies.py listens; a form flows on to its route, which has read it whole before it listens here.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from fastapi import Request

from miaobi.core.language import say
from miaobi.serve.errors import ApiError

Result = TypeVar("Result")
LEFT = 499
"""The status that logs show for it (nginx's); nobody reads the answer."""


async def while_connected(request: Request, work: Coroutine[Any, Any, Result]) -> Result:
    """What `work` returns, or ApiError 499 once it was cancelled because the client left."""
    working, gone = asyncio.ensure_future(work), asyncio.ensure_future(_gone(request))
    try:
        await asyncio.wait((working, gone), return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            return working.result()
    finally:
        for task in (working, gone):
            task.cancel()
        await asyncio.gather(working, gone, return_exceptions=True)
    raise ApiError(LEFT, say("The client went away before the answer was ready.", "客户端在回答就绪之前断开了连接。"), code="client_left")


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
