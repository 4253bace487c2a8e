"""How far the weights that are served lie from the original ones: perplexity on the
same texts, and the engines' own drift while they run.

    python bench/serve_quality.py [--model smollm2] [--answers 16] [--json figures.json]

Two figures for each engine that `auto` serves the model with. "text": perplexity on the
guides of this project (docs/guides), of the original file in float32 and of what
OpenVINO makes of it as OpenVINO runs it (8-bit activations included). "answers": the
engine writes at temperature 1 and reports each token's log-probability q; the original
weights in float32 score the same tokens with p. exp(mean(log q - log p)) - 1 is by how
much the runtime (its weights, its 8-bit activations, its kernels) changes the
perplexity of what is said: exp(KL(q || p)) - 1, estimated; 0 for an engine that
computes exactly.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
from pathlib import Path
from typing import Any

from miaobi.engines.load import load
from miaobi.models.converted import as_openvino

PROMPTS = (
    "Once upon a time",
    "The history of the city begins",
    "To make a good soup, you",
    "Dear Sir or Madam,",
    "The theorem says that",
    "In the morning the ship",
    "My grandfather told me",
    "The government announced",
)
PIECE = 2500
"""Characters that are scored at once."""


def logprobs(name: str, texts: list[str]) -> list[float]:
    """Of every token but each text's first, in float32."""
    with load(name, engine="native") as model:
        return [token.logprob for text in texts for token in model.score(text)]


def logprobs_in_openvino(path: Path, texts: list[str]) -> list[float]:
    """The same of the rewritten weights, in the graph that the engine runs."""
    import numpy as np
    import openvino
    import openvino_genai

    words = openvino_genai.Tokenizer(str(path))
    request = (
        openvino.Core()
        .compile_model(as_openvino(path) / "openvino_model.xml", "CPU")
        .create_infer_request()
    )
    scores: list[float] = []
    for text in texts:
        ids = words.encode(text, add_special_tokens=False).input_ids.data
        request.reset_state()
        found = request.infer(
            {
                "input_ids": ids,
                "attention_mask": np.ones_like(ids),
                "position_ids": np.arange(ids.shape[1])[None],
                "beam_idx": np.zeros(1, np.int32),
            }
        )
        logits = next(iter(found.values()))[0, :-1].astype(np.float64)
        logits -= logits.max(axis=1, keepdims=True)
        scores += list(
            logits[np.arange(len(logits)), ids[0, 1:]]
            - np.log(np.exp(logits).sum(axis=1))
        )
    return scores


def answers(name: str, engine: str, count: int, tokens: int) -> list[tuple[str, Any]]:
    """(prompt, answer with log-probabilities) of sampled answers."""
    with load(name, engine=engine, streams=count) as model:
        return [
            (prompt, answer)
            for at, prompt in enumerate(PROMPTS[:count])
            for answer in model.generate(
                prompt,
                raw=True,
                n=max(1, count // len(PROMPTS)),
                max_new_tokens=tokens,
                temperature=1.0,
                logprobs=0,
                seed=at,
            )
        ]


def drift(pairs: list[tuple[str, Any]], original: str) -> tuple[float, float, int]:
    """Mean of log q - log p over tokens, its standard error over answers, tokens.
    Answers whose tokens split otherwise are left out.
    """
    means, weights = [], []
    with load(original, engine="native") as model:
        for prompt, answer in pairs:
            count = len(answer.logprobs)
            scored = model.score(prompt + answer.text)[-count:]
            if [token.token for token in scored] == [
                token.token for token in answer.logprobs
            ]:
                means.append(
                    statistics.mean(
                        said.logprob - true.logprob
                        for said, true in zip(answer.logprobs, scored, strict=True)
                    )
                )
                weights.append(count)
    mean = sum(one * weight for one, weight in zip(means, weights, strict=True)) / sum(
        weights
    )
    return mean, statistics.stdev(means) / math.sqrt(len(means)), sum(weights)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--answers", type=int, default=16)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    from miaobi.models.weights import find

    path = find(args.model).path
    guides = [
        file.read_text(encoding="utf-8")
        for file in sorted((Path(__file__).parent.parent / "docs/guides").glob("*.md"))
    ]
    texts = [
        guide[at : at + PIECE] for guide in guides for at in range(0, len(guide), PIECE)
    ]
    original, served = logprobs(str(path), texts), logprobs_in_openvino(path, texts)
    change = [was - now for was, now in zip(original, served, strict=True)]
    error = statistics.stdev(change) / math.sqrt(len(change))
    figures: dict[str, Any] = {
        "text": {
            "tokens": len(change),
            "original": round(math.exp(-statistics.mean(original)), 3),
            "openvino": round(math.exp(-statistics.mean(served)), 3),
            "change": round(math.expm1(statistics.mean(change)), 4),
            "plus_or_minus": round(1.96 * error, 4),
        }
    }
    print(figures["text"], flush=True)
    for engine in ("llamacpp", "openvino"):
        mean, error, count = drift(
            answers(args.model, engine, args.answers, args.tokens), str(path)
        )
        figures[engine] = {
            "change": round(math.expm1(mean), 4),
            "low": round(math.expm1(mean - 1.96 * error), 4),
            "high": round(math.expm1(mean + 1.96 * error), 4),
            "tokens": count,
        }
        print(engine, figures[engine], flush=True)
    if args.json:
        args.json.write_text(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
