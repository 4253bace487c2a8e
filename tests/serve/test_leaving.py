"""A client that goes away frees its place at once: streaming, not streaming, still
queued. And a version is promoted in the middle of a stream.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import httpx
import openai
import pytest
from tests.serve.conftest import Echo, toy_pool
from tests.serve.live import live, wait_until

from miaobi.core.engine import Weights
from miaobi.engines.model import Model
from miaobi.serve.admission import Admission
from miaobi.serve.app import create_app
from miaobi.serve.pool import Pool
from miaobi.serve.services import Services
from miaobi.serve.settings import Settings

LONG = " ".join(f"w{number}" for number in range(2000))


def fields_of(text: str, **more: Any) -> dict[str, Any]:
    return {
        "model": "echo",
        "messages": [{"role": "user", "content": text}],
        "max_tokens": 4000,
        **more,
    }


@pytest.fixture
def slow() -> Echo:
    return Echo(pause=0.02)


@pytest.fixture
def single_slot(slow: Echo) -> Iterator[str]:
    """A server that answers one at a time."""
    settings = Settings(streams=1, workers=0)
    with live(
        create_app(
            Services(settings, toy_pool(settings, echo=slow), Admission(settings))
        )
    ) as url:
        yield f"{url}/v1"


def check_it_answers(url: str) -> None:
    answer = httpx.post(f"{url}/chat/completions", json=fields_of("one"), timeout=60)
    assert answer.status_code == 200


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_leaves_frees_its_slot(
    single_slot: str, slow: Echo, stream: bool
) -> None:
    async def leave() -> None:
        async with httpx.AsyncClient() as client:
            task = asyncio.create_task(
                client.post(
                    f"{single_slot}/chat/completions",
                    json=fields_of(LONG, stream=stream),
                    timeout=60,
                )
            )
            while not slow.running:
                await asyncio.sleep(0.01)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    asyncio.run(leave())
    check_it_answers(single_slot)
    wait_until(lambda: slow.left_early == 1 and slow.running == 0)


def test_who_leaves_while_queued_is_never_answered(
    single_slot: str, slow: Echo
) -> None:
    async def scenario() -> None:
        async with httpx.AsyncClient(timeout=60) as client:
            first = asyncio.create_task(
                client.post(
                    f"{single_slot}/chat/completions",
                    json=fields_of(" ".join(["w"] * 40)),
                )
            )
            while not slow.running:
                await asyncio.sleep(0.01)
            queued = asyncio.create_task(
                client.post(f"{single_slot}/chat/completions", json=fields_of("queued"))
            )
            await asyncio.sleep(0.1)
            queued.cancel()
            await asyncio.gather(queued, return_exceptions=True)
            await first
            await client.post(f"{single_slot}/chat/completions", json=fields_of("next"))

    asyncio.run(scenario())
    assert [
        request.messages[0]["content"].split()[0]
        for request in slow.requests
        if request.messages
    ] == ["w", "next"]


def test_a_promotion_in_the_middle_of_a_stream() -> None:
    """The answer that runs ends on the version it began with; the next request gets the
    new one; none fails.
    """
    engines = {"1": Echo(0.01), "2": Echo()}
    now = ["1"]

    def find(name: str) -> Weights:
        return Weights("bundle", f"/nowhere/{now[0]}", "echo", now[0])

    settings = Settings(workers=0)
    pool = Pool(
        settings,
        find,
        lambda: ["echo"],
        lambda weights: Model(weights, "toy", engines[weights.version]),
    )
    with (
        live(create_app(Services(settings, pool, Admission(settings)))) as url,
        openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client,
    ):
        text = " ".join(map(str, range(100)))
        stream = client.chat.completions.create(**fields_of(text), stream=True)
        pieces = [next(stream)]
        now[0] = "2"
        answer = client.chat.completions.create(**fields_of("after"))
        assert (answer.model_extra or {})["miaobi"][
            "model"
        ] == "echo@2" and not engines["1"].closed
        pieces += list(stream)
        assert "".join(piece.choices[0].delta.content or "" for piece in pieces) == text
        assert (pieces[0].model_extra or {})["miaobi"]["model"] == "echo@1"
        wait_until(lambda: engines["1"].closed)


def test_a_reader_that_is_slow_holds_up_nobody(single_slot: str, slow: Echo) -> None:
    slow.pause = 0.0
    with httpx.stream(
        "POST",
        f"{single_slot}/chat/completions",
        json=fields_of(" ".join(["w" * 400] * 3000), stream=True),
        timeout=60,
    ) as reading:
        chunks = reading.iter_bytes()
        next(chunks)
        wait_until(lambda: slow.running == 0)
        check_it_answers(single_slot)
        assert b"".join(chunks).endswith(b"data: [DONE]\n\n")
