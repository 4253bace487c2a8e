"""One trial of a search: the recipe with the chosen values, trained briefly, measured
on the validation data. The test stays unseen.
"""

from __future__ import annotations

import copy
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from miaobi.core import config
from miaobi.core.errors import BadInput, nearest
from miaobi.core.language import say
from miaobi.data import datasets
from miaobi.data.dataset import Dataset
from miaobi.evaluate import tuned
from miaobi.evaluate.compare import score
from miaobi.train import estimate, loop, threads
from miaobi.train import run as runs_of
from miaobi.train.estimate import Estimate
from miaobi.train.loop import State
from miaobi.train.search import Trial
from miaobi.train.tracking import Tracker
from miaobi.tune.learner import Evaluation, Metric
from miaobi.verbs.search.job import Job
from miaobi.verbs.search.space import set_key

VALIDATIONS = 5
"""In a trial, by which hopeless trials are recognised."""
VALIDATION_EXAMPLES = 100
"""In each of them; the metric at the end is over many more."""


@dataclass
class OpenTrial:
    """A trial, ready to run."""

    state: State
    data: Dataset
    values: dict[str, Any]
    """The resolved settings, flat."""
    estimate: Estimate
    metrics: Sequence[Metric] = ()
    """Of the task; empty for training from scratch, which has the validation loss."""
    evaluate: Callable[[int], Sequence[Evaluation]] = lambda count: ()
    """Evaluate the first so many validation examples; all for 0."""
    mixed_in: Mapping[str, str] = field(default_factory=dict)
    """What came from each further source of training examples."""


def open_trial(
    kind: str,
    recipe: Mapping[str, Any],
    steps: int | None,
    minutes: float | None,
    folder: Path,
    max_examples: int | None = None,
) -> OpenTrial:
    """Prepare data and model, up to the first step.

    Args:
        kind: "train" or "finetune"
        recipe: the recipe with the chosen values
        steps: of the trial, instead of the recipe's
        minutes: time limit; the trial gets fewer steps where they would take longer
        folder: where the run is kept, for the estimate of disk
        max_examples: train on so many of the recipe's, held-out ones included
    """
    tree = copy.deepcopy(dict(recipe))
    if steps is not None:
        for key, value in _schedule(steps).items():
            set_key(tree, f"train.{key}", value)
        if "patience" not in (recipe.get("train") or {}):
            set_key(tree, "train.patience", 0)
    trial = (
        _open_tuning(tree, folder, max_examples)
        if kind == "finetune"
        else _open_training(tree, folder)
    )
    if not loop.has_validation(trial.data):
        raise BadInput(
            say(
                "The data has no validation examples, by which trials are compared.",
                "数据中没有验证样本，无法比较各次试验。",
            ),
            say(
                "Give more examples, or a larger --data.validation.",
                "请提供更多样本，或调大 --data.validation。",
            ),
        )
    if minutes is not None:
        _shorten(trial, minutes)
    return trial


def _schedule(steps: int) -> dict[str, int]:
    """Return the train settings of a trial of `steps` steps."""
    return {
        "max_steps": steps,
        "validate_every": max(steps // VALIDATIONS, 1),
        "checkpoint_every": steps,
        "sample_every": steps,
    }


def _open_training(recipe: Mapping[str, Any], folder: Path) -> OpenTrial:
    from miaobi.verbs.train import recipe_options, settle

    settings = settle(recipe, own=True)
    family = settings.family
    torch.manual_seed(settings.train.seed)
    torch.set_flush_denormal(True)
    data = datasets.get(family.DATA).prepare(settings.data)
    state = loop.start(family.build(settings.model, data.spec), settings.train)
    options = {option.key: option for option in recipe_options(family)}
    values = dict(config.flatten(settings.values, options))
    torch.manual_seed(settings.train.seed)
    return OpenTrial(state, data, values, estimate.estimate(state, data, folder))


def _open_tuning(
    recipe: Mapping[str, Any], folder: Path, max_examples: int | None
) -> OpenTrial:
    from miaobi.tune import mixing
    from miaobi.verbs.finetune.settings import settle
    from miaobi.verbs.finetune.work import Work

    settings = settle(recipe, own=True)
    torch.manual_seed(settings.train.seed)
    torch.set_flush_denormal(True)
    work = Work.open(settings, None, 1.0, True)
    settings = work.settings
    data = work.data
    if max_examples:
        subset = mixing.subset(data.folder, settings.task, max_examples)
        data = replace(data, folder=subset)
    state = loop.start(work.learner, settings.train)
    torch.manual_seed(settings.train.seed)

    def evaluate(count: int) -> Sequence[Evaluation]:
        features = tuned.first_features(data, "validation", count)
        with loop.averaged(state):
            return tuned.evaluate(work.learner, features, settings.train.batch_size)

    return OpenTrial(
        state,
        data,
        dict(settings.values),
        estimate.estimate(state, data, folder),
        work.learner.metrics(),
        evaluate,
        mixing.describe(data.spec),
    )


def _shorten(trial: OpenTrial, minutes: float) -> None:
    """Take steps away where they would take longer than `minutes`.

    Warm-up and decay are shares of the run, so its shape stays.
    """
    train = trial.state.config
    seconds = max(trial.estimate.seconds, 1e-9)
    steps = int(train.max_steps * 60 * minutes / seconds)
    steps = max(min(steps, train.max_steps), 1)
    if steps == train.max_steps:
        return
    overrides: dict[str, Any] = dict(_schedule(steps))
    trial.state.config = replace(train, **overrides)
    for key, value in overrides.items():
        trial.values[f"train.{key}"] = value
    seconds = trial.estimate.seconds * steps / train.max_steps
    trial.estimate = replace(trial.estimate, seconds=seconds)


def metric_named(name: str, metrics: Sequence[Metric]) -> Metric | None:
    """Return the metric of that name; None for the validation loss.

    Raises:
        BadInput: there is none; the remedy names the nearest
    """
    if name == "validation":
        return None
    by_name = {metric.name: metric for metric in metrics}
    if name not in by_name:
        raise BadInput(
            say(
                f"--metric is {name!r}, which is not measured here.",
                f"--metric 为 {name!r}，这里没有这个指标。",
            ),
            nearest(name, ["validation", *by_name]),
        )
    return by_name[name]


def run_trial(job: Job, trial: Trial, runs: Path) -> float:
    """Run a trial to its end and return its metric; trial.facts gets what else is known.

    An interrupted trial leaves a checkpoint, from which it continues.

    Args:
        job: the search
        trial: the values that were chosen
        runs: the search's folder, where the trial has a folder of its own

    Raises:
        optuna.TrialPruned: most trials were better at this point
        MiaobiError: these values cannot be trained
        KeyboardInterrupt: Ctrl-C
    """
    folder = runs / trial.folder
    opened = _open(job, trial, folder)
    state = opened.state
    metric = metric_named(job.metric, opened.metrics)
    if opened.mixed_in:
        summaries = [f"{name}: {text}" for name, text in opened.mixed_in.items()]
        trial.facts["mixed_in"] = "; ".join(summaries)
    sign = -1 if job.rules.direction == "maximize" else 1

    def watch(state: State) -> float:
        assert metric is not None
        return tuned.early_stopping_value(metric, opened.evaluate(VALIDATION_EXAMPLES))

    def report(step: int, watched: float) -> None:
        trial.report(round(100 * step / state.config.max_steps), sign * watched)

    runs_of.restore_newest(state, folder)
    run = runs_of.Run(
        folder,
        state.config,
        config.nested(opened.values),
        job.kind,
        _no_samples,
        watch if metric else None,
        report,
    )
    with threads.restored():
        try:
            run.train(state, opened.data, opened.estimate, quiet=True)
        finally:
            trial.facts |= {"steps": state.step, "seconds": round(state.seconds, 2)}
        run.conclude(state, opened.data)
        value, facts = _measured(opened, metric)
    trial.facts |= facts
    # The best settings are trained anew, at full length.
    shutil.rmtree(folder / "checkpoints", ignore_errors=True)
    return value


def _open(job: Job, trial: Trial, folder: Path) -> OpenTrial:
    """Open a trial; one that has begun is as long as it was then."""
    chosen = dict(trial.values)
    examples = chosen.pop("data.max_examples", None)
    max_examples = None if examples is None else int(examples)
    steps, minutes = job.steps_for(job.steps, chosen), job.minutes
    begun = folder / "config.yaml"
    if begun.exists():
        steps, minutes = config.read_yaml(begun)["train"]["max_steps"], None
    recipe = job.recipe_with(chosen)
    return open_trial(job.kind, recipe, steps, minutes, folder, max_examples)


def _no_samples(state: State, trackers: Sequence[Tracker]) -> None:
    """A trial shows no samples."""


def _measured(trial: OpenTrial, metric: Metric | None) -> tuple[float, dict[str, Any]]:
    """Return (the value that trials are compared by, facts about it)."""
    validation = trial.state.validation
    assert validation is not None
    if metric is None:
        return validation, {}
    limit = trial.values.get("report.limit", 0)
    result = score(metric, trial.evaluate(limit))
    facts = {
        "low": result.low,
        "high": result.high,
        "n": result.n,
        "validation": validation,
    }
    return result.value, facts
