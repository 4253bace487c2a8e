"""From a recipe and settings over it to a search: what may vary, how trials are compared,
how long a trial is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from miaobi.core import config
from miaobi.core.config import Option
from miaobi.core.errors import BadInput
from miaobi.core.language import say
from miaobi.core.store import check_name
from miaobi.families import families
from miaobi.train.search import Dimension, Rules
from miaobi.tune.learner import Metric
from miaobi.verbs.search import space as search_space
from miaobi.verbs.search.job import Job, new_folder
from miaobi.verbs.search.options import SHARE, Options
from miaobi.verbs.search.space import set_key
from miaobi.verbs.search.trial import OpenTrial, metric_named, open_trial


@dataclass(frozen=True)
class ResolvedRecipe:
    """A recipe with typed settings over it."""

    kind: str
    """"train" or "finetune"."""
    options: Mapping[str, Option]
    """Every setting by its key."""
    values: Mapping[str, Any]
    """By key."""
    overridden: frozenset[str]
    """Keys of the settings over the recipe."""


def plan(
    recipe: Mapping[str, Any],
    overrides: Mapping[str, Any],
    options: Options,
    origin: str,
) -> Job:
    """Resolve a recipe into a search.

    The recipe's model and data are opened once, to measure what a trial costs.

    Args:
        recipe: as read from a file, with its section `search`
        overrides: typed settings over it, by dotted key
        options: of the command
        origin: the recipe's file, for names and errors

    Raises:
        BadInput: a setting is wrong, or makes trials incomparable
        Conflict: there is a search of this name
    """
    section = recipe.get("search") or {}
    tree = {key: value for key, value in recipe.items() if key != "search"}
    resolved = resolve_recipe(tree, overrides, origin)
    recipe_steps = (tree.get("train") or {}).get("max_steps")
    for key in resolved.overridden - {"train.max_steps"}:
        set_key(tree, key, resolved.values[key])
    name = _name(options, resolved, origin)
    if not options.dry_run:
        new_folder(name, options.runs)
    trial_steps = None
    if "train.max_steps" in resolved.overridden:
        trial_steps = resolved.values["train.max_steps"]
    trial = open_trial(resolved.kind, tree, trial_steps, None, Path(options.runs))
    train = trial.state.config
    if resolved.kind == "finetune":
        # What was derived from the data must be the same in all trials.
        set_key(tree, "train.batch_size", train.batch_size)
        set_key(tree, "train.microbatches", train.microbatches)
    metric_name = options.metric or _default_metric(trial)
    metric = metric_named(metric_name, trial.metrics)
    fixed = _fixed_values(resolved, trial)
    unit = trial.state.objective.unit
    space = _space(section, resolved, fixed, tree, metric_name, unit)
    _check_sources(space, tree)
    steps = trial_steps or _trial_steps(train.max_steps, options)
    seconds = trial.estimate.seconds * steps / train.max_steps
    if options.minutes:
        seconds = min(seconds, 60 * options.minutes)
    return Job(
        name=name,
        kind=resolved.kind,
        recipe=config.plain(tree),
        metric=metric_name,
        steps=steps,
        batch=train.batch_size * train.microbatches,
        microbatches=train.microbatches,
        minutes=options.minutes,
        whole=recipe_steps,
        space=tuple(space),
        fixed=fixed,
        rules=Rules(
            trials=options.trial_count,
            direction=_direction(metric),
            patience=options.patience_trials,
            prune=options.prune,
            seed=options.search_seed,
        ),
        seconds=seconds,
    )


def _name(options: Options, resolved: ResolvedRecipe, origin: str) -> str:
    stem = Path(origin).stem if origin else resolved.kind
    default = stem.replace("_", "-").lower()
    return check_name(options.name or resolved.values["name"] or default)


def _default_metric(trial: OpenTrial) -> str:
    """Return the task's first metric; the validation loss for training from scratch."""
    return trial.metrics[0].name if trial.metrics else "validation"


def _direction(metric: Metric | None) -> Literal["minimize", "maximize"]:
    if metric is not None and metric.better == "higher":
        return "maximize"
    return "minimize"


def _trial_steps(recipe_steps: int, options: Options) -> int:
    """Return the steps of a trial where the command line sets none."""
    if options.minutes:
        return recipe_steps
    return max(round(recipe_steps * SHARE), 1)


def _fixed_values(resolved: ResolvedRecipe, trial: OpenTrial) -> dict[str, Any]:
    """Return the recipe's own values, flat, with what was derived from its data."""
    values = config.plain({**resolved.values, **trial.values})
    return {
        key: value
        for key, value in values.items()
        if not isinstance(value, list | dict)
    }


def _check_sources(space: Sequence[Dimension], tree: Mapping[str, Any]) -> None:
    """Check the sources whose share varies, though the recipe may not read them now.

    Raises:
        BadInput, NotFound: a trial could not read one of them
    """
    names = {
        item.key.split(".")[2] for item in space if item.key.startswith("data.mix.")
    }
    if not names:
        return
    from miaobi.tune.mixing import check_source
    from miaobi.verbs.finetune.settings import settle

    for name, source in settle(tree).data.mix.items():
        check_source(name, source, needed=name in names)


def resolve_recipe(
    recipe: Mapping[str, Any], overrides: Mapping[str, Any], origin: str
) -> ResolvedRecipe:
    """Resolve a recipe of either kind and typed settings over it."""
    if recipe.get("family") or overrides.get("family"):
        return _resolve_training(recipe, overrides, origin)
    return _resolve_tuning(recipe, overrides, origin)


def _resolve_training(
    recipe: Mapping[str, Any], overrides: Mapping[str, Any], origin: str
) -> ResolvedRecipe:
    from miaobi.verbs.train import recipe_options, settle

    settings = settle(recipe, overrides, origin)
    options = {option.key: option for option in recipe_options(settings.family)}
    values = dict(config.flatten(settings.values, options))
    values["name"] = overrides.get("name") or recipe.get("name")
    overridden = {key for key, _ in config.flatten(overrides, options)}
    return ResolvedRecipe("train", options, values, frozenset(overridden))


def _resolve_tuning(
    recipe: Mapping[str, Any], overrides: Mapping[str, Any], origin: str
) -> ResolvedRecipe:
    from miaobi.verbs.finetune.settings import (
        expand_short_options,
        options_of,
        settle,
    )

    settings = settle(recipe, overrides, origin)
    options = {
        option.key: option
        for option in config.expand_mappings(options_of(settings.task), recipe, origin)
    }
    overridden = {
        key for key, _ in config.flatten(expand_short_options(overrides), options)
    }
    return ResolvedRecipe(
        "finetune", options, dict(settings.values), frozenset(overridden)
    )


def _space(
    section: Mapping[str, Any],
    resolved: ResolvedRecipe,
    fixed: Mapping[str, Any],
    tree: Mapping[str, Any],
    metric: str,
    unit: str,
) -> list[Dimension]:
    """Return what the `search` section names, or what suits the recipe's kind."""
    if not section:
        space = _default_space(resolved, fixed, tree, metric)
    elif resolved.kind == "train" and section.get("family"):
        space = _space_of_families(section, resolved, metric, unit)
    else:
        space = search_space.read(section, resolved.options, resolved.kind, metric)
    return search_space.checked(space, fixed)


def _default_space(
    resolved: ResolvedRecipe,
    fixed: Mapping[str, Any],
    tree: Mapping[str, Any],
    metric: str,
) -> list[Dimension]:
    options = resolved.options
    if resolved.kind == "train":
        return search_space.default_train(fixed, options)
    explicit = frozenset(key for key, _ in config.flatten(tree, options))
    space = search_space.default_finetune(fixed, explicit, options)
    if metric != "validation":
        return space
    # With another head, losses cannot be compared.
    return [item for item in space if not item.key.startswith("head.")]


def _space_of_families(
    section: Mapping[str, Any], resolved: ResolvedRecipe, metric: str, unit: str
) -> list[Dimension]:
    """Return a space over several families, each with its own settings.

    `unit`: what the loss of the recipe's family is a mean over.
    """
    names = section["family"]
    kinds = {families.get(name).DATA for name in names}
    if unit != "tokens" or len(kinds) > 1:
        raise BadInput(
            say(
                f"search: the losses of {', '.join(names)} cannot be compared.",
                f"search：{'、'.join(names)} 的损失无法比较。",
            ),
            say(
                "Only families that predict the tokens of one kind of data have one kind of loss.",
                "只有在同类数据上预测词元的模型族，其损失才是同一种。",
            ),
        )
    options = dict(resolved.options)
    families_by_key = dict[str, list[str]]()
    for name in names:
        for option in config.options(families.get(name).Config):
            key = f"model.{option.key}"
            options[key] = option
            families_by_key.setdefault(key, []).append(name)
    space = search_space.read(section, options, resolved.kind, metric)
    return search_space.with_families(space, families_by_key)
