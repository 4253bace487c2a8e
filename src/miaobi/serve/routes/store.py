"""/v1/store: every version of every model that was made here, with where it came from
and how it scores; promote and roll back.
"""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Path
from pydantic import Field

from miaobi.core import bundle
from miaobi.core.store import NAME, Version
from miaobi.serve.callers import CurrentOperator
from miaobi.serve.text.fields import Closed
from miaobi.verbs import models

router = APIRouter(prefix="/v1/store/models", tags=["store"])
Name = Annotated[str, Path(pattern=f"^{NAME.pattern}$")]


class Promotion(Closed):
    version: int = Field(ge=1, le=2**31 - 1)


def _version(
    version: Version, manifest: bundle.Manifest, row: dict[str, Any]
) -> dict[str, Any]:
    """One version as JSON. Never where it lies on this machine."""
    aliases = row["alias"].split()
    return {
        "object": "model.version",
        "id": row["model"],
        "name": version.name,
        "version": version.number,
        "family": manifest.family,
        "modality": manifest.modality,
        "created": manifest.created,
        "bytes": round(row["megabytes"] * 1e6),
        "parents": list(manifest.parents),
        "metrics": {
            name: value
            for name, value in manifest.metrics.items()
            if isinstance(value, (int, float))
        },
        "production": "production" in aliases,
        "latest": "latest" in aliases,
    }


@router.get("")
def list_versions() -> dict[str, Any]:
    """Every version of every model in the store, oldest first by name."""
    return {"object": "list", "data": [_version(*row) for row in models.versions()]}


@router.post("/{name}/promote")
def promote(
    name: Name, promotion: Promotion, caller: CurrentOperator
) -> dict[str, Any]:
    """Make a version the one that the bare name means. Answers that run go on with the
    version they began with.
    """
    done = models.promote(f"{name}@{promotion.version}")
    return {
        "object": "model.promotion",
        "name": name,
        "version": promotion.version,
        "message": done.message,
    }


@router.post("/{name}/rollback")
def rollback(name: Name, caller: CurrentOperator) -> dict[str, Any]:
    """Back to the version that was in production before."""
    done = models.rollback(name)
    return {
        "object": "model.promotion",
        "name": name,
        "version": int(done.models[0].rpartition("@")[2]),
        "message": done.message,
    }
