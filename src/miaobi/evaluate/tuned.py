"""Evaluate a tuned model: its test examples, what it forgot, what it memorised."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.resources import files
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from miaobi.nn.objective import Batch, prepared
from miaobi.tune.examples import Examples
from miaobi.tune.learner import Evaluation, Features, Learner, Metric

WINDOW = 128
"""Tokens of a paragraph of the general text that are looked at."""
GENERAL_LOSS = Metric(
    "general_loss",
    lambda counts: counts[..., 0] / counts[..., 1],
    "lower",
    ("General text, nats a token", "通用文本（奈特/词元）"),
)


@contextmanager
def evaluation_mode(learner: Learner) -> Iterator[None]:
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
    """Return how each of these encoded examples goes, in order.

    Args:
        learner: The model with its task.
        features: The examples, encoded.
        batch_size: Examples at a time.
        progress: Called with the completed share after each batch.
    """

    def batches() -> Iterator[Batch]:
        for start in range(0, len(features), batch_size):
            end = start + batch_size
            yield prepared(learner, learner.collate(features[start:end]))
            progress(min(end / len(features), 1.0))

    with evaluation_mode(learner):
        return learner.evaluate_all(batches())


def first_features(data: Examples, split: str, limit: int) -> list[Features]:
    """Return the first `limit` examples of a split, encoded; all for 0.

    The examples of a split stand in no meaningful order.
    """
    count = data.count(split)
    return [data.features(split, index) for index in range(min(count, limit or count))]


def early_stopping_value(metric: Metric, evaluations: Sequence[Evaluation]) -> float:
    """Return a metric as early stopping wants it: lower is better."""
    counts = np.sum([item.counts[metric.name] for item in evaluations], axis=0)
    value = float(metric.combine(counts))
    return value if metric.better == "lower" else -value


def evaluate_general_text(learner: Learner, tokenizer: Any) -> list[Evaluation]:
    """Return how likely a general text is, paragraph by paragraph.

    general.txt is old prose in English and Chinese; where its loss rises, the model
    forgot while it was tuned. For causal language models.
    """
    text = (files("miaobi.evaluate") / "general.txt").read_text(encoding="utf-8")
    evaluations = list[Evaluation]()
    with evaluation_mode(learner):
        for paragraph in filter(str.strip, text.split("\n\n")):
            tokens = tokenizer(paragraph).input_ids[:WINDOW]
            ids = torch.tensor([tokens], device=learner.device)
            logits = learner.net(input_ids=ids).logits[0, :-1]
            total = float(F.cross_entropy(logits.float(), ids[0, 1:], reduction="sum"))
            counts = np.array([total, ids.shape[1] - 1.0])
            evaluations.append(Evaluation(total, {GENERAL_LOSS.name: counts}))
    return evaluations


def to_json(evaluations: Sequence[Evaluation]) -> list[Mapping[str, Any]]:
    """Return evaluations as JSON values."""
    return [
        {
            "loss": item.loss,
            "counts": {
                name: np.asarray(counts).tolist()
                for name, counts in item.counts.items()
            },
            "answer": item.answer,
        }
        for item in evaluations
    ]


def from_json(rows: Sequence[Mapping[str, Any]]) -> list[Evaluation]:
    """Return the evaluations that `to_json` wrote."""
    return [
        Evaluation(
            row["loss"],
            {name: np.asarray(counts) for name, counts in row["counts"].items()},
            row["answer"],
        )
        for row in rows
    ]
