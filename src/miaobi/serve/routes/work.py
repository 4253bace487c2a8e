"""/v1/jobs: everything of a caller that runs in the background, of whatever kind. What
is told here of a job is little; the rest is at its own address.
"""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Query

from miaobi.serve.callers import CurrentCaller
from miaobi.serve.pages import page
from miaobi.serve.records import Job
from miaobi.serve.services import Serving

router = APIRouter(prefix="/v1/jobs", tags=["jobs"])

ADDRESSES = {
    "training": "/v1/training/jobs",
    "fine_tuning": "/v1/fine_tuning/jobs",
    "export": "/v1/exports/jobs",
    "batch": "/v1/batches",
}
"""Where the jobs of a kind are."""
NAMES = ("trained_model", "fine_tuned_model", "model", "endpoint")
"""Fields of a request that a job is known by, the best first."""


def to_object(job: Job) -> dict[str, Any]:
    """What jobs of all kinds have."""
    request = job.request
    return {
        "id": job.id,
        "object": "job",
        "kind": job.kind,
        "name": next(request[name] for name in NAMES if name in request),
        "from": request.get("recipe") or request.get("model"),
        "status": job.status,
        "created_at": job.created,
        "started_at": job.started,
        "finished_at": job.ended,
        "progress": {
            name: job.result[name]
            for name in ("step", "steps", "total", "completed")
            if job.result.get(name) is not None
        },
        "error": job.error,
        "url": f"{ADDRESSES[job.kind]}/{job.id}",
    }


@router.get("")
def list_jobs(
    services: Serving,
    caller: CurrentCaller,
    after: str | None = None,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
) -> dict[str, Any]:
    """The caller's jobs of every kind, newest first: training, fine-tuning, exports and
    batches. `url` is where a job's own object and events are.
    """
    jobs = services.jobs.of_kinds(ADDRESSES, caller.key_id, after, limit)
    return page([to_object(job) for job in jobs], limit)


@router.get("/counts")
def counts(services: Serving, caller: CurrentCaller) -> dict[str, Any]:
    """How many jobs of the caller there are in each state."""
    by_status = services.jobs.counts_of(ADDRESSES, caller.key_id)
    return {"object": "job.counts", "counts": by_status}


@router.get("/{job_id}")
def retrieve(job_id: str, services: Serving, caller: CurrentCaller) -> dict[str, Any]:
    """One job, of whatever kind."""
    return to_object(services.jobs.find_any(job_id, tuple(ADDRESSES), caller.key_id))
