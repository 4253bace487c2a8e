"""A server under more than it can carry: memory of a thousand idle streams, and a
minute at ten times its capacity.

    python bench/serve_load.py [--model smollm2] [--seconds 60] [--json figures.json]

Three servers, one after the other. "idle": one slot, a long queue, and 1,000 streams
that wait in it; what each costs in memory. "overload": once the cache of prefixes is as
full as it may be, (slots + queue) x 10 clients that send again as soon as they are
answered or refused; every answer must be 200 or 429, memory flat, and the
speed right after it what it was before. "ready": seconds from the start of the process
to /ready, five times.
"""

from __future__ import annotations

import argparse
import asyncio
import collections
import json
import statistics
import time
from pathlib import Path
from typing import Any

import psutil
from serve_http import Server, free_port, miaobi_command, start

QUESTION = "Tell me a long story about the sea."
GROWTH = 10.0
"""Megabytes in four turns below which a cache counts as full."""


def serve(model: str, *words: str) -> Server:
    port = free_port()
    return start("miaobi", miaobi_command(model, port, *words), port, model, "/ready")


def memory(server: Server) -> float:
    """Megabytes of the server and the processes it started, resident."""
    process = psutil.Process(server.process.pid)
    return (
        float(
            sum(
                one.memory_info().rss
                for one in [process, *process.children(recursive=True)]
            )
        )
        / 1e6
    )


async def connection(
    server: Server, tokens: int, question: str = QUESTION
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A raw socket with a streaming request sent: thousands of clients cost this
    process nothing.
    """
    host, port = server.url.removeprefix("http://").removesuffix("/v1").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    content = json.dumps(
        {
            "model": server.model,
            "max_tokens": tokens,
            "messages": [{"role": "user", "content": question}],
            "temperature": 0.0,
            "stream": True,
        }
    ).encode()
    writer.write(
        (
            b"POST /v1/chat/completions HTTP/1.1\r\nHost: "
            b"127.0.0.1\r\nContent-Type: application/json\r\nConnection: "
            b"close\r\nContent-Length: "
        )
        + str(len(content)).encode()
        + b"\r\n\r\n"
        + content
    )
    await writer.drain()
    return reader, writer


async def answer(
    server: Server, tokens: int, question: str = QUESTION
) -> tuple[int, int]:
    """Status, and pieces of the answer that came; 0 for a connection that broke."""
    try:
        reader, writer = await connection(server, tokens, question)
        try:
            got = await reader.read()
        finally:
            writer.close()
    except OSError:
        return 0, 0
    status = int(got.split(b" ", 2)[1]) if got.startswith(b"HTTP/1.1 ") else 0
    whole = b"data: [DONE]" in got
    return (status if status != 200 or whole else 0), got.count(b'"content"')


async def idle(server: Server, count: int) -> dict[str, float]:
    before = memory(server)
    open_ = [await connection(server, 2000) for _ in range(count)]
    await asyncio.sleep(5)
    waiting = memory(server)
    for _, writer in open_:
        writer.close()
    return {"streams": count, "megabytes": round(waiting - before, 1)}


async def speed(server: Server, at: int, tokens: int = 48) -> float:
    began = time.perf_counter()
    pieces = sum(
        made
        for _, made in await asyncio.gather(
            *(answer(server, tokens) for _ in range(at))
        )
    )
    return pieces / (time.perf_counter() - began)


async def fill(server: Server, at: int) -> list[float]:
    """Long prompts without a common beginning, until the server grows no more: its
    memory after each turn.
    """
    sizes, number = [memory(server)], 0
    while len(sizes) < 5 or (sizes[-1] - sizes[-5] > GROWTH and len(sizes) < 60):
        number += at
        questions = [
            " ".join(f"{number + one} {word}" for word in range(300))
            for one in range(at)
        ]
        statuses = {
            status
            for status, _ in await asyncio.gather(
                *(answer(server, 1, question) for question in questions)
            )
        }
        if statuses != {200}:
            raise RuntimeError(f"the cache could not be filled: {statuses}")
        sizes.append(round(memory(server)))
    return sizes


async def overload(
    server: Server, clients: int, at: int, seconds: float
) -> dict[str, Any]:
    """Median of five turns before and five right after; statuses and memory of the
    minute between.
    """
    await speed(server, at)
    filled = await fill(server, at)
    before = [await speed(server, at) for _ in range(5)]
    statuses: collections.Counter[int] = collections.Counter()
    until, sizes = time.perf_counter() + seconds, []

    async def client() -> None:
        while time.perf_counter() < until:
            status, _ = await answer(server, 32)
            statuses[status] += 1
            if status != 200:
                await asyncio.sleep(0.5)

    running = [asyncio.create_task(client()) for _ in range(clients)]
    while time.perf_counter() < until:
        await asyncio.sleep(seconds / 12)
        sizes.append(round(memory(server)))
    await asyncio.gather(*running)
    after = [await speed(server, at) for _ in range(5)]
    return {
        "clients": clients,
        "while_filling": filled,
        "statuses": {str(key): value for key, value in sorted(statuses.items())},
        "megabytes": sizes,
        "before": round(statistics.median(before), 1),
        "first_after": round(after[0], 1),
        "after": round(statistics.median(after), 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    figures: dict[str, Any] = {}

    def turn(name: str, words: tuple[str, ...], work: Any) -> None:
        server = serve(args.model, *words)
        try:
            figures[name] = asyncio.run(work(server)) if work else server.ready
        finally:
            server.process.terminate()
            server.process.wait(60)
        print(name, figures[name], flush=True)

    turn(
        "idle", ("--streams", "1", "--queue", "1200"), lambda server: idle(server, 1000)
    )
    turn(
        "overload",
        ("--streams", "8", "--queue", "32"),
        lambda server: overload(server, 400, 8, args.seconds),
    )
    ready = []
    for _ in range(5):
        turn("ready", (), None)
        ready.append(round(figures["ready"], 2))
    figures["ready"] = ready
    if args.json:
        args.json.write_text(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
