"""The models of a server: opened by the first request, shared by all requests, closed
when their memory is needed.

A model is opened once at a time, and models do not wait for each other. Memory is
estimated before a model is opened; to free memory, idle models are closed, the least
recently used first, and a model in use never is. A name is looked up for every request:
a version that was promoted answers the next request, while running ones end with the
model they began with.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from miaobi.core.engine import HasContext, Weights
from miaobi.core.errors import DoesNotFit, Unsupported
from miaobi.core.language import say
from miaobi.core.requests import Request, TextRequest, requests
from miaobi.engines.model import Model
from miaobi.serve.inputs import writes
from miaobi.serve.settings import Settings

log = logging.getLogger("miaobi.serve")

Find = Callable[[str], Weights]
"""A served name to its weights. Quick; raises NotFound."""
Open = Callable[[Weights], Model]
"""Slow; called in a thread."""


@dataclass(eq=False)
class Held:
    """A model that is open, or is being opened."""

    weights: Weights
    bytes: int
    """What it takes: the estimate, then what was measured."""
    opening: asyncio.Task[Model] = field(init=False)
    users: int = 0
    used: int = 0
    """When it was used last, as a number that grows."""
    replaced: bool = False
    """Its name means another version by now: it is closed after its last user."""

    @property
    def idle(self) -> bool:
        return self.users == 0 and self.opening.done()


class Pool:
    def __init__(
        self,
        settings: Settings,
        find: Find,
        names: Callable[[], list[str]],
        open_model: Open,
        estimate: Callable[[Weights], int] = lambda weights: 0,
        facts: Callable[[str], dict[str, Any]] | None = None,
    ) -> None:
        """A pool without open models.

        Args:
            settings: of the server.
            find: the weights of a name.
            names: of all models that are served.
            open_model: opens weights.
            estimate: the bytes that weights will take; 0 for unknown.
            facts: the object of a name in /v1/models; by default little more than the name.
        """
        self.settings = settings
        self.find = find
        self.names = names
        self._open_model = open_model
        self._estimate = estimate
        self.facts = facts or self._facts
        self._held: dict[str, Held] = {}
        self._clock = itertools.count()
        self._freeing_memory = asyncio.Lock()
        self._closing = set[asyncio.Task[None]]()
        self._budget = settings.memory_bytes

    def _facts(self, name: str) -> dict[str, Any]:
        return {
            "id": name,
            "object": "model",
            "created": 0,
            "owned_by": "miaobi",
            "modality": self.find(name).modality,
            "chats": writes(self.find(name)),
            "inputs": ["text"],
        }

    def opened(self) -> dict[str, int]:
        """The models that are open, and the bytes each takes."""
        return {
            label: held.bytes
            for label, held in self._held.items()
            if held.opening.done()
        }

    def context_length(self, weights: Weights) -> int | None:
        """Return the tokens that an open model holds, prompt and answer together; None
        where it is not open.
        """
        held = self._held.get(weights.label)
        if held is None or not held.opening.done() or held.opening.exception():
            return None
        engine = held.opening.result().engine
        return engine.context_length if isinstance(engine, HasContext) else None

    @asynccontextmanager
    async def lease(
        self, name: str, takes: type[Request] = TextRequest
    ) -> AsyncIterator[Model]:
        """Yield the opened model of that name, which stays open until the block is left.

        Args:
            name: a served name
            takes: the kind of request that it is to answer

        Raises NotFound, Unsupported, DoesNotFit.
        """
        weights = self.find(name)
        kinds = [requests.get(kind).makes for kind in requests.names()]
        if weights.modality in kinds and weights.modality != takes.makes:
            raise _other(name, weights.modality, takes.makes)
        held = await self._entered(name, weights)
        try:
            model = held.opening.result()
            if not issubclass(model.engine.takes, takes):
                raise _other(name, model.engine.takes.makes, takes.makes)
            yield model
        finally:
            self._leave(held)

    async def _entered(self, name: str, weights: Weights) -> Held:
        """Return the open model, with one user more. Where there is no memory for it
        beside the version in use, return that one.
        """
        held = self._held.get(weights.label)
        if held is None:
            held = self._hold(weights)
        held.users += 1
        held.replaced = False
        try:
            await asyncio.shield(held.opening)
        except BaseException as error:
            self._leave(held)
            older = next(
                (
                    other
                    for other in self._held.values()
                    if other.weights.name == weights.name and other.opening.done()
                ),
                None,
            )
            if older is None or "@" in name or not isinstance(error, DoesNotFit):
                raise
            log.warning("%s answers on: %s", older.weights.label, error.problem)
            older.users += 1
            return older
        return held

    def _leave(self, held: Held) -> None:
        held.users -= 1
        held.used = next(self._clock)
        self._let_go(held)

    async def warm(self, names: Sequence[str]) -> None:
        """Open these, one after the other. A model that cannot be opened is logged; the
        next request tries again.
        """
        for name in names:
            try:
                weights = self.find(name)
                held = self._held.get(weights.label) or self._hold(weights)
                await asyncio.shield(held.opening)
            except Exception as error:
                log.error("%s could not be opened: %s", name, error)

    def _hold(self, weights: Weights) -> Held:
        held = Held(weights, self._estimate(weights), used=next(self._clock))
        self._held[weights.label] = held
        held.opening = asyncio.ensure_future(self._open(held))
        # Marks the error as seen: requests that wait for the model raise it.
        held.opening.add_done_callback(
            lambda task: task.cancelled() or task.exception()
        )
        return held

    async def _open(self, held: Held) -> Model:
        try:
            await self._free_memory(held)
            others = any(
                not other.opening.done()
                for other in self._held.values()
                if other is not held
            )
            before = resident()
            model = await asyncio.to_thread(self._open_model, held.weights)
        except BaseException:
            if self._held.get(held.weights.label) is held:
                del self._held[held.weights.label]
            raise
        if not others and all(
            other.opening.done() for other in self._held.values() if other is not held
        ):
            # An engine that opens a part of itself later takes more than this, so an
            # estimate is not thrown away whole.
            apart = getattr(model.engine, "process_id", None)
            held.bytes = max(
                resident() - before + (resident(apart) if apart else 0), held.bytes // 2
            )
        for other in self._held.values():
            if other is not held and other.weights.name == held.weights.name:
                other.replaced = True
                self._let_go(other)
        return model

    async def _free_memory(self, held: Held) -> None:
        async with self._freeing_memory:
            self._budget = self._budget or free() // 2
            if held.bytes > self._budget:
                raise DoesNotFit(
                    say(
                        f"{held.weights.label} would take about "
                        f"{held.bytes / 1e6:,.0f} MB; this server may use "
                        f"{self._budget / 1e6:,.0f} MB for models.",
                        f"{held.weights.label} 约需 {held.bytes / 1e6:,.0f} MB "
                        f"内存；此服务器最多可用 {self._budget / 1e6:,.0f} MB。",
                    ),
                    say(
                        "Start it with a larger --memory-gb.",
                        "请以更大的 --memory-gb 启动服务器。",
                    ),
                )
            while sum(other.bytes for other in self._held.values()) > self._budget:
                idle = [
                    other
                    for other in self._held.values()
                    if other is not held and other.idle
                ]
                if not idle:
                    raise DoesNotFit(
                        say(
                            f"There is no memory for {held.weights.label} now: the models in use cannot be closed.",
                            f"暂时没有内存打开 {held.weights.label}：正在使用的模型不能关闭。",
                        ),
                        say(
                            "Try again in a moment, or start the server with a larger --memory-gb.",
                            "请稍后重试，或以更大的 --memory-gb 启动服务器。",
                        ),
                    )
                await self._close(min(idle, key=lambda other: other.used))

    def _let_go(self, held: Held) -> None:
        """Close a replaced version that is idle."""
        if held.replaced and held.idle and self._held.get(held.weights.label) is held:
            task = asyncio.ensure_future(self._close(held))
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)

    def retire(self, name: str) -> None:
        """Close a model whose name ("poet", or "poet@2") means nothing any more, after
        its last user.
        """
        for held in list(self._held.values()):
            if name in (held.weights.name, held.weights.label):
                held.replaced = True
                self._let_go(held)

    async def _close(self, held: Held) -> None:
        del self._held[held.weights.label]
        await asyncio.to_thread(held.opening.result().close)

    async def close(self) -> None:
        await asyncio.gather(
            *self._closing,
            *(held.opening for held in self._held.values()),
            return_exceptions=True,
        )
        for held in list(self._held.values()):
            await self._close(held)


def resident(number: int | None = None) -> int:
    """Return the bytes of memory that a process holds, by default this one; 0 if it ended."""
    import psutil

    try:
        return int(psutil.Process(number).memory_info().rss)
    except psutil.Error:
        return 0


def free() -> int:
    """Bytes of memory that can still be had."""
    import psutil

    return int(psutil.virtual_memory().available)


def _other(name: str, makes: str, wanted: str) -> Unsupported:
    kinds = [requests.get(kind) for kind in requests.names()]
    methods = {kind.makes: kind.client_methods for kind in kinds}
    return Unsupported(
        say(
            f"The model {name!r} makes {makes}, not {wanted}.",
            f"模型 {name!r} 生成 {makes}，而不是 {wanted}。",
        ),
        methods.get(makes, ""),
        field="model",
    )
