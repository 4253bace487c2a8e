"""How soon a short answer comes after six long ones were left.

    python bench/cancel.py                      # SmolLM2, every engine that runs it
    python bench/cancel.py --model ./model.gguf

Prints, for each engine, the seconds of a long answer alone, of a short one alone, and of
a short one that is asked for right after six long ones were left. An engine that went on
with those would take about six times the first.
"""

from __future__ import annotations

import argparse
import asyncio
import time

from miaobi.core.engine import Engine
from miaobi.core.errors import MiaobiError
from miaobi.core.requests import TextRequest
from miaobi.engines.load import open_engine
from miaobi.models.weights import find

ENGINES = ("native", "openvino", "llamacpp")
LONG, SHORT, ABANDONED = 200, 1, 6


def request(tokens: int) -> TextRequest:
    return TextRequest(prompt="The sea", max_new_tokens=tokens, temperature=0.0, seed=0)


async def seconds(engine: Engine, tokens: int) -> float:
    start = time.perf_counter()
    async for _ in engine.generate(request(tokens)):
        pass
    return time.perf_counter() - start


async def seconds_after_leaving(engine: Engine) -> float:
    running = [engine.generate(request(LONG)) for _ in range(ABANDONED)]
    for answers in running:
        await anext(answers)
    for answers in running:
        await answers.aclose()  # type: ignore[attr-defined]
    return await seconds(engine, SHORT)


async def measure(engine: Engine) -> tuple[float, float, float]:
    await seconds(engine, SHORT)
    long = await seconds(engine, LONG)
    short = await seconds(engine, SHORT)
    return long, short, await seconds_after_leaving(engine)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="smollm2")
    weights = find(parser.parse_args().model)
    print("engine     long    short    short after leaving six")
    for name in ENGINES:
        try:
            engine = open_engine(weights, name, 1, {})
        except MiaobiError as error:
            print(f"{name:10} {error}")
            continue
        long, short, after = asyncio.run(measure(engine))
        engine.close()
        print(f"{name:10} {long:5.2f} s  {short:5.2f} s  {after:5.2f} s")


if __name__ == "__main__":
    main()
