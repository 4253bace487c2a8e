"""/v1/store: every version of every model that was made here, with where it came from
and how it scores; its card; promote and roll back; what lies on the disk.
"""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Path
from pydantic import Field

from miaobi.core import bundle
from miaobi.core.language import language
from miaobi.core.store import NAME, Store, Version
from miaobi.serve.callers import CurrentOperator
from miaobi.serve.stored import card_of, disk_use
from miaobi.serve.text.fields import Closed
from miaobi.verbs import models

router = APIRouter(prefix="/v1/store", tags=["store"])
Name = Annotated[str, Path(pattern=f"^{NAME.pattern}$")]


Number = Annotated[int, Path(ge=1, le=2**31 - 1)]


class Promotion(Closed):
    version: int = Field(ge=1, le=2**31 - 1)


def _version(
    version: Version, manifest: bundle.Manifest, row: dict[str, Any]
) -> dict[str, Any]:
    """One version as JSON. Never where it lies on this machine."""
    aliases = row["alias"].split()
    store = Store()
    history = store.production(version.name)
    is_production = "production" in aliases
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
        "scores": [_score(score) for score in store.scores(version)],
        "production": is_production,
        "before": history[-2] if is_production and len(history) > 1 else None,
        "latest": "latest" in aliases,
    }


def _score(row: dict[str, Any]) -> dict[str, Any]:
    """A score and its 95 % interval, with its label in the caller's language; and the
    base's on the same examples, where it was tuned from one.
    """
    names = ("name", "value", "low", "high", "n", "unit", "better")
    return {
        **{name: row[name] for name in names},
        "label": row["label"][language()] or row["name"],
        "base": row.get("base"),
    }


@router.get("/models")
def list_versions() -> dict[str, Any]:
    """Every version of every model in the store, oldest first by name."""
    return {"object": "list", "data": [_version(*row) for row in models.versions()]}


@router.get("/models/{name}/versions/{number}")
def retrieve_version(name: Name, number: Number) -> dict[str, Any]:
    """The card of one version: what it was made from and by which recipe, its scores,
    the hashes of its files, the licences of what it comes from, and what depends on it.
    """
    return card_of(Store().resolve(f"{name}@{number}"))


@router.get("/disk")
def disk() -> dict[str, Any]:
    """What lies on the disk, in bytes: models, packs, files, prepared data; and what is
    free.
    """
    return disk_use()


@router.post("/models/{name}/promote")
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


@router.post("/models/{name}/rollback")
def rollback(name: Name, caller: CurrentOperator) -> dict[str, Any]:
    """Back to the version that was in production before."""
    done = models.rollback(name)
    return {
        "object": "model.promotion",
        "name": name,
        "version": int(done.models[0].rpartition("@")[2]),
        "message": done.message,
    }
