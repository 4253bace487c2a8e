"""What OpenAI's lists and jobs have in common."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

from pydantic import Field

Metadata = Annotated[
    dict[Annotated[str, Field(max_length=64)], Annotated[str, Field(max_length=512)]],
    Field(max_length=16),
]
"""A caller's own notes on a job."""


def page(objects: Sequence[dict[str, Any]], limit: int) -> dict[str, Any]:
    """Return OpenAI's list of the first `limit` objects, and whether there are more."""
    listed = list(objects[:limit])
    return {
        "object": "list",
        "data": listed,
        "first_id": listed[0]["id"] if listed else None,
        "last_id": listed[-1]["id"] if listed else None,
        "has_more": len(objects) > limit,
    }
