"""Who may come in now: a bounded queue before a bounded number of places, and each key's own rates and budgets."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from fastapi import Request

from miaobi.serve.settings import Settings


@dataclass(frozen=True)
class Caller:
    """Who asks. Without keys there is one: key_id "local"."""

    key_id: str = "local"
    name: str = "local"
    requests_per_minute: int | None = None
    tokens_per_day: int | None = None


def caller_of(request: Request) -> Caller:
    """For routes: `caller: Annotated[Caller, Depends(caller_of)]`. The guard found out."""
    found: Caller = getattr(request.state, "caller", Caller())
    return found


@dataclass
class Place:
    """A place at work. What was used of the model is added up here and recorded when it is given back."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    pictures: int = 0


class Admission:
    def __init__(self, settings: Settings) -> None:
        self._places = asyncio.Semaphore(settings.streams)

    @asynccontextmanager
    async def place(self, caller: Caller, model: str) -> AsyncIterator[Place]:
        """A place for one request to `model`, freed when the block is left, whoever went away. Raises ApiError 429 or 503."""
        async with self._places:
            yield Place()
