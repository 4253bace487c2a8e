"""Groups of HTTP endpoints, one module each: it offers `router`, a fastapi.APIRouter.

A module whose paths may stand in a batch names them: BATCH = ("/v1/embeddings",).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from miaobi.core.registry import Registry

if TYPE_CHECKING:
    from fastapi import APIRouter


class RouteModule(Protocol):
    router: APIRouter


routes: Registry[RouteModule] = Registry(
    "routes",
    {
        "images": "miaobi.serve.routes.images",
        "models": "miaobi.serve.routes.models",
        "moderations": "miaobi.serve.routes.moderations",
        "chat": "miaobi.serve.routes.chat",
        "completions": "miaobi.serve.routes.completions",
        "messages": "miaobi.serve.routes.messages",
        "responses": "miaobi.serve.routes.responses",
        "tokens": "miaobi.serve.routes.tokens",
        "embeddings": "miaobi.serve.routes.embeddings",
        "rerank": "miaobi.serve.routes.rerank",
        "operations": "miaobi.serve.routes.operations",
        "speech": "miaobi.serve.routes.speech",
        "absent": "miaobi.serve.routes.absent",
        "docs": "miaobi.serve.routes.docs",
        "store": "miaobi.serve.routes.store",
        "packs": "miaobi.serve.routes.packs",
        "exports": "miaobi.serve.routes.exports",
        "work": "miaobi.serve.routes.work",
        "feedback": "miaobi.serve.routes.feedback",
        "files": "miaobi.serve.routes.files",
        "uploads": "miaobi.serve.routes.uploads",
        "batches": "miaobi.serve.routes.batches",
        "fine_tuning": "miaobi.serve.routes.fine_tuning",
        "training": "miaobi.serve.routes.training",
    },
)


def batch_paths() -> list[str]:
    """Return the paths that a request of a batch may name."""
    modules = [routes.get(name) for name in routes.names()]
    return [path for module in modules for path in getattr(module, "BATCH", ())]
