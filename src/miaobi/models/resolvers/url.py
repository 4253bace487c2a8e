"""OpenAI-compatible servers: http://127.0.0.1:8080/v1."""

from __future__ import annotations

from miaobi.core.engine import Weights


def resolve(name: str) -> Weights | None:
    if not name.startswith(("http://", "https://")):
        return None
    address = name.rstrip("/")
    return Weights("url", address, address)


def names() -> list[str]:
    """Return none: nobody lists all servers."""
    return []
