"""How far the weights that are served lie from the original ones: perplexity on the same texts, and the engines' own drift while they run.

    python bench/serve_quality.py [--model smollm2] [--answers 16] [--json figures.json]

Two figures for each engine that `auto` serves the model with. "text": perplexity of its weights on evaluate/general.txt, in float32, against
that of the original file; engines may requantise. "answers": the engine writes at temperature 1 and reports each token's log-probability q;
the original weights in float32 score the same tokens with p. exp(mean(log q - log p)) - 1 is by how much the runtime (its weights, its
8-bit activations, its kernels) changes the perplexity of what is said: exp(KL(q || p)) - 1, estimated; 0 for an engine that computes exactly.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
from importlib.resources import files
from pathlib import Path
from typing import Any

from miaobi.engines.converted import as_q8
from miaobi.engines.load import load

PROMPTS = ("Once upon a time", "The history of the city begins", "To make a good soup, you", "Dear Sir or Madam,", "The theorem says that",
           "In the morning the ship", "My grandfather told me", "The government announced")


def perplexity(name: str, texts: list[str]) -> float:
    with load(name, engine="native") as model:
        scores = [token.logprob for text in texts for token in model.score(text)]
    return math.exp(-statistics.mean(scores))


def answers(name: str, engine: str, count: int, tokens: int) -> list[tuple[str, Any]]:
    """(prompt, answer with log-probabilities) of sampled answers."""
    with load(name, engine=engine, streams=count) as model:
        return [(prompt, answer) for at, prompt in enumerate(PROMPTS[:count]) for answer in
                model.generate(prompt, raw=True, n=max(1, count // len(PROMPTS)), max_new_tokens=tokens, temperature=1.0, logprobs=0, seed=at)]


def drift(pairs: list[tuple[str, Any]], original: str) -> tuple[float, float, int]:
    """Mean of log q - log p over tokens, its standard error over answers, tokens. Answers whose tokens split otherwise are left out."""
    means, weights = [], []
    with load(original, engine="native") as model:
        for prompt, answer in pairs:
            count = len(answer.logprobs)
            scored = model.score(prompt + answer.text)[-count:]
            if [token.token for token in scored] == [token.token for token in answer.logprobs]:
                means.append(statistics.mean(said.logprob - true.logprob for said, true in zip(answer.logprobs, scored, strict=True)))
                weights.append(count)
    mean = sum(one * weight for one, weight in zip(means, weights, strict=True)) / sum(weights)
    return mean, statistics.stdev(means) / math.sqrt(len(means)), sum(weights)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--answers", type=int, default=16)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    from miaobi.engines.weights import find
    path = find(args.model).path
    texts = [part for part in (files("miaobi.evaluate") / "general.txt").read_text(encoding="utf-8").split("\n\n") if part.strip()]
    original, served = perplexity(str(path), texts), perplexity(str(as_q8(path)), texts)
    figures: dict[str, Any] = {"text": {"original": round(original, 3), "llamacpp": round(original, 3), "openvino": round(served, 3),
                                        "openvino_change": round(served / original - 1, 5)}}
    print(figures["text"], flush=True)
    for engine in ("llamacpp", "openvino"):
        mean, error, count = drift(answers(args.model, engine, args.answers, args.tokens), str(path))
        figures[engine] = {"change": round(math.expm1(mean), 4), "low": round(math.expm1(mean - 1.96 * error), 4),
                           "high": round(math.expm1(mean + 1.96 * error), 4), "tokens": count}
        print(engine, figures[engine], flush=True)
    if args.json:
        args.json.write_text(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
