"""OpenAI's lists."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


def page(found: Sequence[dict[str, Any]], limit: int) -> dict[str, Any]:
    """The first `limit` of what was found, and whether there was more."""
    shown = list(found[:limit])
    return {"object": "list", "data": shown, "first_id": shown[0]["id"] if shown else None, "last_id": shown[-1]["id"] if shown else None,
            "has_more": len(found) > limit}
