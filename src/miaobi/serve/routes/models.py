"""/v1/models: what this server answers for, each with what it makes and what it was made from."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter

from miaobi.serve.services import Serving

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
    """One model: "poet", or one of its versions, "poet@2"."""
    return services.pool.facts(name)
