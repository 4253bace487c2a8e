"""An engine that another package would bring: says the last message again, slowly
enough to be killed on the way.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from miaobi.core.engine import Abilities, Chunk
from miaobi.core.requests import TextRequest

FORMATS = ("bundle",)
ABILITIES = Abilities(frozenset(TextRequest.__dataclass_fields__))


def installed() -> None:
    """It always is."""


def reads(weights: Any) -> bool:
    return bool(weights.family == "toy")


def open_engine(weights: Any, streams: int = 1) -> Slow:
    return Slow()


class Slow:
    takes = TextRequest
    chats = True
    context_length = 4096
    abilities = ABILITIES

    async def generate(self, request: Any) -> AsyncIterator[Chunk]:
        await asyncio.sleep(0.05)
        yield Chunk(0, str(request.messages[-1]["content"]), tokens=2)
        yield Chunk(0, finish="stop")

    def close(self) -> None: ...
