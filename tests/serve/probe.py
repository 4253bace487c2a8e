"""Endpoints of the tests' own, so that the layers around endpoints are tested without
any that are for people.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Annotated, Any

from fastapi import APIRouter, Depends, FastAPI, Request
from fastapi.responses import StreamingResponse

from miaobi.serve.callers import Caller, caller_of
from miaobi.serve.services import Services, services_of

router = APIRouter()


@router.post("/v1/files")
async def form(request: Request) -> dict[str, Any]:
    if request.url.query == "count":
        return {"bytes": sum([len(part) async for part in request.stream()])}
    async with request.form() as form_fields:
        return {
            name: getattr(value, "filename", value)
            for name, value in form_fields.items()
        }


@router.post("/probe/body")
async def body(fields: dict[str, Any]) -> dict[str, Any]:
    return fields


@router.get("/probe/fails")
def fails() -> None:
    raise RuntimeError(f"a secret in {object()!r} at /etc/secrets/key.pem")


@router.post("/probe/say")
async def says(
    fields: dict[str, Any],
    services: Annotated[Services, Depends(services_of)],
    caller: Annotated[Caller, Depends(caller_of)],
) -> dict[str, Any]:
    return {"text": "".join([word async for word in _pieces(fields, services, caller)])}


@router.post("/probe/stream")
async def streams(
    fields: dict[str, Any],
    services: Annotated[Services, Depends(services_of)],
    caller: Annotated[Caller, Depends(caller_of)],
) -> StreamingResponse:
    return StreamingResponse(
        _pieces(fields, services, caller), media_type="text/event-stream"
    )


async def _pieces(
    fields: dict[str, Any], services: Services, caller: Caller
) -> AsyncIterator[str]:
    async with (
        services.admission.slot(caller, fields.get("model", "echo")) as slot,
        services.pool.lease(fields.get("model", "echo")) as model,
    ):
        slot.add("prompt_tokens", fields.get("prompt_tokens", 3))
        async for chunk in model.engine.generate(
            model.request(fields["say"], max_new_tokens=10_000)
        ):
            slot.add("completion_tokens", chunk.tokens)
            yield chunk.text


def with_probe(app: FastAPI) -> FastAPI:
    """`app` with these endpoints before its own."""
    routes = list(app.router.routes)
    app.router.routes.clear()
    app.include_router(router)
    app.router.routes.extend(routes)
    return app
