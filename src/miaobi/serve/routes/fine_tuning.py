"""/v1/fine_tuning/jobs: a base and examples in, a model under its own name out; in OpenAI's objects and life cycle."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import AsyncIterator
from typing import Annotated, Any

import anyio.to_thread
from fastapi import APIRouter, Query
from fastapi.responses import StreamingResponse

from miaobi.core.language import say
from miaobi.serve.admission import Asking, Caller
from miaobi.serve.errors import ApiError
from miaobi.serve.jobs import ENDED
from miaobi.serve.pages import page
from miaobi.serve.records import Event, Job, new_id
from miaobi.serve.services import Services, Serving
from miaobi.serve.text.events import dumped
from miaobi.serve.tuning import Create, tuned_name

router = APIRouter(prefix="/v1/fine_tuning", tags=["fine-tuning"])

KIND, ESTIMATE = "fine_tuning", "estimate"
LOOK_SECONDS = 0.5
ESTIMATE_SECONDS = 300.0
"""The longest that a caller is kept waiting for an estimate."""

Limit = Annotated[int, Query(ge=1, le=1000)]


@router.post("/jobs")
def create(asked: Create, services: Serving, caller: Asking) -> dict[str, Any]:
    """Tune a model on an uploaded file of examples."""
    id = new_id("ftjob")
    kept = _checked(asked, services, caller, id)
    return shown(services.jobs.add(KIND, caller.key_id, kept, id))


@router.post("/estimates")
async def estimate(asked: Create, services: Serving, caller: Asking) -> dict[str, Any]:
    """What a job would cost here: time, memory and disk, measured on a few of its examples. Not in OpenAI's API."""
    if not services.settings.workers:
        raise ApiError(503, say("This server runs no jobs, so it cannot measure one.", "此服务器不运行任务，无法估算。"))
    id = new_id("ftestimate")
    kept = await anyio.to_thread.run_sync(_checked, asked, services, caller, id)
    await anyio.to_thread.run_sync(services.jobs.add, ESTIMATE, caller.key_id, kept, id)
    until = time.monotonic() + ESTIMATE_SECONDS
    try:
        while (job := await anyio.to_thread.run_sync(services.jobs.find, id, ESTIMATE, caller.key_id)).status not in ENDED:
            if time.monotonic() > until:
                raise ApiError(503, say("Measuring takes too long just now; the machine is busy.", "机器繁忙，估算超时。"), retry_after=60)
            await asyncio.sleep(LOOK_SECONDS)
    finally:
        with anyio.CancelScope(shield=True):
            await anyio.to_thread.run_sync(services.jobs.cancel, id)
    if job.status != "succeeded":
        error = job.error or {"message": say("The estimate was stopped.", "估算已停止。"), "code": None}
        raise ApiError(400, error["message"], code=error["code"])
    return {"object": "fine_tuning.estimate", **job.result}


def _checked(asked: Create, services: Services, caller: Caller, id: str) -> dict[str, Any]:
    """The job as it is kept. Raises ApiError or MiaobiError for files and models that cannot be used."""
    for name in ("training_file", "validation_file"):
        file_id = getattr(asked, name)
        if file_id is not None and services.files.find(file_id, caller.key_id).purpose != "fine-tune":
            raise ApiError(400, say(f"{name} is not for fine-tuning; upload it with purpose fine-tune.", f"{name} 不是微调数据；请以 fine-tune 上传。"), param=name)
    weights = services.pool.find(asked.model)
    if weights.modality == "image":
        raise ApiError(400, say(f"{asked.model} makes pictures; this API tunes models that write or read. Tune it with `miaobi finetune --task diffusion`.",
                                f"{asked.model} 是图片模型；此接口只微调文本模型。请用 `miaobi finetune --task diffusion`。"), param="model")
    seed = secrets.randbelow(2**31) if asked.seed is None else asked.seed
    return {"model": asked.model, "training_file": asked.training_file, "validation_file": asked.validation_file, "suffix": asked.suffix, "seed": seed,
            "kind": asked.kind, "hyperparameters": asked.chosen.model_dump(), "metadata": asked.metadata, "miaobi": asked.miaobi,
            "fine_tuned_model": tuned_name(asked.model, asked.suffix, id), "result_file_id": new_id("file")}


@router.get("/jobs")
def list_jobs(services: Serving, caller: Asking, after: str | None = None, limit: Limit = 20) -> dict[str, Any]:
    """The caller's jobs, newest first."""
    return page([shown(job) for job in services.jobs.listed(KIND, caller.key_id, after, limit)], limit)


@router.get("/jobs/{job_id}")
def retrieve(job_id: str, services: Serving, caller: Asking) -> dict[str, Any]:
    """One job."""
    return shown(services.jobs.find(job_id, KIND, caller.key_id))


@router.post("/jobs/{job_id}/cancel")
def cancel(job_id: str, services: Serving, caller: Asking) -> dict[str, Any]:
    """End a job without a model."""
    return _moved(services, caller, job_id, "cancel", ("queued", "running", "paused", "cancelled"))


@router.post("/jobs/{job_id}/pause")
def pause(job_id: str, services: Serving, caller: Asking) -> dict[str, Any]:
    """Stop a job at a checkpoint, to go on later."""
    return _moved(services, caller, job_id, "pause", ("queued", "running", "paused"))


@router.post("/jobs/{job_id}/resume")
def resume(job_id: str, services: Serving, caller: Asking) -> dict[str, Any]:
    """Go on with a paused job."""
    return _moved(services, caller, job_id, "resume", ("paused", "queued", "running"))


def _moved(services: Services, caller: Caller, job_id: str, what: str, fitting: tuple[str, ...]) -> dict[str, Any]:
    services.jobs.find(job_id, KIND, caller.key_id)
    job = {"cancel": services.jobs.cancel, "pause": services.jobs.pause, "resume": services.jobs.resume}[what](job_id)
    if job.status not in fitting:
        raise ApiError(409, say(f"The job is {job.status}.", f"该任务的状态为 {job.status}。"), code="wrong_status")
    return shown(job)


@router.get("/jobs/{job_id}/events")
async def events(job_id: str, services: Serving, caller: Asking, after: str | None = None, limit: Limit = 20, stream: bool = False) -> Any:
    """What happened, newest first; with `stream`, everything from the beginning as it happens, until the job ends."""
    await anyio.to_thread.run_sync(services.jobs.find, job_id, KIND, caller.key_id)
    if stream:
        return StreamingResponse(_as_they_come(services, job_id, caller), media_type="text/event-stream", headers={"Cache-Control": "no-cache"})

    def look() -> list[Event]:
        before = None if after is None else services.jobs.number_of(job_id, after) or 0
        return services.jobs.events(job_id, ("message", "metrics"), before=before, limit=limit + 1, newest_first=True)

    return page([event_shown(event) for event in await anyio.to_thread.run_sync(look)], limit)


async def _as_they_come(services: Services, job_id: str, caller: Caller) -> AsyncIterator[bytes]:
    last = 0
    while True:
        job = await anyio.to_thread.run_sync(services.jobs.find, job_id, KIND, caller.key_id)
        for event in await anyio.to_thread.run_sync(services.jobs.events, job_id, ("message", "metrics"), last):
            last = event.number
            yield b"data: " + dumped(event_shown(event)) + b"\n\n"
        if job.status in ENDED:
            break
        await asyncio.sleep(LOOK_SECONDS)
    yield b"data: [DONE]\n\n"


@router.get("/jobs/{job_id}/checkpoints")
def checkpoints(job_id: str, services: Serving, caller: Asking, after: str | None = None, limit: Limit = 10) -> dict[str, Any]:
    """Where a job can go on from, newest first. They are not served: the model that the job ends with is."""
    job = services.jobs.find(job_id, KIND, caller.key_id)
    before = None if after is None else services.jobs.number_of(job_id, after) or 0
    found = services.jobs.events(job_id, ("checkpoint",), before=before, limit=limit + 1, newest_first=True)
    return page([_checkpoint(job, event) for event in found], limit)


def _checkpoint(job: Job, event: Event) -> dict[str, Any]:
    metrics = event.data["metrics"]
    return {"id": event.id, "object": "fine_tuning.job.checkpoint", "created_at": event.created, "fine_tuning_job_id": job.id, "step_number": event.data["step"],
            "fine_tuned_model_checkpoint": f"{job.asked['fine_tuned_model']}:step-{event.data['step']}",
            "metrics": {"step": metrics.get("step"), "train_loss": metrics.get("train_loss"), "valid_loss": metrics.get("valid_loss")}}


def event_shown(event: Event) -> dict[str, Any]:
    """OpenAI's event object."""
    return {"id": event.id, "object": "fine_tuning.job.event", "created_at": event.created, "level": event.level, "message": event.message,
            "type": event.kind, "data": {key: value for key, value in event.data.items() if key != "what"}}


def shown(job: Job) -> dict[str, Any]:
    """OpenAI's job object."""
    asked, result = job.asked, job.result
    method = {"type": asked["kind"], asked["kind"]: {"hyperparameters": asked["hyperparameters"]}}
    return {"id": job.id, "object": "fine_tuning.job", "created_at": job.created, "finished_at": job.ended, "status": job.status,
            "model": asked["model"], "fine_tuned_model": result.get("fine_tuned_model"), "organization_id": "miaobi", "error": job.error,
            "training_file": asked["training_file"], "validation_file": asked["validation_file"], "result_files": result.get("result_files", []),
            "trained_tokens": result.get("trained_tokens"), "seed": asked["seed"], "suffix": asked["suffix"], "method": method,
            "hyperparameters": {key: value for key, value in asked["hyperparameters"].items() if key != "beta"}, "integrations": [],
            "metadata": asked["metadata"], "estimated_finish": None,
            "miaobi": {"will_be_called": asked["fine_tuned_model"], "step": result.get("step"), "metrics": result.get("metrics"), "settings": asked["miaobi"]}}
