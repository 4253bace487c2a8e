"""/v1/store/packs: the starter packs, what each is and costs, and fetching them in the
background.
"""

from __future__ import annotations

from typing import Any

from anyio import to_thread
from fastapi import APIRouter

from miaobi.core.language import say, spoken
from miaobi.data import packs
from miaobi.serve.callers import CurrentOperator
from miaobi.serve.names import makers
from miaobi.serve.packs import Fetch
from miaobi.serve.services import Services, Serving

router = APIRouter(prefix="/v1/store/packs", tags=["store"])


def to_object(name: str, services: Services) -> dict[str, Any]:
    """A pack as JSON."""
    pack = packs.get(name)
    fetch = services.fetches.of(name)
    return {
        "id": name,
        "object": "pack",
        "kind": pack.kind,
        "modality": pack.modality,
        "summary": say(*pack.summary),
        "client": pack.client,
        "package": pack.package,
        "version": pack.version,
        "bytes": round(pack.megabytes * 1e6),
        "licence": spoken(pack.licence),
        "credit": pack.credit,
        "answers": name in makers(),
        "installed": packs.installed(name),
        "fetch": None if fetch is None else _fetch(fetch),
    }


def _fetch(fetch: Fetch) -> dict[str, Any]:
    left = fetch.seconds_left
    return {
        "status": fetch.status,
        "done_bytes": round(fetch.done),
        "total_bytes": round(fetch.total),
        "seconds_left": None if left is None else round(left, 1),
        "message": spoken(fetch.message) or None,
    }


@router.get("")
def list_packs(services: Serving) -> dict[str, Any]:
    """Every starter pack: its size to download, its licence, whether it is here
    (`installed`), whether it answers requests once it is, and its fetch.
    """
    data = [to_object(name, services) for name in packs.catalogue()]
    return {"object": "list", "data": data}


@router.get("/{name}")
def retrieve(name: str, services: Serving) -> dict[str, Any]:
    """One starter pack."""
    return to_object(name, services)


@router.post("/{name}/fetch")
async def fetch(
    name: str, services: Serving, caller: CurrentOperator
) -> dict[str, Any]:
    """Begin to fetch a pack; one that is on its way already goes on. Its `fetch` says how
    far it is.
    """
    services.fetches.begin(name)
    return await to_thread.run_sync(to_object, name, services)


@router.post("/{name}/stop")
async def stop(name: str, services: Serving, caller: CurrentOperator) -> dict[str, Any]:
    """Stop a fetch. Nothing of it stays."""
    services.fetches.stop(name)
    return await to_thread.run_sync(to_object, name, services)
