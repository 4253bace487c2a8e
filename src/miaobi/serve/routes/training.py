"""/v1/training: a recipe and data in, a model from nothing under its own name out. Not
in OpenAI's API, but in the shape of its fine-tuning jobs.
"""

from __future__ import annotations

import secrets
from typing import Any

import anyio.to_thread
import psutil
from fastapi import APIRouter

from miaobi.core.language import say
from miaobi.core.machine import physical_cores
from miaobi.serve.callers import Caller, CurrentCaller
from miaobi.serve.errors import ApiError
from miaobi.serve.jobs.training import (
    Create,
    data_suffix,
    find_recipe,
    recipes,
    trained_name,
)
from miaobi.serve.records import Job, new_id
from miaobi.serve.routes.jobs import JobRoutes, measure
from miaobi.serve.services import Services, Serving

router = APIRouter(prefix="/v1/training", tags=["training"])

KIND = "training"
ESTIMATE = "training_estimate"
PURPOSES = ("user_data", "fine-tune")
"""Of files that may be trained on."""


@router.get("/recipes")
def list_recipes(caller: CurrentCaller) -> dict[str, Any]:
    """What can be trained here, and on which data where the caller brings none."""
    return {
        "object": "list",
        "data": [
            {
                "id": one.id,
                "object": "training.recipe",
                "family": one.family,
                "modality": one.folder.modality,
                "data": one.pack or None,
                "description": one.about,
                "measured": {"seconds": one.seconds, "memory_bytes": one.memory_bytes},
                "steps": one.steps,
                "command": one.command,
            }
            for one in recipes().values()
        ],
    }


@router.get("/machine")
def machine(caller: CurrentCaller) -> dict[str, Any]:
    """What jobs run on: processors, and memory in bytes."""
    memory = psutil.virtual_memory()
    return {
        "object": "machine",
        "cores": physical_cores(),
        "memory": {"free": memory.available, "total": memory.total},
    }


@router.post("/jobs")
def create(fields: Create, services: Serving, caller: CurrentCaller) -> dict[str, Any]:
    """Train a model by a recipe, on its data or on an uploaded file."""
    id = new_id("trainjob")
    request = _check(fields, services, caller, id)
    return to_object(services.jobs.add(KIND, caller.key_id, request, id))


@router.post("/estimates")
async def estimate(
    fields: Create, services: Serving, caller: CurrentCaller
) -> dict[str, Any]:
    """What a job would cost here: time, memory and disk, measured on a few of its steps."""
    id = new_id("trainestimate")
    request = await anyio.to_thread.run_sync(_check, fields, services, caller, id)
    return {
        "object": "training.estimate",
        **await measure(services, caller, ESTIMATE, request, id),
    }


def _check(
    fields: Create, services: Services, caller: Caller, id: str
) -> dict[str, Any]:
    """Return the request of the job. Raise ApiError for recipes and files that cannot be used."""
    recipe = find_recipe(fields.recipe)
    ending = None
    if fields.training_file is not None:
        file = services.files.find(fields.training_file, caller.key_id)
        if file.purpose not in PURPOSES:
            raise ApiError(
                400,
                say(
                    "training_file is not for training; upload it with purpose user_data.",
                    "training_file 不是训练数据；请以 user_data 上传。",
                ),
                param="training_file",
            )
        ending = data_suffix(file.filename, recipe.folder.suffixes)
    elif not recipe.pack:
        raise ApiError(
            400,
            say(
                f"{recipe.id} has no data of its own; upload some and name it as training_file.",
                f"{recipe.id} 不自带数据；请上传文件并填入 training_file。",
            ),
            param="training_file",
        )
    return {
        "recipe": recipe.id,
        "training_file": fields.training_file,
        "ending": ending,
        "suffix": fields.suffix,
        "seed": secrets.randbelow(2**31) if fields.seed is None else fields.seed,
        "metadata": fields.metadata,
        "miaobi": fields.miaobi,
        "trained_model": trained_name(recipe.id, fields.suffix, id),
        "result_file_id": new_id("file"),
    }


def to_object(job: Job) -> dict[str, Any]:
    """The job's object."""
    request = job.request
    result = job.result
    return {
        "id": job.id,
        "object": "training.job",
        "created_at": job.created,
        "finished_at": job.ended,
        "status": job.status,
        "recipe": request["recipe"],
        "trained_model": result.get("trained_model"),
        "error": job.error,
        "training_file": request["training_file"],
        "result_files": result.get("result_files", []),
        "seed": request["seed"],
        "suffix": request["suffix"],
        "metadata": request["metadata"],
        "miaobi": {
            "will_be_called": request["trained_model"],
            "step": result.get("step"),
            "steps": result.get("steps"),
            "metrics": result.get("metrics"),
            "settings": request["miaobi"],
        },
    }


JobRoutes(KIND, "trained_model", to_object).add_to(router)
