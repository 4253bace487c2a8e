"""The page of a first visit: three ways to begin."""

from __future__ import annotations

from starlette.responses import Response

from miaobi.studio.page import get
from miaobi.studio.visit import Visit

TITLE = ("Welcome", "欢迎")
GROUP = ""
ORDER = 0


async def show(visit: Visit) -> Response:
    return visit.html("welcome/page.html")


ROUTES = [get("", show)]
