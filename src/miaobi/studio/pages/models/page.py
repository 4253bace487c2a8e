"""Models."""

from __future__ import annotations

from starlette.responses import Response

from miaobi.studio.page import get
from miaobi.studio.visit import Visit

TITLE = ("Models", "模型")
GROUP = "make"
ORDER = 30


async def show(visit: Visit) -> Response:
    return visit.html("models/page.html")


ROUTES = [get("", show)]
