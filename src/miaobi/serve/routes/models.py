"""/v1/models: what this server answers for."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Depends

from miaobi.serve.services import Services, services_of

router = APIRouter(prefix="/v1/models", tags=["models"])


def _model(name: str) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": 0, "owned_by": "miaobi"}


@router.get("")
def list_models(services: Annotated[Services, Depends(services_of)]) -> dict[str, Any]:
    return {"object": "list", "data": [_model(name) for name in services.pool.names()]}


@router.get("/{name}")
def retrieve(name: str, services: Annotated[Services, Depends(services_of)]) -> dict[str, Any]:
    services.pool.find(name)
    return _model(name)
