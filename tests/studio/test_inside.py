"""The server's own API, called in process: piece by piece, and left early."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import pytest

from miaobi.studio.inside import Inside


class Clock:
    """Answers a tick whenever it is told to, and notices who leaves."""

    def __init__(self) -> None:
        self.tick, self.gone, self.ended = asyncio.Event(), asyncio.Event(), False

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        message = await receive()
        listening = asyncio.create_task(self.listen(receive))
        try:
            if scope["path"] != "/silent":
                await send(
                    {
                        "type": "http.response.start",
                        "status": 201,
                        "headers": [(b"content-type", b"text/plain")],
                    }
                )
            for _ in range(3):
                await self.tick.wait()
                if self.gone.is_set():
                    return
                self.tick.clear()
                await send(
                    {
                        "type": "http.response.body",
                        "body": scope["method"].encode()
                        + b" "
                        + message["body"]
                        + b"\n",
                        "more_body": True,
                    }
                )
            await send({"type": "http.response.body", "body": b"", "more_body": False})
        finally:
            self.ended = True
            listening.cancel()

    async def listen(self, receive: Any) -> None:
        assert (await receive())["type"] == "http.disconnect"
        self.gone.set()
        self.tick.set()


def client(app: Any) -> httpx.AsyncClient:
    return httpx.AsyncClient(transport=Inside(app), base_url="http://127.0.0.1")


def test_an_answer_is_read_as_it_is_made() -> None:
    async def scenario() -> None:
        clock = Clock()
        async with (
            client(clock) as api,
            api.stream("POST", "/clock", content=b"tick") as answer,
        ):
            assert answer.status_code == 201 and not clock.ended
            lines = answer.aiter_lines()
            for _ in range(3):
                clock.tick.set()
                assert await anext(lines) == "POST tick" and not clock.gone.is_set()
            assert [line async for line in lines] == [] and clock.ended

    asyncio.run(scenario())


@pytest.mark.parametrize(
    "path", ["/clock", "/silent"], ids=["while streaming", "before the answer began"]
)
def test_who_leaves_is_noticed(path: str) -> None:
    async def scenario() -> None:
        clock = Clock()

        async def ask() -> None:
            async with client(clock) as api, api.stream("GET", path) as answer:
                async for _ in answer.aiter_lines():
                    pass

        asking = asyncio.create_task(ask())
        await asyncio.sleep(0.05)
        assert not clock.gone.is_set()
        asking.cancel()
        await asyncio.wait({asking})
        assert clock.gone.is_set() and clock.ended

    asyncio.run(scenario())


def test_an_application_that_breaks_is_an_error_and_not_silence() -> None:
    async def broken(scope: Any, receive: Any, send: Any) -> None:
        raise RuntimeError("broken")

    async def scenario() -> None:
        async with client(broken) as api:
            with pytest.raises(RuntimeError, match="broken"):
                await api.get("/")

    asyncio.run(scenario())
