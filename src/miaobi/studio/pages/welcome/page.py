"""The page of a first visit: three ways to begin, what each costs, and what this machine
has.
"""

from __future__ import annotations

import asyncio
from typing import Any

from starlette.responses import Response

from miaobi.studio.page import get, post
from miaobi.studio.visit import Visit

TITLE = ("Welcome", "欢迎")
GROUP = ""
ORDER = 0

PACK = "smollm2"
"""The model to talk to at once."""
RECIPE = "poet"
"""The first model to train."""
AT = f"/v1/store/packs/{PACK}"


async def show(visit: Visit) -> Response:
    pack, recipes, machine, disk, served = await asyncio.gather(
        visit.call("GET", AT),
        visit.call("GET", "/v1/training/recipes"),
        visit.call("GET", "/v1/training/machine"),
        visit.call("GET", "/v1/store/disk"),
        visit.call("GET", "/v1/models"),
    )
    recipe = next(item for item in recipes["data"] if item["id"] == RECIPE)
    data = await visit.call("GET", f"/v1/store/packs/{recipe['data']}")
    return visit.html(
        "welcome/page.html",
        recipe=recipe,
        data=data,
        machine=machine,
        disk=disk,
        has_models=bool(served["data"]),
        **_talk(visit, pack),
    )


def _talk(visit: Visit, pack: dict[str, Any]) -> dict[str, Any]:
    return {"pack": pack, "is_operator": visit.caller.operator}


async def show_pack(visit: Visit) -> Response:
    """The first way as it stands; leads to the chat once the model is here."""
    pack = await visit.call("GET", AT)
    if pack["installed"]:
        return visit.go("chat", model=PACK)
    return visit.html("welcome/talk.html", **_talk(visit, pack))


async def fetch(visit: Visit) -> Response:
    return await _after(visit, "fetch")


async def stop(visit: Visit) -> Response:
    return await _after(visit, "stop")


async def _after(visit: Visit, action: str) -> Response:
    pack = await visit.call("POST", f"{AT}/{action}")
    if not visit.is_partial:
        return visit.go("welcome")
    return visit.html("welcome/talk.html", **_talk(visit, pack))


async def train(visit: Visit) -> Response:
    """Train the first model, and look on."""
    job = await visit.call("POST", "/v1/training/jobs", json={"recipe": RECIPE})
    return visit.go(f"jobs/{job['id']}")


ROUTES = [
    get("", show),
    get("/pack", show_pack),
    post("/fetch", fetch),
    post("/stop", stop),
    post("/train", train),
]
