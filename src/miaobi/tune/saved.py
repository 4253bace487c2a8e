"""A tuned model's folder as something that runs: its task, its settings, its learner."""

from __future__ import annotations

from typing import Any

from miaobi.models.base import Base
from miaobi.models.tuned import Tuned
from miaobi.tune import methods
from miaobi.tune.config import TuneConfig
from miaobi.tune.learner import Learner
from miaobi.tune.tasks import tasks


def task_of(tuned: Tuned) -> Any:
    """Return the module of tune/tasks/ that the model was tuned for."""
    return tasks.get(tuned.task_name)


def head_of(tuned: Tuned) -> Any:
    """Return the task's Config with the settings that the model was tuned with."""
    return task_of(tuned).Config(**tuned.manifest.recipe.get("head", {}))


def learner_of(tuned: Tuned) -> Learner:
    """Return the tuned model with its head, on the CPU, in evaluation mode.

    An adapter is put on its base; whole weights are opened from the folder itself.
    """
    task = task_of(tuned)
    spec = tuned.manifest.data["spec"]
    whole = not tuned.adapter and (tuned.folder / "config.json").exists()
    base = Base(tuned.weights, tuned.folder) if whole else tuned.base
    learner: Learner = task.learner(base, spec, head_of(tuned))
    if not whole:
        config = TuneConfig(**tuned.manifest.recipe.get("tune", {}))
        methods.restore(learner, config, tuned.folder)
    learner.eval()
    return learner
