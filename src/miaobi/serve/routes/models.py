"""/v1/models: what this server answers for, each with what it makes and what it was made from."""

from __future__ import annotations

from typing import Any

from anyio import to_thread
from fastapi import APIRouter

from miaobi.core.language import say
from miaobi.models.weights import context_length_of
from miaobi.serve.callers import CurrentOperator
from miaobi.serve.errors import ApiError
from miaobi.serve.services import Services, Serving
from miaobi.verbs import models

router = APIRouter(prefix="/v1/models", tags=["models"])


@router.get("")
def list_models(services: Serving) -> dict[str, Any]:
    """Every model, by name."""
    return {
        "object": "list",
        "data": [services.pool.facts(name) for name in services.pool.names()],
    }


@router.get("/{name}")
def retrieve(name: str, services: Serving) -> dict[str, Any]:
    """One model: "poet", or one of its versions, "poet@2".

    context_length: tokens of prompt and answer together: those of the open model, else
        what its files say; null where nothing does.
    """
    weights = services.pool.find(name)
    tokens = services.pool.context_length(weights) or context_length_of(weights)
    return {**services.pool.facts(name), "context_length": tokens}


@router.delete("/{name}")
async def delete(
    name: str, services: Serving, caller: CurrentOperator
) -> dict[str, Any]:
    """Remove a model that was made here: one of its versions ("poet@2"), or all of them.
    Answers that run go on to their end. Refused (409) for the version in production, for
    what the server was started to serve, and while an adapter in the store runs on it.
    """
    weights = await to_thread.run_sync(services.pool.find, name)
    if not weights.version:
        raise ApiError(
            400,
            say(
                f"{name[:200]} was not made here, so it cannot be deleted here: only "
                "models in the store can (GET /v1/store/models).",
                f"{name[:200]} 不是在此服务器上训练的，无法在此删除：只能删除模型库中的模型（GET /v1/store/models）。",
            ),
            code="not_in_store",
            param="model",
        )
    await to_thread.run_sync(_remove, name, services)
    services.pool.retire(name)
    return {"id": name, "object": "model", "deleted": True}


def _remove(name: str, services: Services) -> None:
    """Remove versions. Raises ApiError 409 for those that this server was started to
    serve; Conflict for the one in production, and while others depend on one.
    """
    labels = {str(version) for version in models.removable(name)}
    for configured in services.settings.models:
        served = configured.partition("=")[0]
        if services.pool.find(served).label in labels:
            raise ApiError(
                409,
                say(
                    f"{name} is served here: the server was started with --model "
                    f"{served}. Start it without, then delete it.",
                    f"{name} 正在提供服务：服务器以 --model {served} 启动。请去掉该选项重新启动后再删除。",
                ),
                code="served",
                param="model",
            )
    models.remove(name)
