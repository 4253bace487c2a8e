"""What the training loop costs over a bare PyTorch loop with the same model, optimiser
and batches. Target: at most 3 %.

Alternates stretches of both in one process and prints medians and the ratio. Run alone:
python bench/loop_overhead.py
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

import torch

from miaobi.data.text import tokens
from miaobi.families import gpt
from miaobi.train import loop
from miaobi.train.config import TrainConfig
from miaobi.train.tracking import Log
from miaobi.train.view import View

CORPUS = Path(__file__).parents[2] / "shared" / "data" / "tinyshakespeare.txt"


def finish_at(step: int, state: loop.State) -> None:
    """End the run after step number `step`."""
    state.finished = state.step >= step


def bare(
    objective: torch.nn.Module,
    data: tokens.Tokens,
    optimizer: torch.optim.Optimizer,
    first: int,
    steps: int,
    size: int,
) -> None:
    """What one would write by hand: next batch, loss, backward, clip, step."""
    for step in range(first, first + steps):
        batch = data.batch("train", step, size, 0)
        optimizer.zero_grad(set_to_none=True)
        logits = objective.net(batch["ids"])
        loss = torch.nn.functional.cross_entropy(
            logits.flatten(0, 1), batch["targets"].flatten()
        )
        loss.backward()
        torch.nn.utils.clip_grad_norm_(objective.parameters(), 1.0)
        optimizer.step()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--corpus", type=Path, default=CORPUS)
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--steps", type=int, default=20)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        data = tokens.prepare(
            tokens.Config(path=str(options.corpus), context_length=128),
            cache=Path(folder),
            progress=False,
        )
        spec, size = data.spec, 16
        config = TrainConfig(
            max_steps=10**6,
            batch_size=size,
            device="cpu",
            schedule="constant",
            warmup=0.0,
            learning_rate=1e-4,
        )
        objectives = [
            gpt.build(gpt.Config(num_layers=4, hidden_size=128), spec) for _ in range(2)
        ]
        state = loop.start(objectives[0], config)
        optimizer = torch.optim.AdamW(
            objectives[1].parameters(), lr=1e-4, betas=(0.9, 0.95), fused=True
        )
        log, view = Log(Path(folder)), View(state)
        hooks = [
            (10, lambda state: log.log_metrics(state.step, state.train)),
            (1, view),
        ]
        seconds: dict[str, list[float]] = {"ours": [], "bare": []}
        for turn in range(options.rounds + 1):
            began = time.perf_counter()
            target = state.step + options.steps
            state.finished = False
            loop.run(
                state,
                data,
                [*hooks, (1, partial(finish_at, target))],
            )
            middle = time.perf_counter()
            bare(
                objectives[1],
                data,
                optimizer,
                turn * options.steps,
                options.steps,
                size,
            )
            if turn:
                seconds["ours"].append((middle - began) / options.steps)
                seconds["bare"].append((time.perf_counter() - middle) / options.steps)
        view.close()
    ratios = sorted(
        ours / other for ours, other in zip(seconds["ours"], seconds["bare"])
    )
    figures = {
        name: statistics.median(values) * 1e3 for name, values in seconds.items()
    }
    print(
        json.dumps(
            {
                "milliseconds_per_step": figures,
                "ratio": statistics.median(ratios),
                "ratio_range": [ratios[0], ratios[-1]],
                "rounds": options.rounds,
                "torch": torch.__version__,
            }
        )
    )
    sys.exit(0 if statistics.median(ratios) <= 1.03 else 1)


if __name__ == "__main__":
    main()
