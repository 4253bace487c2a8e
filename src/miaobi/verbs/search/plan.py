"""From a recipe and a command line to a search: what may vary, what it is judged by,
how long a trial is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from miaobi.core import config
from miaobi.core.config import Option
from miaobi.core.errors import BadInput
from miaobi.core.language import say
from miaobi.core.store import check_name
from miaobi.families import families
from miaobi.train.search import Dimension, Rules
from miaobi.verbs.search import SHARE, TRIALS, folder_of
from miaobi.verbs.search import space as search_space
from miaobi.verbs.search.trial import Job, figure_of, open_trial


def plan(
    recipe: Mapping[str, Any],
    words: Sequence[str],
    values: Mapping[str, Any],
    origin: str,
) -> Job:
    """values: the verb's own options. Opens the recipe's model and data once, to
    measure what a trial costs. Raises BadInput.
    """
    section = recipe.get("search") or {}
    tree = {key: value for key, value in recipe.items() if key != "search"}
    kind, known, values_of, told = settled(tree, words, origin)
    whole = (tree.get("train") or {}).get("max_steps")
    budget = values_of["train.max_steps"] if "train.max_steps" in told else None
    for key in told - {"train.max_steps"}:
        search_space.set_in(tree, key, values_of[key])
    name = check_name(
        values["name"]
        or values_of["name"]
        or (Path(origin).stem if origin else kind).replace("_", "-").lower()
    )
    if not values["dry_run"]:
        folder_of(name, values["runs"])
    opened = open_trial(kind, tree, budget, None, Path(values["runs"]))
    train = opened.state.config
    if (
        kind == "finetune"
    ):  # what was derived from the data must be the same in all trials
        for key in ("batch_size", "accumulation"):
            search_space.set_in(tree, f"train.{key}", getattr(train, key))
    metric = values["metric"] or (
        opened.figures[0].name if opened.figures else "validation"
    )
    figure = figure_of(metric, opened.figures)
    direction = (
        "maximize" if figure is not None and figure.better == "higher" else "minimize"
    )
    fixed = {
        key: value
        for key, value in config.plain({**values_of, **opened.values}).items()
        if not isinstance(value, list | dict)
    }
    space = search_space.settled(
        _space(
            section,
            kind,
            known,
            fixed,
            frozenset(key for key, _ in config.flatten(tree, known)),
            metric,
        ),
        fixed,
    )
    _check_mixed(space, tree)
    trials = values["trials"] or TRIALS
    patience = values["patience"] or max(6, -(-trials // 2))
    steps = budget or (
        train.max_steps if values["minutes"] else max(round(train.max_steps * SHARE), 1)
    )
    seconds = opened.known.seconds * steps / train.max_steps
    return Job(
        name,
        kind,
        config.plain(tree),
        metric,
        steps,
        train.batch_size * train.accumulation,
        train.accumulation,
        values["minutes"],
        whole,
        tuple(space),
        fixed,
        Rules(trials, direction, patience, values["prune"], values["search_seed"]),
        min(seconds, 60 * values["minutes"]) if values["minutes"] else seconds,
    )


def _check_mixed(space: Sequence[Dimension], tree: Mapping[str, Any]) -> None:
    """Raise BadInput, NotFound now for a source of which only a later trial would read anything."""
    names = {
        item.key.split(".")[2] for item in space if item.key.startswith("data.mix.")
    }
    if names:
        from miaobi.tune.mixing import check_source
        from miaobi.verbs.finetune.settings import settle

        for name, source in settle(tree).data.mix.items():
            check_source(name, source, needed=name in names)


def settled(
    recipe: Mapping[str, Any], words: Sequence[str], origin: str
) -> tuple[str, dict[str, Option], dict[str, Any], set[str]]:
    """("train" or "finetune", settings by key, their values, the keys that the command
    line gives).
    """
    if recipe.get("family") or config.peek(words, "family") is not None:
        from miaobi.verbs.train import recipe_options
        from miaobi.verbs.train import settle as settle_train

        family = settle_train(recipe, tuple(words), origin).family
        known = {option.key: option for option in recipe_options(family)}
        tree = {key: value for key, value in recipe.items() if key != "search"}
        return (
            "train",
            known,
            config.resolve(list(known.values()), words, tree, origin),
            {key for key, _ in config.parse_argv(words, known)},
        )
    from miaobi.verbs.finetune.settings import expand_short_options, options_of, settle

    settings = settle(recipe, words, origin)
    known = {
        option.key: option
        for option in config.expand_mappings(options_of(settings.task), recipe, origin)
    }
    return (
        "finetune",
        known,
        dict(settings.values),
        {key for key, _ in config.parse_argv(expand_short_options(words), known)},
    )


def _space(
    section: Mapping[str, Any],
    kind: str,
    known: Mapping[str, Option],
    fixed: Mapping[str, Any],
    given: frozenset[str],
    metric: str,
) -> list[Dimension]:
    if not section:
        return (
            search_space.default_train(fixed, known)
            if kind == "train"
            else [
                item
                for item in search_space.default_finetune(fixed, given, known)
                if metric != "validation" or not item.key.startswith("head.")
            ]
        )
    chosen = section.get("family") if kind == "train" else None
    if chosen is None:
        return search_space.read(section, known, kind, metric)
    by_family = {
        name: {
            f"model.{option.key}": option
            for option in config.options(families.get(name).Config)
        }
        for name in chosen
    }
    if any(families.get(name).MODALITY != "text" for name in chosen):
        raise BadInput(
            say(
                f"search: the losses of {', '.join(chosen)} cannot be compared.",
                f"search：{'、'.join(chosen)} 的损失无法比较。",
            ),
            say(
                "Only families of text have one kind of loss.",
                "只有文本类模型族的损失是同一种。",
            ),
        )
    everything = {
        **known,
        **{
            key: option
            for options in by_family.values()
            for key, option in options.items()
        },
    }
    having = {
        key: [name for name, options in by_family.items() if key in options]
        for options in by_family.values()
        for key in options
    }
    return search_space.conditions(
        search_space.read(section, everything, kind, metric), having
    )
