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
from miaobi.serve.jobs.tuning import Create, tuned_name
from miaobi.serve.records import Job, new_id
from miaobi.serve.routes.life import Life, measured
from miaobi.serve.services import Services, Serving

router = APIRouter(prefix="/v1/fine_tuning", tags=["fine-tuning"])

KIND, ESTIMATE = "fine_tuning", "estimate"


@router.post("/jobs")
def create(asked: Create, services: Serving, caller: CurrentCaller) -> dict[str, Any]:
    """Tune a model on an uploaded file of examples."""
    id = new_id("ftjob")
    kept = _checked(asked, services, caller, id)
    return shown(services.jobs.add(KIND, caller.key_id, kept, id))


@router.post("/estimates")
async def estimate(
    asked: Create, services: Serving, caller: CurrentCaller
) -> dict[str, Any]:
    """What a job would cost here: time, memory and disk, measured on a few of its
    examples. Not in OpenAI's API.
    """
    id = new_id("ftestimate")
    kept = await anyio.to_thread.run_sync(_checked, asked, services, caller, id)
    return {
        "object": "fine_tuning.estimate",
        **await measured(services, caller, ESTIMATE, kept, id),
    }


def _checked(
    asked: Create, services: Services, caller: Caller, id: str
) -> dict[str, Any]:
    """The job as it is kept. Raises ApiError or MiaobiError for files and models that
    cannot be used.
    """
    for name in ("training_file", "validation_file"):
        file_id = getattr(asked, name)
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
    weights = services.pool.find(asked.model)
    if weights.modality == "image":
        raise ApiError(
            400,
            say(
                f"{asked.model} makes pictures; this API tunes models that "
                "write or read. Tune it with `miaobi finetune --task "
                "diffusion`.",
                f"{asked.model} 是图片模型；此接口只微调文本模型。请用 `miaobi finetune --task diffusion`。",
            ),
            param="model",
        )
    seed = secrets.randbelow(2**31) if asked.seed is None else asked.seed
    return {
        "model": asked.model,
        "training_file": asked.training_file,
        "validation_file": asked.validation_file,
        "suffix": asked.suffix,
        "seed": seed,
        "kind": asked.kind,
        "hyperparameters": asked.chosen.model_dump(),
        "metadata": asked.metadata,
        "miaobi": asked.miaobi,
        "fine_tuned_model": tuned_name(asked.model, asked.suffix, id),
        "result_file_id": new_id("file"),
    }


def shown(job: Job) -> dict[str, Any]:
    """OpenAI's job object."""
    asked, result = job.asked, job.result
    method = {
        "type": asked["kind"],
        asked["kind"]: {"hyperparameters": asked["hyperparameters"]},
    }
    return {
        "id": job.id,
        "object": "fine_tuning.job",
        "created_at": job.created,
        "finished_at": job.ended,
        "status": job.status,
        "model": asked["model"],
        "fine_tuned_model": result.get("fine_tuned_model"),
        "organization_id": "miaobi",
        "error": job.error,
        "training_file": asked["training_file"],
        "validation_file": asked["validation_file"],
        "result_files": result.get("result_files", []),
        "trained_tokens": result.get("trained_tokens"),
        "seed": asked["seed"],
        "suffix": asked["suffix"],
        "method": method,
        "hyperparameters": {
            key: value
            for key, value in asked["hyperparameters"].items()
            if key != "beta"
        },
        "integrations": [],
        "metadata": asked["metadata"],
        "estimated_finish": None,
        "miaobi": {
            "will_be_called": asked["fine_tuned_model"],
            "step": result.get("step"),
            "metrics": result.get("metrics"),
            "settings": asked["miaobi"],
        },
    }


Life(KIND, "fine_tuned_model", shown).add_to(router)
