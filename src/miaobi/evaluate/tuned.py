"""Judging a tuned model: how each of its test examples goes, what it forgot, and what
it learned by heart.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.resources import files
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from miaobi.nn.objective import Batch
from miaobi.tune.examples import Examples
from miaobi.tune.learner import Evaluation, Features, Learner, Metric

WINDOW = 128
"""Tokens of a general text that are looked at together."""
GENERAL = Metric(
    "general_loss",
    lambda counts: counts[..., 0] / counts[..., 1],
    "lower",
    ("General text, nats a token", "通用文本（奈特/词元）"),
)


@contextmanager
def at_rest(learner: Learner) -> Iterator[None]:
    """Within: no gradients, no dropout, and the same random draws every time."""
    training = learner.training
    learner.eval()
    try:
        with torch.no_grad(), torch.random.fork_rng():
            torch.manual_seed(0)
            yield
    finally:
        learner.train(training)


def evaluate(
    learner: Learner,
    features: Sequence[Features],
    batch_size: int,
    progress: Callable[[float], None] = lambda share: None,
) -> list[Evaluation]:
    """How each of these encoded examples goes."""

    def batches() -> Iterator[Batch]:
        for start in range(0, len(features), batch_size):
            batch = learner.collate(features[start : start + batch_size])
            yield {name: value.to(learner.device) for name, value in batch.items()}
            progress(min((start + batch_size) / len(features), 1.0))

    with at_rest(learner):
        return learner.evaluate_all(batches())


def first(data: Examples, split: str, limit: int) -> list[Features]:
    """The first `limit` examples of a split, encoded (they lie in no order of meaning);
    all for 0.
    """
    count = data.count(split)
    return [data.features(split, place) for place in range(min(count, limit or count))]


def watched(figure: Metric, judged: Sequence[Evaluation]) -> float:
    """A figure as early stopping wants it: lower is better."""
    value = float(
        figure.combine(np.sum([item.counts[figure.name] for item in judged], axis=0))
    )
    return value if figure.better == "lower" else -value


def general(learner: Learner, tokenizer: Any) -> list[Evaluation]:
    """How likely a general text is (general.txt: old prose in English and Chinese),
    window by window; for causal language models.

    What rises here was forgotten while tuning.
    """
    text = (files("miaobi.evaluate") / "general.txt").read_text(encoding="utf-8")
    judged = list[Evaluation]()
    with at_rest(learner):
        for paragraph in filter(str.strip, text.split("\n\n")):
            ids = torch.tensor(
                [tokenizer(paragraph).input_ids[:WINDOW]], device=learner.device
            )
            logits = learner.net(input_ids=ids).logits[0, :-1]
            total = float(F.cross_entropy(logits.float(), ids[0, 1:], reduction="sum"))
            judged.append(
                Evaluation(total, {GENERAL.name: np.array([total, ids.shape[1] - 1.0])})
            )
    return judged


def written(judged: Sequence[Evaluation]) -> list[Mapping[str, Any]]:
    """Evaluations as JSON."""
    return [
        {
            "loss": item.loss,
            "counts": {
                name: np.asarray(value).tolist() for name, value in item.counts.items()
            },
            "answer": item.answer,
        }
        for item in judged
    ]


def read(rows: Sequence[Mapping[str, Any]]) -> list[Evaluation]:
    """Evaluations from JSON."""
    return [
        Evaluation(
            row["loss"],
            {name: np.asarray(value) for name, value in row["counts"].items()},
            row["answer"],
        )
        for row in rows
    ]
