"""/v1/models: what this server answers for, each with what it makes and what it was made from."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Depends

from miaobi.serve.services import Services, services_of

router = APIRouter(prefix="/v1/models", tags=["models"])


@router.get("")
def list_models(services: Annotated[Services, Depends(services_of)]) -> dict[str, Any]:
    """Every model, by name."""
    return {"object": "list", "data": [services.pool.facts(name) for name in services.pool.names()]}


@router.get("/{name}")
def retrieve(name: str, services: Annotated[Services, Depends(services_of)]) -> dict[str, Any]:
    """One model: "poet", or one of its versions, "poet@2"."""
    return services.pool.facts(name)
