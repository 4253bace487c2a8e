"""The settings of a fine-tuning run: a recipe, the command line over it, and what
follows from base and data for the rest.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import MISSING, asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from miaobi.core import config
from miaobi.core.config import Option
from miaobi.core.errors import BadInput, nearest
from miaobi.core.language import say
from miaobi.core.store import check_name
from miaobi.data import packs
from miaobi.models.fresh import NEW, NewConfig
from miaobi.models.resolvers.hub import is_pipeline
from miaobi.train.config import TrainConfig
from miaobi.tune.config import DataConfig, ReportConfig, TuneConfig
from miaobi.tune.tasks import tasks

if TYPE_CHECKING:
    from miaobi.tune.guess import Guess

SECTIONS = {
    "name",
    "task",
    "base",
    "new",
    "data",
    "head",
    "tune",
    "train",
    "report",
}
"""Of a recipe for fine-tuning."""

NEW_RATE = 1e-3
"""Learning rate of a base that begins with random weights."""
PIPELINE_TASK = "diffusion"
"""The task that tunes Diffusers pipelines; no other can."""


@dataclass(frozen=True)
class Settings:
    name: str
    base: str
    task: Any
    data: DataConfig
    head: Any
    tune: TuneConfig
    train: TrainConfig
    report: ReportConfig
    new: NewConfig
    """What `base: new` makes."""
    values: Mapping[str, Any]
    """The same, flat, by dotted key."""
    explicit_keys: frozenset[str]
    """Keys that the recipe or the command line set; the others may be derived."""
    guess: Guess | None = None
    """How the task was recognised, where it was not named."""

    def derived(self, overrides: Mapping[str, Any]) -> Settings:
        """Return the settings with some of the train section replaced."""
        values = dict(self.values)
        for key, value in overrides.items():
            values[f"train.{key}"] = value
        train = TrainConfig(**config.build(TrainConfig, values, "train."))
        return replace(self, train=train, values=values)

    def with_length(self, max_length: int) -> Settings:
        """Return the settings with another data.max_length."""
        data = replace(self.data, max_length=max_length)
        values = {**self.values, "data.max_length": max_length}
        return replace(self, data=data, values=values)


def options_of(task: Any | None) -> list[Option]:
    """Return every key of a recipe for `task`; for None those that all tasks have."""
    return [
        Option("name", str | None, None, "Name of the tuned model in the store."),
        Option(
            "task",
            str,
            task.NAME if task else "",
            "A name in the tasks registry; recognised from the data when left out.",
        ),
        Option(
            "base",
            str,
            MISSING,
            "The model to tune: a starter pack, a model in the store, a path, a hub id; new for "
            "random weights, trained from scratch.",
        ),
        *config.options(NewConfig, "new."),
        *config.options(DataConfig, "data."),
        *(config.options(task.Config, "head.") if task else []),
        *config.options(TuneConfig, "tune."),
        *config.options(TrainConfig, "train."),
        *config.options(ReportConfig, "report."),
    ]


SHORT_OPTIONS = [
    Option(
        "data",
        str | None,
        None,
        "Short for --data.path, and for --data.pack where it is a starter pack.",
    ),
    Option("method", str | None, None, "Short for --tune.method."),
    Option("add_tokens", list[str] | None, None, "Short for --tune.add_tokens."),
]
"""Options beside the keys of a recipe."""


def expand_short_options(overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings by key with the short ones under the keys that they stand for.

    data is data.path, or data.pack where it is a starter pack; method is tune.method,
    and add_tokens is tune.add_tokens.
    """
    expanded = dict[str, Any]()
    for key, value in overrides.items():
        if key == "data":
            is_pack = str(value) in packs.catalogue()
            expanded["data.pack" if is_pack else "data.path"] = str(value)
        elif key in ("method", "add_tokens"):
            expanded[f"tune.{key}"] = value
        else:
            expanded[key] = value
    return expanded


def settle(
    recipe: Mapping[str, Any],
    overrides: Mapping[str, Any] | None = None,
    origin: str = "",
    *,
    own: bool = False,
) -> Settings:
    """Resolve a recipe and typed settings over it.

    Args:
        recipe: nested mappings, as in a recipe file
        overrides: by dotted key, short options included
        origin: the file that the recipe comes from, for names and errors
        own: it was written by miaobi, where earlier names of settings are no mistake
    """
    overrides = expand_short_options(overrides or {})
    # The section `search` is for `miaobi search`.
    recipe = {key: value for key, value in recipe.items() if key != "search"}
    _check_sections(recipe, origin)
    guess = None
    name = _named_task(recipe, overrides)
    if name is None:
        guess = _guess(recipe, overrides)
        name = guess.task
    task = tasks.get(name)
    options = options_of(task)
    values = config.resolve(options, recipe, overrides, origin, own=own)
    values["task"] = task.NAME
    values["name"] = _name(values, task.NAME, origin)
    by_key = {
        option.key: option for option in config.expand_mappings(options, recipe, origin)
    }
    explicit = {key for key, _ in config.flatten(recipe, by_key)}
    explicit |= {key for key, _ in config.flatten(overrides, by_key)}
    explicit |= _settle_new(values, explicit, task)
    return Settings(
        name=values["name"],
        base=values["base"],
        task=task,
        data=DataConfig(**config.build(DataConfig, values, "data.")),
        head=task.Config(**config.build(task.Config, values, "head.")),
        tune=TuneConfig(**config.build(TuneConfig, values, "tune.")),
        train=TrainConfig(**config.build(TrainConfig, values, "train.")),
        report=ReportConfig(**config.build(ReportConfig, values, "report.")),
        new=NewConfig(**config.build(NewConfig, values, "new.")),
        values=values,
        explicit_keys=frozenset(explicit),
        guess=guess,
    )


def _settle_new(
    values: dict[str, Any], explicit: Collection[str], task: Any
) -> set[str]:
    """Set what follows from `base: new` and return the keys of it.

    Raises BadInput for a task that does not read texts with a head, for a method that
    leaves weights as they are, and for settings of a new base beside another one.
    """
    if values["base"] != NEW:
        # A recipe that a run has written names every key: what is as it was by default
        # says nothing.
        defaults = asdict(NewConfig())
        for key in sorted(explicit):
            section, _, name = key.partition(".")
            if section == "new" and values[key] != defaults[name]:
                raise BadInput(
                    say(
                        f"{key} describes a new base, and base is {values['base']}.",
                        f"{key} 用于新建的基础模型，而 base 为 {values['base']}。",
                    ),
                    say(
                        f"Leave it out, or use --base {NEW}.",
                        f"请去掉它，或使用 --base {NEW}。",
                    ),
                    field=key,
                )
        return set()
    if (task.MODALITY, task.MAKES) != ("text", "labels"):
        raise BadInput(
            say(
                f"base: new reads texts; the task {task.NAME} needs another model.",
                f"base: new 只能读取文本；任务 {task.NAME} 需要另一种模型。",
            ),
            say(
                "Train one that writes from scratch with `miaobi train`, or name a pretrained base.",
                "从零训练能写作的模型请用 `miaobi train`；或选用预训练基础模型。",
            ),
            field="base",
        )
    if "tune.method" in explicit and values["tune.method"] != "full":
        raise BadInput(
            say(
                f"base: new has random weights, which {values['tune.method']} leaves as they are.",
                f"base: new 的权重是随机的，而 {values['tune.method']} 方法不训练它们。",
            ),
            say("Leave the method out.", "请去掉 method。"),
            field="tune.method",
        )
    values["tune.method"] = "full"
    if "train.learning_rate" in explicit:
        return set()
    values["train.learning_rate"] = NEW_RATE
    return {"train.learning_rate"}


def _check_sections(recipe: Mapping[str, Any], origin: str) -> None:
    for section in recipe:
        if section not in SECTIONS:
            raise BadInput(
                say(
                    f"{origin}: there is no section {section!r} in a recipe for fine-tuning.",
                    f"{origin}：微调配方中没有 {section!r} 这一节。",
                ),
                nearest(section, SECTIONS),
            )


def task_of(recipe: Mapping[str, Any], overrides: Mapping[str, Any]) -> Any:
    """Return the task that is named, or else the one that the data is written for.

    Args:
        recipe: nested mappings, as in a recipe file
        overrides: by dotted key, short options expanded
    """
    name = _named_task(recipe, overrides)
    return tasks.get(name or _guess(recipe, overrides).task)


def _named_task(recipe: Mapping[str, Any], overrides: Mapping[str, Any]) -> str | None:
    """Return the task that is named, or that the base decides; None to guess it."""
    name = overrides.get("task") or recipe.get("task") or None
    base = str(overrides.get("base") or recipe.get("base") or "")
    if base and is_pipeline(base):
        return _task_of_pipelines(base, name)
    return name


def _guess(recipe: Mapping[str, Any], overrides: Mapping[str, Any]) -> Guess:
    """Return the task that the data is written for. Raises NotFound, BadInput."""
    from miaobi.tune.guess import guess

    data = dict(recipe.get("data") or {})
    head = dict(recipe.get("head") or {})
    for key, value in overrides.items():
        section, _, name = key.partition(".")
        if section in ("data", "head"):
            (data if section == "data" else head)[name] = value
    path = data.get("path") or ""
    pack = data.get("pack") or ""
    packs.check_one(path, pack, "my.jsonl", "chinese-reviews")
    return guess(path, pack, data.get("encoding") or "", data.get("columns"), head)


def _task_of_pipelines(base: str, name: str | None) -> str:
    """Return the task that tunes a Diffusers pipeline. Raises BadInput for another one."""
    if name and name != PIPELINE_TASK:
        raise BadInput(
            say(
                f"{base} is a Diffusers pipeline, which the task {name} cannot tune.",
                f"{base} 是 Diffusers 模型，不能用于任务 {name}。",
            ),
            say(
                f"Leave the task out, or use --task {PIPELINE_TASK}.",
                f"请去掉任务，或使用 --task {PIPELINE_TASK}。",
            ),
        )
    return PIPELINE_TASK


def _name(values: Mapping[str, Any], task: str, origin: str) -> str:
    """Return the name that is set, or one made of the recipe's file or of base and task."""
    if values["name"]:
        return check_name(values["name"])
    base = Path(values["base"].split("@")[0]).name
    stem = Path(origin or f"{base}-{task}").stem
    return check_name(stem.replace("_", "-").lower())
