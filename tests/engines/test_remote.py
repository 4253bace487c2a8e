"""The remote engine against a small real server: what it sends, what it makes of
answers, and of failures.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from tests.engines.server import CompletionServer

from miaobi.core.artifacts import TokenLogprob
from miaobi.core.engine import Abilities, Chunk, Weights
from miaobi.core.errors import BadInput, NotFound
from miaobi.core.requests import TextRequest
from miaobi.engines import remote


class Parrot:
    """Repeats its prompt, a character at a time, for every answer."""

    abilities, context_length, chats = Abilities(frozenset()), 1000, True
    closed = 0

    async def generate(self, request: Any) -> AsyncIterator[Chunk]:
        text = request.prompt or request.messages[-1]["content"]
        try:
            for at, letter in enumerate(text[: request.max_new_tokens]):
                for index in range(request.n):
                    last = at + 1 == min(len(text), request.max_new_tokens)
                    logprobs = (
                        (TokenLogprob(letter, -0.5, (TokenLogprob("x", -1.0),)),)
                        if request.logprobs is not None
                        else ()
                    )
                    yield Chunk(index, letter, logprobs, 1, "length" if last else None)
                await asyncio.sleep(0.001)
        finally:
            Parrot.closed += 1

    def close(self) -> None:
        """Nothing to close."""


@pytest.fixture
def server() -> Iterator[CompletionServer]:
    with CompletionServer(Parrot(), key="s3cret") as running:
        yield running


def opened(server: CompletionServer, **options: Any) -> remote.RemoteEngine:
    return remote.open_engine(
        Weights("url", server.url, "there"), **{"api_key": "s3cret", **options}
    )


def answer(engine: remote.RemoteEngine, **request: Any) -> list[Chunk]:
    async def run() -> list[Chunk]:
        return [chunk async for chunk in engine.generate(TextRequest(**request))]

    return asyncio.run(run())


def test_the_only_model_is_the_default(server: CompletionServer) -> None:
    assert opened(server).model == "small"


def test_several_models_must_be_chosen_from() -> None:
    with CompletionServer(Parrot(), models=("a", "b")) as server:
        with pytest.raises(BadInput, match="a, b"):
            opened(server)
        assert opened(server, model="b").model == "b"


@pytest.mark.parametrize(
    "ask",
    [{"prompt": "春夜喜雨"}, {"messages": ({"role": "user", "content": "春夜喜雨"},)}],
)
def test_streams_and_logprobs(server: CompletionServer, ask: dict[str, Any]) -> None:
    chunks = answer(opened(server), **ask, n=2, logprobs=1)
    for index in range(2):
        row = [chunk for chunk in chunks if chunk.index == index]
        assert "".join(chunk.text for chunk in row) == "春夜喜雨"
        assert len(row) == 4
        assert row[0].logprobs == (
            TokenLogprob("春", -0.5, (TokenLogprob("x", -1.0),)),
        )


def test_settings_go_under_openais_names(server: CompletionServer) -> None:
    answer(
        opened(server),
        prompt="ab",
        max_new_tokens=2,
        seed=5,
        temperature=0,
        top_p=0.5,
        stop=("\n",),
        logit_bias={3: 1.0},
        presence_penalty=1.0,
    )
    assert server.bodies[-1] == {
        "model": "small",
        "stream": True,
        "stream_options": {"include_usage": True},
        "prompt": "ab",
        "max_tokens": 2,
        "seed": 5,
        "temperature": 0,
        "top_p": 0.5,
        "stop": ["\n"],
        "logit_bias": {"3": 1.0},
        "presence_penalty": 1.0,
    }


def test_vllms_own_settings_need_its_dialect(server: CompletionServer) -> None:
    answer(
        opened(server, dialect="vllm"),
        prompt="ab",
        top_k=3,
        min_p=0.1,
        repetition_penalty=1.2,
        min_new_tokens=1,
    )
    assert {
        name: server.bodies[-1][name]
        for name in ("top_k", "min_p", "repetition_penalty", "min_tokens")
    } == {"top_k": 3, "min_p": 0.1, "repetition_penalty": 1.2, "min_tokens": 1}


def test_leaving_early_closes_the_connection(server: CompletionServer) -> None:
    async def scenario() -> None:
        before = Parrot.closed
        answers = opened(server).generate(
            TextRequest(prompt="x" * 5000, max_new_tokens=5000)
        )
        await anext(answers)
        await answers.aclose()
        for _ in range(100):
            if Parrot.closed > before:
                return
            await asyncio.sleep(0.02)
        raise AssertionError("the server went on")

    asyncio.run(scenario())


def test_failures_are_explained(
    server: CompletionServer,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    caplog.set_level(logging.DEBUG)
    with pytest.raises(BadInput, match="refuses the key") as caught:
        answer(opened(server, api_key="wr0ng", model="small"), prompt="x")
    with pytest.raises(NotFound, match="No answer from"):
        remote.open_engine(Weights("url", "http://127.0.0.1:9/v1", "there"))
    monkeypatch.setenv("MY_KEY", "s3cret")
    assert (
        answer(opened(server, api_key="", api_key_from="MY_KEY"), prompt="y")[0].text
        == "y"
    )
    assert "wr0ng" not in str(caught.value) + caplog.text
    assert "s3cret" not in caplog.text
