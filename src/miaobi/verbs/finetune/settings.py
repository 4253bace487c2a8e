"""The settings of a fine-tuning run: a recipe, the command line over it, and what
follows from base and data for the rest.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import MISSING, dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

from miaobi.core import config
from miaobi.core.config import Option
from miaobi.core.errors import BadInput, MiaobiError, nearest
from miaobi.core.language import say
from miaobi.core.store import check_name
from miaobi.data import packs, readers
from miaobi.data.encoding import Problem
from miaobi.data.labelled import ReadOptions
from miaobi.data.text.shapes import Record, Unusable
from miaobi.models.resolvers.hub import is_pipeline
from miaobi.train.config import TrainConfig
from miaobi.tune.config import DataConfig, ReportConfig, TuneConfig
from miaobi.tune.tasks import tasks

SECTIONS = {"name", "task", "base", "data", "head", "tune", "train", "report"}
"""Of a recipe for fine-tuning."""
TASK_ORDER = (
    "extractive-questions",
    "chat",
    "preference",
    "token-classification",
    "embedding",
    "text-classification",
    "seq2seq",
    "object-detection",
    "image-segmentation",
    "image-classification",
    "image-captioning",
    "causal",
)
"""Tasks in the order in which records are tried on them, the more particular first."""
PROBED_RECORDS = 5
"""Records of the data by which the task is recognised."""

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
    values: Mapping[str, Any]
    """The same, flat, by dotted key."""
    explicit_keys: frozenset[str]
    """Keys that the recipe or the command line set; the others may be derived."""

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
            "The model to tune: a starter pack, a model in the store, a path, a hub id.",
        ),
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
]
"""Options beside the keys of a recipe."""


def expand_short_options(overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings by key with the short ones under the keys that they stand for.

    data is data.path, or data.pack where it is a starter pack; method is tune.method.
    """
    expanded = dict[str, Any]()
    for key, value in overrides.items():
        if key == "data":
            is_pack = str(value) in packs.catalogue()
            expanded["data.pack" if is_pack else "data.path"] = str(value)
        elif key == "method":
            expanded["tune.method"] = value
        else:
            expanded[key] = value
    return expanded


def settle(
    recipe: Mapping[str, Any],
    overrides: Mapping[str, Any] | None = None,
    origin: str = "",
) -> Settings:
    """Resolve a recipe and typed settings over it.

    Args:
        recipe: nested mappings, as in a recipe file
        overrides: by dotted key, short options included
        origin: the file that the recipe comes from, for names and errors
    """
    overrides = expand_short_options(overrides or {})
    # The section `search` is for `miaobi search`.
    recipe = {key: value for key, value in recipe.items() if key != "search"}
    _check_sections(recipe, origin)
    task = task_of(recipe, overrides)
    options = options_of(task)
    values = config.resolve(options, recipe, overrides, origin)
    values["task"] = task.NAME
    values["name"] = _name(values, task.NAME, origin)
    by_key = {
        option.key: option for option in config.expand_mappings(options, recipe, origin)
    }
    explicit = {key for key, _ in config.flatten(recipe, by_key)}
    explicit |= {key for key, _ in config.flatten(overrides, by_key)}
    return Settings(
        name=values["name"],
        base=values["base"],
        task=task,
        data=DataConfig(**config.build(DataConfig, values, "data.")),
        head=task.Config(**config.build(task.Config, values, "head.")),
        tune=TuneConfig(**config.build(TuneConfig, values, "tune.")),
        train=TrainConfig(**config.build(TrainConfig, values, "train.")),
        report=ReportConfig(**config.build(ReportConfig, values, "report.")),
        values=values,
        explicit_keys=frozenset(explicit),
    )


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
    name = overrides.get("task") or recipe.get("task")
    base = str(overrides.get("base") or recipe.get("base") or "")
    if base and is_pipeline(base):
        name = _task_of_pipelines(base, name)
    if not name:
        data = recipe.get("data") or {}
        path = overrides.get("data.path") or data.get("path") or ""
        pack = overrides.get("data.pack") or data.get("pack") or ""
        encoding = overrides.get("data.encoding") or data.get("encoding") or ""
        name = guess(path, pack, encoding)
    return tasks.get(name)


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


def guess(path: str, pack: str, encoding: str = "") -> str:
    """Return the task that the first records of a file or pack are written for.

    Args:
        path: a file or folder, or ""
        pack: a pack, or ""
        encoding: of the file, where a person named it

    Raises:
        BadInput: they fit no task; the remedy lists the tasks
    """
    packs.check_one(path, pack, "my.jsonl", "chinese-reviews")
    options = ReadOptions(encoding=encoding, report=_ignore)
    for name in TASK_ORDER:
        if name in tasks and all(_fits(tasks.get(name), path, pack, options)):
            return name
    rows = [f"  {name}: {tasks.get(name).EXAMPLE}" for name in tasks.names()]
    listed = "\n".join(rows)
    raise BadInput(
        say(
            f"{path or pack}: its records fit no task.",
            f"{path or pack}：其中的记录不适合任何任务。",
        ),
        say(
            f"Name the task with --task, and your columns with --data.columns. Tasks and a record of each:\n{listed}",
            f"请用 --task 指明任务，用 --data.columns 指明列名。各任务的记录示例：\n{listed}",
        ),
    )


def _ignore(problem: Problem) -> None:
    """Pass over what cannot be read: whoever reads it in full says so."""


def _fits(task: Any, path: str, pack: str, options: ReadOptions) -> Iterator[bool]:
    """Yield whether the task can use each of the first records.

    Yields False once where there is no record, or where they cannot be read.
    """
    empty = True
    try:
        records = readers.get(task.READER)(path, pack, options)
        for _, record in islice(records, PROBED_RECORDS):
            empty = False
            try:
                task.columns(Record.of(record), task.Config())
            except Unusable:
                yield False
    except MiaobiError:
        yield False
    if empty:
        yield False
