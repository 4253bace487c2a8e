"""Two engines for one model: a lone request goes to the first, requests that meet to
the second once it is open.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from typing import Any

import pytest

from miaobi.core.engine import Abilities, Chunk, accepted
from miaobi.core.errors import Unsupported
from miaobi.core.requests import Request, TextRequest
from miaobi.engines.paired import GRACE_SECONDS, Paired


class Says:
    """Its own name, when the gate is open."""

    modality, chats, context_length = "text", True, 64

    def __init__(self, name: str, *more: str, picky: bool = False) -> None:
        self.name, self.abilities, self.picky, self.closed = (
            name,
            Abilities(frozenset({"prompt", "n", "seed", "max_new_tokens", *more})),
            picky,
            False,
        )
        self.gate = asyncio.Event()

    async def generate(self, request: Request) -> AsyncIterator[Chunk]:
        asked = accepted(request, TextRequest, self.abilities, self.name)
        if self.picky and asked.logprobs:
            raise Unsupported("no rivals")
        await self.gate.wait()
        yield Chunk(text=self.name, tokens=1, finish="stop")

    def close(self) -> None:
        self.closed = True


async def said(engine: Any, **controls: Any) -> str:
    return "".join(
        [
            chunk.text
            async for chunk in engine.generate(TextRequest(prompt="x", **controls))
        ]
    )


def pair(crowd: Says, *more: str) -> tuple[Paired, Says, list[int], threading.Event]:
    solo, opened, door = Says("solo", *more), list[int](), threading.Event()
    door.set()
    solo.gate.set()
    crowd.gate.set()

    def open_crowd() -> Any:
        opened.append(1)
        assert door.wait(20)
        return crowd

    return Paired(solo, open_crowd, crowd.abilities), solo, opened, door


async def until(true: Any) -> None:
    async with asyncio.timeout(20):
        while not true():
            await asyncio.sleep(0.005)


def test_lone_requests_stay_with_the_first() -> None:
    async def scenario() -> None:
        crowd = Says("crowd")
        both, solo, opened, _ = pair(crowd)
        assert [await said(both) for _ in range(3)] == ["solo"] * 3 and not opened
        both.close()
        assert solo.closed and not crowd.closed

    asyncio.run(scenario())


def test_requests_that_meet_go_to_the_second_once_it_is_open_and_nobody_waits_for_that() -> (
    None
):
    async def scenario() -> None:
        crowd = Says("crowd")
        both, solo, opened, door = pair(crowd)
        door.clear()
        solo.gate.clear()
        first, second = asyncio.create_task(said(both)), asyncio.create_task(said(both))
        await until(lambda: opened)
        solo.gate.set()
        assert await asyncio.gather(first, second) == ["solo", "solo"]
        door.set()
        await until(lambda: both._opening.done())  # type: ignore[union-attr]
        solo.gate.clear()
        held = asyncio.create_task(said(both))
        await asyncio.sleep(0)
        assert (
            await asyncio.gather(said(both), said(both)) == ["crowd", "crowd"]
            and await said(both, n=3) == "crowd"
        )
        solo.gate.set()
        assert await held == "solo" and await said(both) == "solo" and len(opened) == 1
        both.close()
        assert solo.closed and crowd.closed

    asyncio.run(scenario())


def test_the_first_of_many_goes_with_them() -> None:
    async def scenario() -> None:
        crowd = Says("crowd")
        both, *_ = pair(crowd)
        await asyncio.gather(said(both), said(both))
        await until(lambda: both._opening is not None and both._opening.done())
        crowd.gate.clear()
        many = [asyncio.create_task(said(both)) for _ in range(3)]
        await asyncio.sleep(2 * GRACE_SECONDS)
        crowd.gate.set()
        assert await asyncio.gather(*many) == ["crowd"] * 3
        both.close()

    asyncio.run(scenario())


def test_what_only_one_offers_goes_to_that_one() -> None:
    async def scenario() -> None:
        both, solo, _, _ = pair(Says("crowd", "min_new_tokens"), "typical_p")
        assert both.abilities.controls >= {"min_new_tokens", "typical_p"}
        assert await said(both, min_new_tokens=2) == "crowd"
        solo.gate.clear()
        held = asyncio.create_task(said(both))
        await asyncio.sleep(2 * GRACE_SECONDS)
        other = asyncio.create_task(said(both, typical_p=0.5))
        await asyncio.sleep(0.05)
        solo.gate.set()
        assert await asyncio.gather(held, other) == ["solo", "solo"]

    asyncio.run(scenario())


def test_the_first_stands_in_for_a_second_that_refuses_or_cannot_be_opened() -> None:
    async def scenario() -> None:
        both, solo, _, _ = pair(Says("crowd", "logprobs", picky=True), "logprobs")
        solo.gate.clear()
        held = asyncio.create_task(said(both))
        await asyncio.sleep(0)
        meeting = asyncio.create_task(said(both))
        await until(lambda: both._opening is not None and both._opening.done())
        other = asyncio.create_task(said(both, logprobs=3))
        await asyncio.sleep(0.05)
        solo.gate.set()
        assert [(await held), (await other)] == ["solo", "solo"] and await meeting

        def broken() -> Any:
            raise RuntimeError("no memory")

        lame = Paired(solo, broken, Says("crowd").abilities)
        for _ in range(3):
            assert await asyncio.gather(said(lame), said(lame)) == ["solo", "solo"]
        lame.close()

    asyncio.run(scenario())


def test_who_leaves_is_no_longer_counted() -> None:
    async def scenario() -> None:
        both, solo, opened, _ = pair(Says("crowd"))
        solo.gate.clear()
        task = asyncio.create_task(said(both))
        await asyncio.sleep(0.01)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        solo.gate.set()
        assert await said(both) == "solo" and not opened

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("control", "value"), [("top_k", 3), ("json_schema", {"type": "null"})]
)
def test_what_neither_offers_is_refused(control: str, value: Any) -> None:
    async def scenario() -> None:
        both, *_ = pair(Says("crowd"))
        with pytest.raises(Unsupported, match=control):
            await said(both, **{control: value})

    asyncio.run(scenario())
