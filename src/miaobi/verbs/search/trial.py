"""One trial of a search: the recipe with the chosen values, trained briefly, measured
on the validation data. The test stays unseen.
"""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from miaobi.core import config
from miaobi.core.errors import BadInput, nearest
from miaobi.core.files import write_text
from miaobi.core.language import say
from miaobi.data import datasets
from miaobi.families import families
from miaobi.train import estimate, loop
from miaobi.train import run as runs_of
from miaobi.train.search import Dimension, Rules, Trial
from miaobi.verbs.search.space import set_in

LOOKS = 5
"""Validations in a trial, by which hopeless ones are told."""
LOOKED_AT = 100
"""Validation examples in each of them; the figure at the end is of many more."""
MANIFEST = "search.json"


@dataclass(frozen=True)
class Job:
    """A search as search.json keeps it: all that another process needs to carry out trials."""

    name: str
    kind: str
    """"train" or "finetune"."""
    recipe: Mapping[str, Any]
    """With what the command line changed, and without the length of a trial."""
    metric: str
    steps: int
    """Of a trial with the recipe's own batch; with another one, as many as see the same
    number of examples.
    """
    batch: int
    """Examples of one of those steps."""
    accumulation: int
    minutes: float | None
    """What a trial may take; it gets fewer steps where they would take longer."""
    whole: int | None
    """The steps that the recipe itself asks for; None where it leaves them to be derived."""
    space: tuple[Dimension, ...]
    fixed: Mapping[str, Any]
    """The recipe's own values, flat."""
    rules: Rules
    seconds: float
    """What a trial with the recipe's own values was expected to take."""

    def write(self, folder: Path) -> None:
        write_text(
            folder / MANIFEST,
            json.dumps(config.plain(asdict(self)), ensure_ascii=False, indent=1),
        )

    @classmethod
    def read(cls, folder: Path) -> Job:
        read = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        space = tuple(
            Dimension(
                **{
                    **item,
                    "choices": tuple(item["choices"]),
                    "when": {
                        key: tuple(allowed) for key, allowed in item["when"].items()
                    },
                }
            )
            for item in read["space"]
        )
        return cls(**{**read, "space": space, "rules": Rules(**read["rules"])})

    def steps_for(self, steps: int, chosen: Mapping[str, Any]) -> int:
        """`steps` of the recipe's batch in steps of the chosen one."""
        batch = chosen.get(
            "train.batch_size", self.batch // self.accumulation
        ) * chosen.get("train.accumulation", self.accumulation)
        return max(round(steps * self.batch / batch), 1)

    def recipe_with(self, chosen: Mapping[str, Any]) -> dict[str, Any]:
        """The recipe with chosen values. Settings of the model that the chosen family
        does not know are left out.
        """
        tree = copy.deepcopy(dict(self.recipe))
        for key, value in chosen.items():
            set_in(tree, key, value)
        if "train.batch_size" in chosen:
            set_in(
                tree,
                "train.accumulation",
                chosen.get("train.accumulation", self.accumulation),
            )
        if "family" in chosen and tree.get("model"):
            known = {
                option.key
                for option in config.options(families.get(chosen["family"]).Config)
            }
            tree["model"] = {
                key: value for key, value in tree["model"].items() if key in known
            }
        return tree


@dataclass
class Opened:
    """A trial, ready to run."""

    state: Any
    data: Any
    values: dict[str, Any]
    """The resolved settings, flat."""
    known: Any
    figures: Sequence[Any]
    """What the task is judged by; empty for training from scratch, where there is the
    validation loss.
    """
    judge: Callable[[int], Sequence[Any]]
    """The first so many validation examples judged (tune.learner.Evaluation)."""
    mixed_in: Mapping[str, str] = field(default_factory=dict)
    """What came from each further source of training examples."""


def open_trial(
    kind: str,
    recipe: Mapping[str, Any],
    steps: int | None,
    minutes: float | None,
    place: Path,
    examples: int | None = None,
) -> Opened:
    """Everything up to the first step. steps: instead of the recipe's. examples: train
    on so many of the recipe's, held-out ones included.
    """
    tree = copy.deepcopy(dict(recipe))
    if steps is not None:
        for key, value in (
            ("max_steps", steps),
            ("validate_every", max(steps // LOOKS, 1)),
            ("checkpoint_every", steps),
            ("sample_every", steps),
        ):
            set_in(tree, f"train.{key}", value)
        if "patience" not in (recipe.get("train") or {}):
            set_in(tree, "train.patience", 0)
    opened = (
        _tuned(tree, place, examples) if kind == "finetune" else _trained(tree, place)
    )
    if minutes is not None:
        _shortened(opened, minutes)
    return opened


def _trained(recipe: Mapping[str, Any], place: Path) -> Opened:
    from miaobi.verbs.train import recipe_options, settle

    settings = settle(recipe)
    torch.manual_seed(settings.train.seed)
    torch.set_flush_denormal(True)
    data = datasets.get(settings.family.DATA).prepare(settings.data)
    state = loop.start(settings.family.build(settings.model, data.spec), settings.train)
    flat = dict(
        config.flatten(
            settings.values,
            {option.key: option for option in recipe_options(settings.family)},
        )
    )
    torch.manual_seed(settings.train.seed)
    return Opened(
        state, data, flat, estimate.estimate(state, data, place), (), lambda count: ()
    )


def _tuned(recipe: Mapping[str, Any], place: Path, examples: int | None) -> Opened:
    from miaobi.evaluate import tuned
    from miaobi.tune.mixing import describe, subset
    from miaobi.verbs.finetune.settings import settle
    from miaobi.verbs.finetune.work import Work

    settings = settle(recipe)
    torch.manual_seed(settings.train.seed)
    torch.set_flush_denormal(True)
    work = Work.open(settings, None, 1.0, True)
    data = work.data
    if examples:
        data = replace(data, folder=subset(data.folder, work.settings.task, examples))
    state = loop.start(work.learner, work.settings.train)
    torch.manual_seed(settings.train.seed)

    def judge(count: int) -> Sequence[Any]:
        with loop.averaged(state):
            return tuned.evaluate(
                work.learner,
                tuned.first_features(data, "validation", count),
                work.settings.train.batch_size,
            )

    return Opened(
        state,
        data,
        dict(work.settings.values),
        estimate.estimate(state, data, place),
        work.learner.metrics(),
        judge,
        describe(data.spec),
    )


def _shortened(opened: Opened, minutes: float) -> None:
    """Fewer steps where they would take longer than allowed; warm-up and decay are
    shares of the run, so its shape stays.
    """
    before = opened.state.config
    fitting = max(
        min(
            int(before.max_steps * 60 * minutes / max(opened.known.seconds, 1e-9)),
            before.max_steps,
        ),
        1,
    )
    if fitting < before.max_steps:
        cut = {
            "max_steps": fitting,
            "validate_every": max(fitting // LOOKS, 1),
            "checkpoint_every": fitting,
            "sample_every": fitting,
        }
        opened.state.config = replace(before, **cut)
        opened.values |= {f"train.{key}": value for key, value in cut.items()}
        opened.known = replace(
            opened.known, seconds=opened.known.seconds * fitting / before.max_steps
        )


def figure_of(metric: str, figures: Sequence[Any]) -> Any:
    """The figure that `metric` names; None for the validation loss. Raises BadInput
    with the nearest.
    """
    if metric == "validation":
        return None
    found = {figure.name: figure for figure in figures}
    if metric not in found:
        raise BadInput(
            say(
                f"--metric is {metric!r}, which is not measured here.",
                f"--metric 为 {metric!r}，这里没有这个指标。",
            ),
            nearest(metric, ["validation", *found]),
        )
    return found[metric]


def carry_out(job: Job, trial: Trial, runs: Path) -> float:
    """The figure; what else is known goes to trial.facts. Raises optuna.TrialPruned,
    MiaobiError, KeyboardInterrupt; a trial that was interrupted leaves a checkpoint,
    from which it goes on.
    """
    place, chosen = runs / trial.folder, dict(trial.values)
    examples = chosen.pop("data.max_examples", None)
    steps, minutes = job.steps_for(job.steps, chosen), job.minutes
    if (
        place / "config.yaml"
    ).exists():  # begun before: as long as it was then, whatever the machine does now
        steps, minutes = (
            config.read_yaml(place / "config.yaml")["train"]["max_steps"],
            None,
        )
    opened = open_trial(
        job.kind, job.recipe_with(chosen), steps, minutes, place, examples
    )
    state, figure = opened.state, figure_of(job.metric, opened.figures)
    trial.facts |= (
        {
            "mixed_in": "; ".join(
                f"{name}: {said}" for name, said in opened.mixed_in.items()
            )
        }
        if opened.mixed_in
        else {}
    )
    sign = -1 if job.rules.direction == "maximize" else 1

    def watch(state: Any) -> float:
        from miaobi.evaluate import tuned

        return tuned.early_stopping_value(figure, opened.judge(LOOKED_AT))

    def report(step: int, watched: float) -> None:
        trial.report(round(100 * step / state.config.max_steps), sign * watched)

    runs_of.restore_newest(state, place)
    run = runs_of.Run(
        place,
        state.config,
        config.nested(opened.values),
        job.kind,
        lambda state, outputs: None,
        watch if figure else None,
        report,
    )
    try:
        run.train(state, opened.data, opened.known, quiet=True)
    finally:
        trial.facts |= {"steps": state.step, "seconds": round(state.seconds, 2)}
    run.conclude(state, opened.data)
    value, facts = _measured(opened, figure, opened.values.get("report.limit", 0))
    trial.facts |= facts
    shutil.rmtree(
        place / "checkpoints", ignore_errors=True
    )  # the best settings are trained anew, at full length
    return value


def _measured(opened: Opened, figure: Any, limit: int) -> tuple[float, dict[str, Any]]:
    validation = opened.state.validation
    if figure is None:
        return validation, {}
    from miaobi.evaluate.compare import score

    found = score(figure, opened.judge(limit))
    return found.value, {
        "low": found.low,
        "high": found.high,
        "n": found.n,
        "validation": validation,
    }
