"""What making a batch costs beside training on it, for every picture recipe. Target: at
most 5 % of a step.

Steps and batches are timed in turn, in one process. Run alone: python bench/picture_data.py
"""

from __future__ import annotations

import json
import statistics
import time
from pathlib import Path

import torch

from miaobi.core.config import read_yaml
from miaobi.data import datasets
from miaobi.train import loop
from miaobi.verbs.train import settle

RECIPES = Path(__file__).parents[1] / "recipes" / "image"
STEPS = 12


def timed(recipe: Path) -> dict[str, float]:
    settings = settle(read_yaml(recipe), origin=str(recipe))
    data = datasets.get(settings.family.DATA).prepare(settings.data)
    torch.manual_seed(0)
    state = loop.start(settings.family.build(settings.model, data.spec), settings.train)
    batching, training = [], []
    for turn in range(STEPS + 2):
        began = time.perf_counter()
        batch = data.batch("train", turn, settings.train.batch_size, 0)
        between = time.perf_counter()
        loop.train_step(state, [batch])
        if turn >= 2:
            batching.append(between - began)
            training.append(time.perf_counter() - began)
    batch_ms, step_ms = (
        1e3 * statistics.mean(values) for values in (batching, training)
    )
    return {
        "batch_ms": round(batch_ms, 2),
        "step_ms": round(step_ms, 1),
        "share": round(batch_ms / step_ms, 4),
    }


def main() -> None:
    torch.set_flush_denormal(True)
    print(
        json.dumps(
            {
                recipe.stem: timed(recipe)
                for recipe in sorted(RECIPES.glob("*.yaml"))
                if recipe.stem != "my_pictures"
            },
            indent=1,
        )
    )


if __name__ == "__main__":
    main()
