"""What /openapi.json says beyond the routes' own words: the shape of errors, and that a
key is asked for.
"""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel, Field

from miaobi.serve.guard import OPEN


class Problem(BaseModel):
    message: str = Field(description="What was wrong, and what to do.")
    type: str
    param: str | None = Field(description="The field it is about.")
    code: str | None = Field(description="For programs to distinguish errors.")


class Refusal(BaseModel):
    error: Problem


ERRORS: dict[int | str, dict[str, Any]] = {
    "4XX": {
        "model": Refusal,
        "description": "Refused: what was sent cannot be used, or not now (429, with Retry-After).",
    },
    "5XX": {
        "model": Refusal,
        "description": "Not possible here (501), or not at this moment (503, with Retry-After).",
    },
}
"""Of every route: FastAPI's own 422 is not among what this server answers."""


def describe(app: FastAPI) -> None:
    """Make `app.openapi` tell of keys too."""

    def described() -> dict[str, Any]:
        if app.openapi_schema is None:
            schema = get_openapi(
                title=app.title,
                version=app.version,
                routes=app.routes,
                description=app.description,
            )
            schema.setdefault("components", {})["securitySchemes"] = {
                "key": {"type": "http", "scheme": "bearer"}
            }
            schema["security"] = [{"key": []}, {}]
            for path, methods in schema["paths"].items():
                if OPEN.fullmatch(path.replace("{name}", "a" * 22 + ".png")):
                    for operation in methods.values():
                        operation["security"] = []
            app.openapi_schema = schema
        return app.openapi_schema

    app.openapi = described  # type: ignore[method-assign]
