"""/v1/batches: many requests in a file, answered when there is time, in OpenAI's objects."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query
from pydantic import AfterValidator, BaseModel, ConfigDict, Field
from pydantic_core import PydanticCustomError

from miaobi.core.language import say
from miaobi.serve.callers import CurrentCaller
from miaobi.serve.errors import ApiError
from miaobi.serve.pages import Metadata, page
from miaobi.serve.records import Job, new_id, now
from miaobi.serve.routes import batch_paths
from miaobi.serve.routes.jobs import JobRoutes
from miaobi.serve.services import Serving

router = APIRouter(prefix="/v1/batches", tags=["batches"])

KIND = "batch"
WINDOW_SECONDS = 86_400
OUTPUT_SECONDS = 30 * 86_400
STATUS = {
    "queued": "validating",
    "running": "in_progress",
    "paused": "in_progress",
    "succeeded": "completed",
    "failed": "failed",
    "cancelled": "cancelled",
}


class ExpiresAfter(BaseModel):
    model_config = ConfigDict(extra="forbid")
    anchor: Literal["created_at"]
    seconds: Annotated[int, Field(ge=3600, le=OUTPUT_SECONDS)]


def _check_endpoint(path: str) -> str:
    paths = batch_paths()
    if path not in paths:
        *others, last = map(repr, paths)
        raise PydanticCustomError(
            "literal_error",
            "Input should be {expected}",
            {"expected": f"{', '.join(others)} or {last}"},
        )
    return path


def _list_endpoints(schema: dict[str, Any]) -> None:
    schema["enum"] = batch_paths()


Endpoint = Annotated[
    str, AfterValidator(_check_endpoint), Field(json_schema_extra=_list_endpoints)
]
"""A path that requests of a batch may name: which those are, the routes say."""


class Create(BaseModel):
    model_config = ConfigDict(extra="forbid")
    input_file_id: str
    endpoint: Endpoint
    completion_window: Literal["24h"]
    metadata: Metadata | None = None
    output_expires_after: ExpiresAfter | None = None


@router.post("")
def create(fields: Create, services: Serving, caller: CurrentCaller) -> dict[str, Any]:
    """Have the requests of an uploaded file answered."""
    file = services.files.find(fields.input_file_id, caller.key_id)
    if file.purpose != "batch":
        raise ApiError(
            400,
            say(
                f"The file's purpose is {file.purpose!r}; upload it with purpose batch.",
                f"该文件的 purpose 为 {file.purpose!r}；请以 batch 上传。",
            ),
            param="input_file_id",
        )
    request = {
        **fields.model_dump(exclude={"output_expires_after"}),
        "expires_at": now() + WINDOW_SECONDS,
        "output_seconds": fields.output_expires_after.seconds
        if fields.output_expires_after
        else OUTPUT_SECONDS,
        "output_file_id": new_id("file"),
        "error_file_id": new_id("file"),
    }
    return to_object(services.jobs.add(KIND, caller.key_id, request, new_id(KIND)))


@router.get("")
def list_batches(
    services: Serving,
    caller: CurrentCaller,
    after: str | None = None,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
) -> dict[str, Any]:
    """The caller's batches, newest first."""
    return page(
        [
            to_object(job)
            for job in services.jobs.listed(KIND, caller.key_id, after, limit)
        ],
        limit,
    )


@router.get("/{batch_id}")
def retrieve(batch_id: str, services: Serving, caller: CurrentCaller) -> dict[str, Any]:
    """One batch."""
    return to_object(services.jobs.find(batch_id, KIND, caller.key_id))


@router.post("/{batch_id}/cancel")
def cancel(batch_id: str, services: Serving, caller: CurrentCaller) -> dict[str, Any]:
    """Stop a batch; what was answered stays and can be read."""
    job = services.jobs.find(batch_id, KIND, caller.key_id)
    if job.status in ("succeeded", "failed"):
        raise ApiError(
            409,
            say(
                f"The batch has ended already ({STATUS[job.status]}).",
                f"该批处理已结束（{STATUS[job.status]}）。",
            ),
            code="already_ended",
        )
    return to_object(services.jobs.cancel(batch_id, gently=True))


def to_object(job: Job) -> dict[str, Any]:
    """OpenAI's batch object."""
    request = job.request
    result = job.result
    status = STATUS[job.status]
    if job.status == "running":
        status = (
            "cancelling"
            if job.cancel
            else "finalizing"
            if result.get("finalizing_at")
            else "in_progress"
            if result.get("in_progress_at")
            else "validating"
        )
    if status == "completed" and result.get("expired"):
        status = "expired"
    errors = result.get("errors") or (
        [
            {
                "code": job.error["code"],
                "line": None,
                "message": job.error["message"],
                "param": None,
            }
        ]
        if job.error
        else None
    )
    return {
        "id": job.id,
        "object": "batch",
        "endpoint": request["endpoint"],
        "input_file_id": request["input_file_id"],
        "completion_window": request["completion_window"],
        "status": status,
        "created_at": job.created,
        "expires_at": request["expires_at"],
        "in_progress_at": result.get("in_progress_at"),
        "finalizing_at": result.get("finalizing_at"),
        "cancelling_at": result.get("cancelling_at"),
        **{
            f"{name}_at": job.ended if status == name else None
            for name in ("completed", "failed", "expired", "cancelled")
        },
        "errors": {"object": "list", "data": errors} if errors else None,
        "output_file_id": result.get("output_file_id"),
        "error_file_id": result.get("error_file_id"),
        "request_counts": {
            "total": result.get("total", 0),
            "completed": result.get("completed", 0),
            "failed": result.get("failed", 0),
        },
        "usage": result.get("usage"),
        "metadata": request["metadata"],
    }


router.add_api_route(
    "/{job_id}/events",
    JobRoutes(KIND, "", to_object, steps=False).events,
    methods=["GET"],
)
