"""/v1/fine_tuning/jobs: a base and examples in, a model under its own name out; in
OpenAI's objects and life cycle.
"""

from __future__ import annotations

import secrets
from typing import Any

import anyio.to_thread
from fastapi import APIRouter

from miaobi.core.language import say
from miaobi.serve.callers import Caller, CurrentCaller
from miaobi.serve.errors import ApiError
from miaobi.serve.jobs.tuning import BASES_MAKE, Create, tuned_name
from miaobi.serve.records import Job, new_id
from miaobi.serve.routes.jobs import JobRoutes, measure
from miaobi.serve.services import Services, Serving

router = APIRouter(prefix="/v1/fine_tuning", tags=["fine-tuning"])

KIND = "fine_tuning"
ESTIMATE = "estimate"


@router.post("/jobs")
def create(fields: Create, services: Serving, caller: CurrentCaller) -> dict[str, Any]:
    """Tune a model on an uploaded file of examples."""
    id = new_id("ftjob")
    request = _check(fields, services, caller, id)
    return to_object(services.jobs.add(KIND, caller.key_id, request, id))


@router.post("/estimates")
async def estimate(
    fields: Create, services: Serving, caller: CurrentCaller
) -> dict[str, Any]:
    """What a job would cost here: time, memory and disk, measured on a few of its
    examples. Not in OpenAI's API.
    """
    id = new_id("ftestimate")
    request = await anyio.to_thread.run_sync(_check, fields, services, caller, id)
    return {
        "object": "fine_tuning.estimate",
        **await measure(services, caller, ESTIMATE, request, id),
    }


def _check(
    fields: Create, services: Services, caller: Caller, id: str
) -> dict[str, Any]:
    """Return the request of the job. Raise ApiError or MiaobiError for files and models that
    cannot be used.
    """
    for name in ("training_file", "validation_file"):
        file_id = getattr(fields, name)
        if (
            file_id is not None
            and services.files.find(file_id, caller.key_id).purpose != "fine-tune"
        ):
            raise ApiError(
                400,
                say(
                    f"{name} is not for fine-tuning; upload it with purpose fine-tune.",
                    f"{name} 不是微调数据；请以 fine-tune 上传。",
                ),
                param=name,
            )
    weights = services.pool.find(fields.model)
    if weights.modality not in BASES_MAKE:
        raise ApiError(
            400,
            say(
                f"{fields.model} makes {weights.modality}; this API tunes models that "
                f"write or read. Tune it with `miaobi finetune --base {fields.model}`.",
                f"{fields.model} 生成 {weights.modality}；此接口只微调文本模型。"
                f"请用 `miaobi finetune --base {fields.model}`。",
            ),
            param="model",
        )
    seed = secrets.randbelow(2**31) if fields.seed is None else fields.seed
    return {
        "model": fields.model,
        "training_file": fields.training_file,
        "validation_file": fields.validation_file,
        "suffix": fields.suffix,
        "seed": seed,
        "kind": fields.kind,
        "hyperparameters": fields.effective_hyperparameters.model_dump(),
        "metadata": fields.metadata,
        "miaobi": fields.miaobi,
        "fine_tuned_model": tuned_name(fields.model, fields.suffix, id),
        "result_file_id": new_id("file"),
    }


def to_object(job: Job) -> dict[str, Any]:
    """OpenAI's job object."""
    request = job.request
    result = job.result
    method = {
        "type": request["kind"],
        request["kind"]: {"hyperparameters": request["hyperparameters"]},
    }
    return {
        "id": job.id,
        "object": "fine_tuning.job",
        "created_at": job.created,
        "finished_at": job.ended,
        "status": job.status,
        "model": request["model"],
        "fine_tuned_model": result.get("fine_tuned_model"),
        "organization_id": "miaobi",
        "error": job.error,
        "training_file": request["training_file"],
        "validation_file": request["validation_file"],
        "result_files": result.get("result_files", []),
        "trained_tokens": result.get("trained_tokens"),
        "seed": request["seed"],
        "suffix": request["suffix"],
        "method": method,
        "hyperparameters": {
            key: value
            for key, value in request["hyperparameters"].items()
            if key != "beta"
        },
        "integrations": [],
        "metadata": request["metadata"],
        "estimated_finish": None,
        "miaobi": {
            "will_be_called": request["fine_tuned_model"],
            "step": result.get("step"),
            "steps": result.get("steps"),
            "metrics": result.get("metrics"),
            "settings": request["miaobi"],
        },
    }


JobRoutes(KIND, "fine_tuned_model", to_object).add_to(router)
