"""Seconds to a validation loss of 1.8982 on character-level Shakespeare, the whole
validation set, imports included.

Three whole processes take turns, over several seeds:
  reference   nanoGPT's published CPU recipe, written afresh (nanogpt_recipe.py)
  gpt         `miaobi.verbs.train.train` with the recipe below; what it saves loads in llama.cpp
  ngram       the same loop with an objective that llama.cpp cannot load (ngram_gpt.py)

Targets: gpt in at most a quarter, ngram in at most a sixth of the reference's time,
    median of the seeds, every seed at or below 1.8982. The settings were chosen on the
    last tenth of the training text (--held-out), not on the validation set.

Run alone: python bench/shakespeare [--seeds 5] [--held-out]
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
CORPUS = HERE.parents[2] / "shared" / "data" / "tinyshakespeare.txt"
TARGET = 1.8982
GPT = {
    "name": "shakespeare",
    "family": "gpt",
    "data": {
        "tokenizer": "char",
        "min_frequency": 1,
        "context_length": 64,
        "validation": 0.1,
    },
    "model": {
        "num_layers": 2,
        "hidden_size": 128,
        "num_heads": 4,
        "intermediate_size": 352,
    },
    "train": {
        "max_steps": 160,
        "batch_size": 16,
        "optimizer": "muon",
        "matrix_learning_rate": 0.04,
        "momentum": 0.9,
        "learning_rate": 0.03,
        "betas": [0.8, 0.95],
        "weight_decay": 0.0,
        "schedule": "linear",
        "warmup": 0.02,
        "clip": 0.0,
        "log_every": 50,
        "validate_every": 10**6,
        "checkpoint_every": 10**6,
        "sample_every": 10**6,
        "keep": 1,
        "trackers": [],
    },
    "sample": {"max_new_tokens": 1},
}


def one(entry: str, seed: int, corpus: Path, steps: int) -> None:
    """The body of one timed process; prints the loss."""
    if entry == "reference":
        import nanogpt_recipe

        print(json.dumps({"loss": nanogpt_recipe.train(corpus, seed, steps or 2000)}))
        return
    if entry == "ngram":
        import ngram_gpt

        print(json.dumps({"loss": ngram_gpt.train(corpus, seed, steps or 105)}))
        return
    from miaobi.verbs.train import train

    settings = {
        "data.path": str(corpus),
        "train.seed": seed,
        **({"train.max_steps": steps} if steps else {}),
    }
    print(
        json.dumps(
            {
                "loss": train(
                    GPT,
                    settings=settings,
                    runs=os.environ["MIAOBI_HOME"] + "/runs",
                    quiet=True,
                ).validation_loss
            }
        )
    )


def timed(entry: str, seed: int, corpus: Path, steps: int) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as home:
        began = time.perf_counter()
        done = subprocess.run(
            [
                sys.executable,
                __file__,
                "--entry",
                entry,
                "--seed",
                str(seed),
                "--corpus",
                str(corpus),
                "--steps",
                str(steps),
            ],
            env={**os.environ, "MIAOBI_HOME": home},
            capture_output=True,
            text=True,
            check=False,
        )
        seconds = time.perf_counter() - began
    if done.returncode:
        sys.exit(done.stderr)
    return {
        "seed": seed,
        "seconds": seconds,
        **json.loads(done.stdout.splitlines()[-1]),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--first-seed", type=int, default=100)
    parser.add_argument("--corpus", type=Path, default=CORPUS)
    parser.add_argument(
        "--held-out",
        action="store_true",
        help="train and score within the training text: for choosing settings",
    )
    parser.add_argument("--only", nargs="*", default=["reference", "gpt", "ngram"])
    parser.add_argument("--entry")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=0)
    options = parser.parse_args()
    if options.entry:
        one(options.entry, options.seed, options.corpus, options.steps)
        return
    corpus = options.corpus
    with tempfile.TemporaryDirectory() as folder:
        if options.held_out:
            text = corpus.read_text(encoding="utf-8")
            corpus = Path(folder) / "train.txt"
            corpus.write_text(text[: int(0.9 * len(text))], encoding="utf-8")
        runs: dict[str, list[dict[str, float]]] = {entry: [] for entry in options.only}
        for seed in range(options.first_seed, options.first_seed + options.seeds):
            for entry in options.only:
                runs[entry].append(timed(entry, seed, corpus, options.steps))
                print(entry, json.dumps(runs[entry][-1]), file=sys.stderr, flush=True)
    report(runs)


def report(runs: dict[str, list[dict[str, float]]]) -> None:
    figures = {
        entry: {
            "seconds": statistics.median(run["seconds"] for run in found),
            "loss": statistics.median(run["loss"] for run in found),
            "worst_loss": max(run["loss"] for run in found),
            "seeds": len(found),
        }
        for entry, found in runs.items()
    }
    if "reference" in runs:
        for entry in set(runs) - {"reference"}:
            ratios = [
                ours["seconds"] / theirs["seconds"]
                for ours, theirs in zip(runs[entry], runs["reference"])
            ]
            figures[entry]["ratio"] = statistics.median(ratios)
    print(json.dumps({"target_loss": TARGET, **figures}, indent=1))


if __name__ == "__main__":
    main()
