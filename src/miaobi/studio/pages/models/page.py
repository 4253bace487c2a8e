"""Models: what there is with its lineage and scores, promoted, taken back, exported,
deleted; starter packs to fetch; and the card of one version.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

from starlette.responses import Response

from miaobi.core.language import say
from miaobi.studio.page import get, post
from miaobi.studio.pages.jobs.jobs import row_of
from miaobi.studio.pages.models.lineage import scores_of, trees
from miaobi.studio.visit import Visit

TITLE = ("Models", "模型")
GROUP = "make"
ORDER = 30

STORE = "/v1/store/models"
PACKS = "/v1/store/packs"
JOBS = 100
"""Of which those that make a model now are shown."""
MAKING = ("training", "fine_tuning")

Json = Mapping[str, Any]


async def show(visit: Visit) -> Response:
    """Every model, and the packs."""
    template = "models/list.html" if visit.is_partial else "models/page.html"
    return visit.html(template, **await _everything(visit))


async def _everything(visit: Visit) -> dict[str, Any]:
    """Return what the templates of the list and the packs show."""
    versions, served, packs, disk, jobs = await asyncio.gather(
        visit.call("GET", STORE),
        visit.call("GET", "/v1/models"),
        visit.call("GET", PACKS),
        visit.call("GET", "/v1/store/disk"),
        visit.call("GET", "/v1/jobs", params={"limit": JOBS}),
    )
    stored = versions["data"]
    whole = trees(stored)
    rows = [row_of(job) for job in jobs["data"]]
    ordered = sorted(packs["data"], key=lambda pack: pack["kind"] != "model")
    return {
        "trees": [tree for tree in whole if len(tree.nodes) > 1],
        "others": [tree.nodes[0] for tree in whole if len(tree.nodes) == 1],
        "names": len({version["name"] for version in stored}),
        "versions": len(stored),
        "running": [row for row in rows if row.is_moving and row.kind in MAKING],
        "kinds": _kinds(served),
        "packs": ordered,
        "by_pack": {pack["id"]: pack for pack in ordered},
        "fetched": [pack for pack in ordered if pack["installed"]],
        "disk": disk,
        "is_operator": visit.caller.operator,
    }


async def show_pack(visit: Visit) -> Response:
    """One pack as it stands; asked for again while it is fetched."""
    return await _pack(visit, "GET", "")


async def fetch(visit: Visit) -> Response:
    """Begin to fetch a pack."""
    return await _pack(visit, "POST", "/fetch")


async def stop(visit: Visit) -> Response:
    """Stop the fetch of a pack."""
    return await _pack(visit, "POST", "/stop")


async def _pack(visit: Visit, method: str, action: str) -> Response:
    """Answer with a pack as it is after an action."""
    name = visit.path["pack"]
    pack = await visit.call(method, f"{PACKS}/{name}{action}")
    if not visit.is_partial:
        return visit.go("models")
    return visit.html("models/pack.html", pack=pack, is_operator=visit.caller.operator)


async def promote(visit: Visit) -> Response:
    """Make a version the one that its name means."""
    model = visit.path["model"]
    name, _, number = model.partition("@")
    promotion = {"version": int(number) if number.isdecimal() else None}
    done = await visit.call("POST", f"{STORE}/{name}/promote", json=promotion)
    return await _changed(visit, done["message"], f"models/{model}")


async def go_back(visit: Visit) -> Response:
    """Go back to the version that was in production before."""
    name = visit.path["model"]
    done = await visit.call("POST", f"{STORE}/{name}/rollback")
    return await _changed(visit, done["message"])


async def delete(visit: Visit) -> Response:
    """Delete a version, where nothing needs it."""
    model = visit.path["model"]
    await visit.call("DELETE", f"/v1/models/{model}")
    return await _changed(visit, say(f"{model} is deleted.", f"{model} 已删除。"))


async def _changed(visit: Visit, message: str, then: str = "models") -> Response:
    """Answer with the list as it is now, where it is in sight, or lead to `then`."""
    if not visit.is_partial or visit.request.headers.get("hx-target") != "models":
        return visit.go(then)
    models = visit.text("models/list.html", **await _everything(visit))
    return visit.toast(message, models)


async def card(visit: Visit) -> Response:
    """The card of a version, or of a pack; "poet" leads to the version it means."""
    model = visit.path["model"]
    listed, served, packs = await asyncio.gather(
        visit.call("GET", STORE),
        visit.call("GET", "/v1/models"),
        visit.call("GET", PACKS),
    )
    version = _meant(model, listed["data"])
    if version is not None:
        path = f"{STORE}/{version['name']}/versions/{version['version']}"
        return visit.html(
            "models/card.html",
            card=await visit.call("GET", path),
            version=version,
            versions=[
                item for item in listed["data"] if item["name"] == version["name"]
            ],
            scores=scores_of(version),
            kinds=_kinds(served),
            own=[item["id"] for item in listed["data"]],
            is_operator=visit.caller.operator,
        )
    pack = next((item for item in packs["data"] if item["id"] == model), None)
    if pack is None:
        await visit.call("GET", f"/v1/models/{model}")  # says what there is
        return visit.go("models")
    return visit.html(
        "models/pack_card.html", pack=pack, is_operator=visit.caller.operator
    )


def _meant(model: str, versions: Sequence[Json]) -> Json | None:
    """Return the version that a name, or name@number, means; None for an unknown one."""
    exact = next((item for item in versions if item["id"] == model), None)
    own = [item for item in versions if item["name"] == model]
    promoted = next((item for item in own if item["production"]), None)
    newest = own[-1] if own else None
    return exact or promoted or newest


def _kinds(served: Json) -> dict[str, str]:
    """Return what each served model makes, by name."""
    return {item["id"]: item["modality"] for item in served["data"]}


async def exports(visit: Visit) -> Response:
    """What the model can be exported to, and the exports there are of it."""
    return visit.html("models/exports.html", **await _exports(visit))


async def _exports(visit: Visit) -> dict[str, Any]:
    """Return what the template of the exports shows."""
    model = visit.path["model"]
    offers, jobs = await asyncio.gather(
        visit.call("GET", "/v1/exports/offers", params={"model": model}),
        visit.call("GET", "/v1/exports/jobs", params={"limit": JOBS}),
    )
    mine = [job for job in jobs["data"] if job["model"] == model]
    return {
        "model": model,
        "offers": offers["data"],
        "jobs": mine,
        "is_live": any(job["status"] in ("queued", "running") for job in mine),
    }


async def export(visit: Visit) -> Response:
    """Begin an export."""
    form = await visit.form()
    body = {
        "model": visit.path["model"],
        "to": str(form.get("to")),
        "merge": form.get("merge") == "yes",
    }
    dtype = form.get("dtype")
    if dtype:
        body["dtype"] = str(dtype)
    job = await visit.call("POST", "/v1/exports/jobs", json=body)
    if not visit.is_partial:
        return visit.go(f"jobs/{job['id']}")
    return visit.html("models/exports.html", **await _exports(visit))


ROUTES = [
    get("", show),
    get("/packs/{pack}", show_pack),
    post("/packs/{pack}/fetch", fetch),
    post("/packs/{pack}/stop", stop),
    get("/{model}", card),
    get("/{model}/exports", exports),
    post("/{model}/exports", export),
    post("/{model}/promote", promote),
    post("/{model}/rollback", go_back),
    post("/{model}/delete", delete),
]
