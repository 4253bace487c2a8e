"""The models of a server: opened when first asked for, shared by all who ask, closed when memory is wanted.

A name from outside is a name in the store, a starter pack, or one of --model; never a path, URL or hub id.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from miaobi.core.engine import Weights
from miaobi.engines.load import Model
from miaobi.serve.settings import Settings

Find = Callable[[str], Weights]
"""A served name to its weights. Raises NotFound."""
Open = Callable[[Weights], Model]
"""Slow; called in a thread."""


class Pool:
    def __init__(self, settings: Settings, find: Find, names: Callable[[], list[str]], open_model: Open) -> None:
        self.settings, self.find, self.names, self._open_model = settings, find, names, open_model
        self._opened: dict[str, Model] = {}
        self._opening = asyncio.Lock()

    @asynccontextmanager
    async def lease(self, name: str, modality: str = "text") -> AsyncIterator[Model]:
        """The opened model of that name, which stays open until the block is left. Raises NotFound, Unsupported, DoesNotFit."""
        weights = self.find(name)
        async with self._opening:
            if weights.label not in self._opened:
                self._opened[weights.label] = await asyncio.to_thread(self._open_model, weights)
        yield self._opened[weights.label]

    async def close(self) -> None:
        for model in self._opened.values():
            await asyncio.to_thread(model.close)
        self._opened.clear()
