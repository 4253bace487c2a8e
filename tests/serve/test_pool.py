"""The pool: opened once, kept while used, closed by memory, swapped without a failed
request. No weights; models are toys.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any

import pytest
from tests.serve.conftest import Echo, Grey

from miaobi.core.engine import Weights
from miaobi.core.errors import BadInput, DoesNotFit, NotFound, Unsupported
from miaobi.engines.model import Model
from miaobi.serve.pool import Pool
from miaobi.serve.settings import Settings

GIGABYTE = 10**9
"""Sizes are in these, beside which what the tests themselves take is nothing. Half of
an estimate is what stays when less was measured.
"""


class Shop:
    """Toys by name: which version a name means now, who was opened and closed, and
    doors that hold an opening up.
    """

    def __init__(self, memory: int = 100, **sizes: int) -> None:
        self.sizes = sizes
        self.versions = dict.fromkeys(sizes, "1")
        self.opened: list[str] = []
        self.engines: dict[str, Any] = {}
        self.gates: dict[str, threading.Event] = {}
        self.broken: set[str] = set()
        self.pool = Pool(
            Settings(memory_bytes=memory * GIGABYTE),
            self.find,
            lambda: sorted(sizes),
            self.open,
            lambda weights: sizes[weights.name] * GIGABYTE,
        )

    def find(self, name: str) -> Weights:
        name, _, version = name.partition("@")
        if name not in self.sizes:
            raise NotFound(f"no {name}")
        return Weights(
            "bundle",
            f"/nowhere/{name}",
            name,
            version or self.versions[name],
            modality="image" if name == "grey" else "text",
        )

    def open(self, weights: Weights) -> Model:
        self.opened.append(weights.label)
        if weights.label in self.gates:
            assert self.gates[weights.label].wait(20)
        if weights.name in self.broken:
            raise BadInput("its file is cut short")
        self.engines[weights.label] = Grey() if weights.name == "grey" else Echo()
        return Model(weights, "toy", self.engines[weights.label])

    def closed(self) -> list[str]:
        return [
            label
            for label, engine in self.engines.items()
            if getattr(engine, "closed", False)
        ]


async def until(true: Callable[[], Any]) -> None:
    async with asyncio.timeout(20):
        while not true():
            await asyncio.sleep(0.005)


async def use(shop: Shop, name: str) -> str:
    async with shop.pool.lease(name) as model:
        return model.weights.label


def test_one_opening_for_all_who_ask() -> None:
    shop = Shop(a=1)

    async def scenario() -> None:
        assert (
            await asyncio.gather(*(use(shop, "a") for _ in range(20))) == ["a@1"] * 20
        )
        await shop.pool.close()

    asyncio.run(scenario())
    assert shop.opened == ["a@1"] == shop.closed()


def test_different_models_do_not_wait_for_each_other() -> None:
    shop = Shop(slow=1, quick=1)
    shop.gates["slow@1"] = threading.Event()

    async def scenario() -> None:
        waiting = asyncio.create_task(use(shop, "slow"))
        await until(lambda: "slow@1" in shop.opened)
        assert await use(shop, "quick") == "quick@1" and not waiting.done()
        shop.gates["slow@1"].set()
        assert await waiting == "slow@1"

    asyncio.run(scenario())


def test_whoever_goes_away_while_it_opens_leaves_the_opening_to_the_others() -> None:
    shop = Shop(a=1)
    shop.gates["a@1"] = threading.Event()

    async def scenario() -> None:
        first = asyncio.create_task(use(shop, "a"))
        second = asyncio.create_task(use(shop, "a"))
        await until(lambda: shop.opened)
        first.cancel()
        await asyncio.gather(first, return_exceptions=True)
        shop.gates["a@1"].set()
        assert await second == "a@1"

    asyncio.run(scenario())
    assert shop.opened == ["a@1"]


def test_a_failed_opening_fails_all_that_wait_and_the_next_tries_again() -> None:
    shop = Shop(a=1)
    shop.broken.add("a")

    async def scenario() -> None:
        results = await asyncio.gather(
            *(use(shop, "a") for _ in range(3)), return_exceptions=True
        )
        assert all(
            isinstance(error, BadInput) for error in results
        ) and shop.opened == ["a@1"]
        shop.broken.clear()
        assert await use(shop, "a") == "a@1" and len(shop.opened) == 2

    asyncio.run(scenario())


def test_the_least_recently_used_model_is_closed() -> None:
    shop = Shop(memory=70, a=40, b=40, c=40)

    async def scenario() -> None:
        for name in ("a", "b", "a", "c"):
            await use(shop, name)
        assert shop.closed() == ["b@1"] and set(shop.pool.opened()) == {"a@1", "c@1"}

    asyncio.run(scenario())


def test_a_model_in_use_is_never_closed() -> None:
    shop = Shop(memory=100, a=80, b=80, huge=200)

    async def scenario() -> None:
        async with shop.pool.lease("a"):
            with pytest.raises(DoesNotFit, match="in use"):
                await use(shop, "b")
            assert not shop.closed()
        assert await use(shop, "b") == "b@1" and shop.closed() == ["a@1"]
        with pytest.raises(DoesNotFit, match="MB"):
            await use(shop, "huge")
        assert not [label for label in shop.opened if label.startswith("huge")]

    asyncio.run(scenario())


def test_a_promoted_version_answers_the_next_while_the_old_one_completes() -> None:
    shop = Shop(a=10)

    async def scenario() -> None:
        async with shop.pool.lease("a") as old:
            shop.versions["a"] = "2"
            assert await use(shop, "a") == "a@2"
            assert old.weights.label == "a@1" and not shop.closed()
            assert await use(shop, "a@1") == "a@1", "by its number it still answers"
        await until(
            lambda: (
                "a@1" in shop.closed() or shop.pool.opened().keys() == {"a@1", "a@2"}
            )
        )
        shop.versions["a"] = "3"
        assert await use(shop, "a") == "a@3"
        await until(lambda: set(shop.closed()) == {"a@1", "a@2"})
        assert set(shop.pool.opened()) == {"a@3"}

    asyncio.run(scenario())


def test_without_memory_for_both_the_old_version_answers_until_it_is_idle() -> None:
    shop = Shop(memory=100, a=80)

    async def scenario() -> None:
        async with shop.pool.lease("a"):
            shop.versions["a"] = "2"
            assert await use(shop, "a") == "a@1"
            with pytest.raises(DoesNotFit):
                await use(shop, "a@2")
        assert await use(shop, "a") == "a@2" and shop.closed() == ["a@1"]

    asyncio.run(scenario())


def test_a_model_of_another_kind_is_refused_before_it_is_opened() -> None:
    shop = Shop(grey=1)

    async def scenario() -> None:
        with pytest.raises(Unsupported, match="image"):
            await use(shop, "grey")

    asyncio.run(scenario())
    assert not shop.opened


def test_configured_models_are_opened_and_a_broken_one_stops_no_other() -> None:
    shop = Shop(a=1, b=1)
    shop.broken.add("a")
    asyncio.run(shop.pool.warm(["a", "b"]))
    assert shop.opened == ["a@1", "b@1"]
