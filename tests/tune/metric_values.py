"""The metrics of a learner over the examples of a batch or a set."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from miaobi.nn.objective import Batch, prepared
from miaobi.tune.learner import Evaluation, Learner


def metric_values(
    learner: Learner, evaluations: Sequence[Evaluation]
) -> dict[str, float]:
    """Return the value of each metric over these examples, by its name."""
    values = dict[str, float]()
    for metric in learner.metrics():
        counts = np.sum([item.counts[metric.name] for item in evaluations], axis=0)
        values[metric.name] = float(metric.combine(counts))
    return values


def evaluate_batch(learner: Learner, batch: Batch) -> dict[str, float]:
    """Return the value of each metric on a batch, with the learner at rest."""
    learner.eval()
    with torch.no_grad():
        return metric_values(learner, learner.evaluate(prepared(learner, batch)))
