"""Our engines against the same engines' own interfaces used directly, alternating in
one process; medians and ratios.

    python bench/text_engines.py                         every engine that is installed, 1 to 32 streams
    python bench/text_engines.py --engines llamacpp --streams 1 4 --rounds 5
    python bench/text_engines.py --save                  also write what `engine="auto"` follows on this machine
    python bench/text_engines.py --cold                  process start to first token, too

40 or so tokens in, --tokens out, greedy, the end token ignored by choosing prompts that
run on. tokens/s of output.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from miaobi.core.engine import Weights
from miaobi.core.files import home, write_text
from miaobi.core.requests import TextRequest
from miaobi.engines import auto
from miaobi.engines.load import open_engine
from miaobi.models.weights import find

PROMPT = (
    "Once upon a time, in a village by river number {0}, there lived an old "
    "fisherman who told the children a long story. It began:"
)
Run = Callable[[int], tuple[int, float]]
"""streams -> (tokens made, seconds)."""


def requests(streams: int, tokens: int) -> list[TextRequest]:
    return [
        TextRequest(
            prompt=PROMPT.format(i), max_new_tokens=tokens, temperature=0, seed=0
        )
        for i in range(streams)
    ]


def ours(engine: Any, tokens: int) -> Run:
    async def one(request: TextRequest) -> int:
        return sum([chunk.tokens async for chunk in engine.generate(request)])

    async def many(streams: int) -> int:
        return sum(
            await asyncio.gather(
                *(one(request) for request in requests(streams, tokens))
            )
        )

    def run(streams: int) -> tuple[int, float]:
        start = time.perf_counter()
        return asyncio.run(many(streams)), time.perf_counter() - start

    return run


def llamacpp_direct(engine: Any, tokens: int) -> Run:
    """xllamacpp's handler on one thread a stream, pieces counted in the callback."""
    server = engine._server

    def run(streams: int) -> tuple[int, float]:
        made = [0] * streams

        def work(at: int) -> None:
            def receive(piece: Any) -> None:
                usage = piece.get("usage")
                if usage:
                    made[at] = usage["completion_tokens"]

            server.handle_completions(
                {
                    "prompt": PROMPT.format(at),
                    "stream": True,
                    "n_predict": tokens,
                    "temperature": 0.0,
                },
                receive,
            )

        threads = [threading.Thread(target=work, args=(at,)) for at in range(streams)]
        start = time.perf_counter()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return sum(made), time.perf_counter() - start

    return run


def openvino_direct(engine: Any, tokens: int) -> Run:
    """add_request, step, read on the calling thread, in this process; every answer
    decoded once at its end.
    """
    import openvino_genai as genai

    from miaobi.engines.openvino.engine import runnable_path
    from miaobi.engines.openvino.pipeline import Pipeline

    own = Pipeline(
        str(runnable_path(engine._path)),
        str(engine._path),
        engine.context_length,
        engine._scheduler,
        engine._threads,
    )
    pipeline, tokenizer = own._pipeline, own._tokenizer

    def run(streams: int) -> tuple[int, float]:
        config = genai.GenerationConfig()
        config.eos_token_id, config.max_new_tokens = own._defaults.eos_token_id, tokens
        start = time.perf_counter()
        handles = [
            pipeline.add_request(
                10_000_000 + at, tokenizer.encode(PROMPT.format(at)).input_ids, config
            )
            for at in range(streams)
        ]
        made: list[list[int]] = [[] for _ in handles]
        while pipeline.has_non_finished_requests():
            pipeline.step()
            for ids, handle in zip(made, handles, strict=True):
                while handle.can_read():
                    for output in handle.read().values():
                        ids += output.generated_ids
        for ids in made:
            tokenizer.decode(ids)
        return sum(map(len, made)), time.perf_counter() - start

    return run


def native_direct(engine: Any, tokens: int) -> Run:
    """Transformers' own `generate` on one padded batch."""
    import torch

    model = engine.checkpoint.decoder.model
    tokenizer = engine.checkpoint.tokenizer

    def run(streams: int) -> tuple[int, float]:
        start = time.perf_counter()
        prompts = [
            tokenizer.encode(PROMPT.format(at), special=True) for at in range(streams)
        ]
        width = max(map(len, prompts))
        ids = torch.tensor([[0] * (width - len(prompt)) + prompt for prompt in prompts])
        mask = torch.tensor(
            [[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts]
        )
        with torch.inference_mode():
            out = model.generate(
                input_ids=ids,
                attention_mask=mask,
                max_new_tokens=tokens,
                do_sample=False,
                pad_token_id=0,
            )
        for row in out:
            tokenizer.tokenizer.decode(row[width:].tolist())
        made = sum(
            next(
                (
                    at + 1
                    for at, token in enumerate(row)
                    if token in engine.checkpoint.eos_ids
                ),
                len(row),
            )
            for row in out[:, width:].tolist()
        )
        return made, time.perf_counter() - start

    return run


DIRECT = {
    "llamacpp": llamacpp_direct,
    "openvino": openvino_direct,
    "native": native_direct,
}


def measure(
    name: str, weights: Weights, streams: list[int], tokens: int, rounds: int
) -> dict[int, tuple[float, float, float]]:
    """{streams: (ours, direct, median of the rounds' ratios)} in tokens a second."""
    engine: Any = open_engine(weights, name, max(streams), {})
    runs = {"ours": ours(engine, tokens), "direct": DIRECT[name](engine, tokens)}
    runs["ours"](1)
    found = {}
    for count in streams:
        speeds: dict[str, list[float]] = {kind: [] for kind in runs}
        for turn in range(rounds):
            for kind in (
                list(runs) if turn % 2 else list(runs)[::-1]
            ):  # each goes first as often as the other
                made, seconds = runs[kind](count)
                speeds[kind].append(made / seconds)
        ratio = statistics.median(
            a / b for a, b in zip(speeds["ours"], speeds["direct"], strict=True)
        )
        found[count] = (
            statistics.median(speeds["ours"]),
            statistics.median(speeds["direct"]),
            ratio,
        )
        print(
            f"{name:>9} {count:>3} streams: ours {found[count][0]:7.1f}/s   "
            f"direct {found[count][1]:7.1f}/s   ratio {ratio:.3f}",
            flush=True,
        )
    engine.close()
    return found


def cold(model: str) -> float:
    """Seconds from starting a process to the first piece of an answer, engine chosen by auto."""
    code = (
        f"import miaobi\nwith miaobi.load({model!r}) as m:\n for c in "
        "m.stream('Say hello.', max_new_tokens=2, seed=1):\n"
        "  print('x', flush=True)\n  break"
    )
    start = time.perf_counter()
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        seconds = time.perf_counter() - start
        process.communicate()
    return seconds


def machine() -> str:
    names = (
        [
            line.split(":")[1].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if line.startswith("model name")
        ]
        if Path("/proc/cpuinfo").exists()
        else [platform.processor()]
    )
    return f"{len(os.sched_getaffinity(0))} cores, {names[0]}"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--engines", nargs="+", default=list(DIRECT))
    parser.add_argument("--streams", nargs="+", type=int, default=[1, 4, 8, 16, 32])
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--save", action="store_true")
    parser.add_argument("--cold", action="store_true")
    args = parser.parse_args()
    weights = find(args.model)
    print(
        f"{machine()}; load {os.getloadavg()[0]:.1f}; {args.model}, {args.tokens} tokens out, median of {args.rounds}"
    )
    if args.cold:
        times = [cold(args.model) for _ in range(args.rounds)]
        print(
            f"cold start to the first token, auto ({auto.choose(weights)}): "
            f"{statistics.median(times):.2f} s  {[round(t, 2) for t in times]}"
        )
    rows = []
    for name in args.engines:
        found = measure(name, weights, args.streams, args.tokens, args.rounds)
        rows.append(
            {
                "engine": name,
                "format": weights.format,
                "parameters": round(auto.millions(weights), 1),
                "tokens_per_second": {
                    str(count): round(speeds[0], 1) for count, speeds in found.items()
                },
            }
        )
    if args.save:
        target = home() / "measurements.json"
        kept = (
            [
                row
                for row in json.loads(target.read_text())["rows"]
                if all(
                    (row["engine"], row["format"], row["parameters"])
                    != (new["engine"], new["format"], new["parameters"])
                    for new in rows
                )
            ]
            if target.exists()
            else []
        )
        write_text(
            target,
            json.dumps(
                {
                    "machine": machine(),
                    "measured": time.strftime("%Y-%m-%d"),
                    "rows": kept + rows,
                },
                indent=1,
            ),
        )
        print(f"saved: {target}")


if __name__ == "__main__":
    main()
