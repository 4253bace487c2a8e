"""Jobs."""

from __future__ import annotations

from starlette.responses import Response

from miaobi.studio.page import get
from miaobi.studio.visit import Visit

TITLE = ("Jobs", "任务")
GROUP = "foot"
ORDER = 10


async def show(visit: Visit) -> Response:
    return visit.html("jobs/page.html")


ROUTES = [get("", show)]
