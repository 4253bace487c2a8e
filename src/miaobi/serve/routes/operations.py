"""For operators: /health, /ready, /metrics; and each key's /v1/usage."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any

from fastapi import APIRouter, Query, Response
from prometheus_client import CONTENT_TYPE_LATEST

from miaobi.core.language import say
from miaobi.serve import usage
from miaobi.serve.admission import DRAINING
from miaobi.serve.callers import CurrentCaller
from miaobi.serve.errors import ApiError
from miaobi.serve.services import Serving

router = APIRouter(tags=["operations"])


@router.get("/health")
async def health() -> dict[str, str]:
    """The process lives and its event loop turns."""
    return {"status": "ok"}


@router.get("/ready")
async def ready(services: Serving) -> dict[str, str]:
    """Send requests here now. 503 while models are opened, and from SIGTERM on."""
    if services.admission.draining:
        raise ApiError(
            503,
            say("This server is stopping.", "服务器正在停止。"),
            code="draining",
            retry_after=DRAINING,
        )
    if not services.ready:
        raise ApiError(
            503,
            say("Models are being opened.", "正在打开模型。"),
            code="starting",
            retry_after=1,
        )
    return {"status": "ready"}


@router.get("/metrics", response_class=Response)
async def metrics(services: Serving) -> Response:
    """Everything counted here, in Prometheus' text format."""
    admission = services.admission
    names = set(await asyncio.to_thread(services.pool.names))
    running: dict[str, float] = {}
    for (
        model,
        count,
    ) in (
        admission.running.items()
    ):  # names come from requests: those that lead nowhere are one
        label = model if model in names else "other"
        running[label] = running.get(label, 0) + count
    jobs = {
        status: float(count)
        for status, count in (await asyncio.to_thread(services.jobs.counts)).items()
    }
    gauges = {
        "queue_waiting": (
            "Requests that wait for a slot.",
            "",
            {"": float(admission.waiting)},
        ),
        "running": ("Answers being made.", "model", running),
        "model_bytes": (
            "Memory of the models that are open.",
            "model",
            {label: float(size) for label, size in services.pool.opened().items()},
        ),
        "jobs": ("Jobs by status.", "status", jobs),
    }
    return Response(admission.meters.read(gauges), media_type=CONTENT_TYPE_LATEST)


@router.get("/v1/usage")
async def used(
    services: Serving,
    caller: CurrentCaller,
    days: Annotated[int, Query(ge=1, le=366)] = 30,
) -> dict[str, Any]:
    """What the key that asks used, by day (UTC) and model, and its limits."""
    await services.admission.ledger.write()
    rows = await asyncio.to_thread(usage.of_key, services.records, caller.key_id, days)
    return {
        "object": "list",
        "data": rows,
        "key": caller.name,
        "limits": {
            "requests_per_minute": caller.requests_per_minute,
            "tokens_per_day": caller.tokens_per_day,
        },
    }
