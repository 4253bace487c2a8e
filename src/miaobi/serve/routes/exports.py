"""/v1/exports: a model of the store in another program's format, made by a job and then
downloaded as a file.
"""

from __future__ import annotations

from typing import Annotated, Any

from anyio import to_thread
from fastapi import APIRouter, Query
from pydantic import Field

from miaobi.core.engine import Weights
from miaobi.core.language import in_each, say
from miaobi.models.convert.quantise import Dtype
from miaobi.serve.callers import CurrentCaller
from miaobi.serve.errors import ApiError
from miaobi.serve.records import Job, new_id, now
from miaobi.serve.routes.jobs import JobRoutes
from miaobi.serve.services import Services, Serving
from miaobi.serve.text.fields import Closed
from miaobi.verbs.export.offers import Offer, To, offers

router = APIRouter(prefix="/v1/exports", tags=["exports"])

KIND = "export"
FILE_SECONDS = 7 * 86_400
"""After so long, the file of an export expires."""


class Create(Closed):
    model: str = Field(max_length=128)
    to: To = "gguf"
    dtype: Dtype = "f16"
    merge: bool = False


def _offers(name: str, services: Services) -> tuple[Weights, list[Offer]]:
    weights = services.pool.find(name)
    return weights, offers(weights)


@router.get("/offers")
def list_offers(
    model: Annotated[str, Query(max_length=128)], services: Serving
) -> dict[str, Any]:
    """What a model can be exported to."""
    weights, offered = _offers(model, services)
    return {
        "object": "list",
        "model": weights.label,
        "data": [
            {
                "object": "export.offer",
                "to": offer.to,
                "merge": offer.merge,
                "dtypes": list(offer.dtypes),
            }
            for offer in offered
        ],
    }


@router.post("/jobs")
async def create(
    fields: Create, services: Serving, caller: CurrentCaller
) -> dict[str, Any]:
    """Export a model. Its file can be downloaded for a week: /v1/files/{file}/content."""
    weights, offered = await to_thread.run_sync(_offers, fields.model, services)
    chosen = (fields.to, fields.merge)
    if chosen not in [(offer.to, offer.merge) for offer in offered]:
        raise _not_offered(weights.label, fields, offered)
    request = {
        **fields.model_dump(),
        "model": weights.label,
        "file": new_id("file"),
        "expires_at": now() + FILE_SECONDS,
    }
    job = await to_thread.run_sync(
        services.jobs.add, KIND, caller.key_id, request, new_id(KIND)
    )
    return to_object(job)


def _not_offered(label: str, fields: Create, offered: list[Offer]) -> ApiError:
    merged = say(" with its adapter merged", "（合并适配器）") if fields.merge else ""
    names = sorted({offer.to for offer in offered})
    remedy = say("It cannot be exported.", "该模型无法导出。")
    if names:
        remedy = say(
            f"Supported: {', '.join(names)} (GET /v1/exports/offers).",
            f"支持：{'、'.join(names)}（GET /v1/exports/offers）。",
        )
    problem = in_each(
        lambda: say(
            f"{label} cannot be exported to {fields.to}{merged}. ",
            f"{label} 不能导出为 {fields.to}{merged}。",
        )
    )
    return ApiError(400, problem + remedy, code="unsupported", param="to")


def to_object(job: Job) -> dict[str, Any]:
    """The job's object."""
    request = job.request
    result = job.result
    return {
        "id": job.id,
        "object": "export.job",
        "created_at": job.created,
        "finished_at": job.ended,
        "status": job.status,
        "model": request["model"],
        "to": request["to"],
        "dtype": request["dtype"] if request["to"] == "gguf" else None,
        "merge": request["merge"],
        "file": result.get("file"),
        "filename": result.get("filename"),
        "bytes": result.get("bytes"),
        "compared": result.get("compared", []),
        "expires_at": request["expires_at"],
        "error": job.error,
    }


JobRoutes(KIND, "model", to_object, steps=False).add_to(router)
