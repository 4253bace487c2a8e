"""The worker of engines that paint: one thing at a time, errors arrive, leaving stops the work."""

from __future__ import annotations

import asyncio
import threading
import time

import pytest

from miaobi.core.engine import Chunk
from miaobi.engines.worker import Send, Worker


def test_leaving_stops_the_work_at_its_next_step() -> None:
    worker, steps, done = Worker("test"), [0], threading.Event()

    def long(send: Send) -> None:
        try:
            for step in range(10_000):
                steps[0] = step
                send(Chunk(progress=step / 10_000))
                time.sleep(0.001)
        finally:
            done.set()

    async def leave() -> None:
        chunks = worker.stream(long)
        await anext(chunks)
        await chunks.aclose()

    asyncio.run(leave())
    assert done.wait(5)
    assert steps[0] < 5000
    worker.close()


def test_errors_arrive_and_the_next_request_is_served() -> None:
    worker = Worker("test")

    def fails(send: Send) -> None:
        send(Chunk(0, "a"))
        raise ZeroDivisionError("divided")

    async def both() -> list[str]:
        with pytest.raises(ZeroDivisionError, match="divided"):
            async for _ in worker.stream(fails):
                pass
        return [
            chunk.text
            async for chunk in worker.stream(lambda send: send(Chunk(0, "b")))
        ]

    assert asyncio.run(both()) == ["b"]
    worker.close()


def test_requests_run_one_after_the_other() -> None:
    worker, running, most = Worker("test"), [0], [0]

    def work(send: Send) -> None:
        running[0] += 1
        most[0] = max(most[0], running[0])
        time.sleep(0.01)
        running[0] -= 1
        send(Chunk(0, "x"))

    async def one() -> list[str]:
        return [chunk.text async for chunk in worker.stream(work)]

    async def many() -> list[list[str]]:
        return await asyncio.gather(*(one() for _ in range(5)))

    assert asyncio.run(many()) == [["x"]] * 5
    assert most == [1]
    worker.close()
    assert not [
        thread
        for thread in threading.enumerate()
        if thread.name.startswith("miaobi-test")
    ]
