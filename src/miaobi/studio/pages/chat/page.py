"""Chat."""

from __future__ import annotations

from starlette.responses import Response

from miaobi.studio.page import get
from miaobi.studio.visit import Visit

TITLE = ("Chat", "对话")
GROUP = "create"
ORDER = 10


async def show(visit: Visit) -> Response:
    return visit.html("chat/page.html")


ROUTES = [get("", show)]
