"""Two engines for one model: a lone request goes to the first, requests that overlap to
the second once it is open.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any

import pytest

from miaobi.core.engine import Abilities, Chunk, TextEngine, accepted
from miaobi.core.errors import Unsupported
from miaobi.core.requests import Request, TextRequest
from miaobi.engines.paired import GRACE_SECONDS, Paired


class NamedEngine:
    """Answers with its own name, as soon as its gate is open."""

    takes = TextRequest
    chats = True
    context_length = 64

    def __init__(
        self, name: str, *controls: str, refuses_logprobs: bool = False
    ) -> None:
        self.name = name
        self.refuses_logprobs = refuses_logprobs
        self.abilities = Abilities(
            frozenset({"prompt", "n", "seed", "max_new_tokens", *controls})
        )
        self.closed = False
        self.gate = asyncio.Event()
        self.gate.set()

    async def generate(self, request: Request) -> AsyncIterator[Chunk]:
        text_request = accepted(request, TextRequest, self.abilities, self.name)
        if self.refuses_logprobs and text_request.logprobs:
            raise Unsupported("no top_logprobs")
        await self.gate.wait()
        yield Chunk(text=self.name, tokens=1, finish="stop")

    def close(self) -> None:
        self.closed = True


@dataclass
class Pair:
    """A low-latency engine and one that `open_throughput` gives out."""

    throughput: NamedEngine
    low_latency: NamedEngine
    openings: int = 0
    may_open: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        self.may_open.set()
        self.engine = Paired(
            self.low_latency, self.open_throughput, self.throughput.abilities
        )

    def open_throughput(self) -> TextEngine:
        self.openings += 1
        assert self.may_open.wait(20)
        return self.throughput

    @property
    def is_open(self) -> bool:
        opening = self.engine._opening
        return opening is not None and opening.done()

    async def answer(self, **controls: Any) -> str:
        return await answer(self.engine, **controls)


def pair(*low_latency_controls: str, throughput: NamedEngine | None = None) -> Pair:
    return Pair(
        throughput or NamedEngine("throughput"),
        NamedEngine("low_latency", *low_latency_controls),
    )


async def answer(engine: Paired, **controls: Any) -> str:
    request = TextRequest(prompt="x", **controls)
    texts = [chunk.text async for chunk in engine.generate(request)]
    return "".join(texts)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.005)


def test_lone_requests_stay_with_the_first() -> None:
    async def scenario() -> None:
        engines = pair()
        for _ in range(3):
            assert await engines.answer() == "low_latency"
        assert engines.openings == 0
        engines.engine.close()
        assert engines.low_latency.closed
        assert not engines.throughput.closed

    asyncio.run(scenario())


def test_overlapping_requests_go_to_the_second_once_it_is_open() -> None:
    async def scenario() -> None:
        engines = pair()
        engines.may_open.clear()
        engines.low_latency.gate.clear()
        first = asyncio.create_task(engines.answer())
        second = asyncio.create_task(engines.answer())
        await until(lambda: engines.openings > 0)
        engines.low_latency.gate.set()
        # Nobody waits for the second to open.
        assert await asyncio.gather(first, second) == ["low_latency", "low_latency"]

        engines.may_open.set()
        await until(lambda: engines.is_open)
        engines.low_latency.gate.clear()
        held = asyncio.create_task(engines.answer())
        await asyncio.sleep(0)
        overlapping = await asyncio.gather(engines.answer(), engines.answer())
        assert overlapping == ["throughput", "throughput"]
        assert await engines.answer(n=3) == "throughput"

        engines.low_latency.gate.set()
        assert await held == "low_latency"
        assert await engines.answer() == "low_latency"
        assert engines.openings == 1
        engines.engine.close()
        assert engines.low_latency.closed
        assert engines.throughput.closed

    asyncio.run(scenario())


def test_the_first_of_many_goes_with_them() -> None:
    async def scenario() -> None:
        engines = pair()
        await asyncio.gather(engines.answer(), engines.answer())
        await until(lambda: engines.is_open)
        engines.throughput.gate.clear()
        answers = [asyncio.create_task(engines.answer()) for _ in range(3)]
        await asyncio.sleep(2 * GRACE_SECONDS)
        engines.throughput.gate.set()
        assert await asyncio.gather(*answers) == ["throughput"] * 3
        engines.engine.close()

    asyncio.run(scenario())


def test_controls_of_one_engine_only_go_to_that_one() -> None:
    async def scenario() -> None:
        engines = pair(
            "typical_p", throughput=NamedEngine("throughput", "min_new_tokens")
        )
        controls = engines.engine.abilities.controls
        assert controls >= {"min_new_tokens", "typical_p"}
        assert await engines.answer(min_new_tokens=2) == "throughput"
        engines.low_latency.gate.clear()
        held = asyncio.create_task(engines.answer())
        await asyncio.sleep(2 * GRACE_SECONDS)
        overlapping = asyncio.create_task(engines.answer(typical_p=0.5))
        await asyncio.sleep(0.05)
        engines.low_latency.gate.set()
        answers = await asyncio.gather(held, overlapping)
        assert answers == ["low_latency", "low_latency"]

    asyncio.run(scenario())


def test_the_first_answers_where_the_second_refuses() -> None:
    async def scenario() -> None:
        engines = pair(
            "logprobs",
            throughput=NamedEngine("throughput", "logprobs", refuses_logprobs=True),
        )
        engines.low_latency.gate.clear()
        held = asyncio.create_task(engines.answer())
        await asyncio.sleep(0)
        overlapping = asyncio.create_task(engines.answer())
        await until(lambda: engines.is_open)
        refused = asyncio.create_task(engines.answer(logprobs=3))
        await asyncio.sleep(0.05)
        engines.low_latency.gate.set()
        assert await held == "low_latency"
        assert await refused == "low_latency"
        assert await overlapping

    asyncio.run(scenario())


def test_the_first_answers_where_the_second_cannot_be_opened() -> None:
    def no_memory() -> TextEngine:
        raise RuntimeError("no memory")

    async def scenario() -> None:
        engine = Paired(
            NamedEngine("low_latency"), no_memory, NamedEngine("throughput").abilities
        )
        for _ in range(3):
            answers = await asyncio.gather(answer(engine), answer(engine))
            assert answers == ["low_latency", "low_latency"]
        engine.close()

    asyncio.run(scenario())


def test_a_cancelled_request_is_no_longer_counted() -> None:
    async def scenario() -> None:
        engines = pair()
        engines.low_latency.gate.clear()
        task = asyncio.create_task(engines.answer())
        await asyncio.sleep(0.01)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        engines.low_latency.gate.set()
        assert await engines.answer() == "low_latency"
        assert engines.openings == 0

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("control", "value"), [("top_k", 3), ("json_schema", {"type": "null"})]
)
def test_what_neither_offers_is_refused(control: str, value: Any) -> None:
    async def scenario() -> None:
        with pytest.raises(Unsupported, match=control):
            await pair().answer(**{control: value})

    asyncio.run(scenario())
