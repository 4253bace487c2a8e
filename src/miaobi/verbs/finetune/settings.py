"""The settings of a fine-tuning run: a recipe, the command line over it, and what
follows from base and data for the rest.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import MISSING, dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

from miaobi.core import config
from miaobi.core.config import Option
from miaobi.core.errors import BadInput, MiaobiError, nearest
from miaobi.core.language import say
from miaobi.core.store import check_name
from miaobi.data import packs
from miaobi.data.labelled import readers
from miaobi.data.text.shapes import Unusable
from miaobi.train.config import TrainConfig
from miaobi.tune import examples
from miaobi.tune.methods import TuneConfig
from miaobi.tune.tasks import tasks

RECIPE = {"name", "task", "base", "data", "head", "tune", "train", "report"}
GUESSES = (
    "chat",
    "preference",
    "extractive-questions",
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
LOOKED_AT = 5
SHORT = {"--method": "--tune.method"}


@dataclass(frozen=True)
class ReportConfig:
    """Step 5: how base and tuned model are compared."""

    limit: int = 500
    """Test examples at most."""
    answers: int = 6
    """Test examples of which the answers are shown side by side, the worst first."""
    forgetting: bool = True
    """For models that write: how likely a general text is before and after."""
    memorisation: bool = True
    """How much better the model does on training examples than on the test."""


@dataclass(frozen=True)
class Settings:
    name: str
    base: str
    task: Any
    data: examples.Config
    head: Any
    tune: TuneConfig
    train: TrainConfig
    report: ReportConfig
    values: Mapping[str, Any]
    """The same, flat, by dotted key."""
    given: frozenset[str]
    """Keys that the recipe or the command line set; the rest may be derived."""

    def derived(self, found: Mapping[str, Any]) -> Settings:
        """With train settings that follow from base and data."""
        values = {
            **self.values,
            **{f"train.{key}": value for key, value in found.items()},
        }
        return replace(
            self,
            train=TrainConfig(**config.build(TrainConfig, values, "train.")),
            values=values,
        )

    def with_length(self, max_length: int) -> Settings:
        return replace(
            self,
            data=replace(self.data, max_length=max_length),
            values={**self.values, "data.max_length": max_length},
        )


def options_of(task: Any) -> list[Option]:
    """Every key of a recipe for `task`."""
    return [
        Option(
            "name",
            str | None,
            None,
            "What the tuned model will be called in the store.",
        ),
        Option(
            "task",
            str,
            task.NAME,
            "A name in the tasks registry; told from the data where it is left out.",
        ),
        Option(
            "base",
            str,
            MISSING,
            "What is tuned: a starter pack, a model in the store, a path, a hub id.",
        ),
        *config.options(examples.Config, "data."),
        *config.options(task.Config, "head."),
        *config.options(TuneConfig, "tune."),
        *config.options(TrainConfig, "train."),
        *config.options(ReportConfig, "report."),
    ]


def spelled_out(words: Sequence[str]) -> list[str]:
    """The short options in full: --data X is --data.path or --data.pack, --method X is
    --tune.method.
    """
    whole, rest = (
        list[str](),
        [
            part
            for word in words
            for part in (
                word.split("=", 1) if word.startswith("--") and "=" in word else [word]
            )
        ],
    )
    while rest:
        word = rest.pop(0)
        if word == "--data" and rest:
            whole += [
                "--data.pack" if rest[0] in packs.catalogue() else "--data.path",
                rest.pop(0),
            ]
        else:
            whole.append(SHORT.get(word, word))
    return whole


def settle(
    recipe: Mapping[str, Any], words: Sequence[str] = (), origin: str = ""
) -> Settings:
    """Resolve a recipe (as read from the file `origin`) and the command line's words over it."""
    words = spelled_out(words)
    recipe = {
        key: value for key, value in recipe.items() if key != "search"
    }  # that section is for `miaobi search`
    unknown = next((key for key in recipe if key not in RECIPE), None)
    if unknown:
        raise BadInput(
            say(
                f"{origin}: there is no section {unknown!r} in a recipe for fine-tuning.",
                f"{origin}：微调配方中没有 {unknown!r} 这一节。",
            ),
            nearest(unknown, RECIPE),
        )
    data = recipe.get("data") or {}
    name = config.peek(words, "task") or recipe.get("task")
    if not name:
        name = guess(
            config.peek(words, "data.path") or data.get("path") or "",
            config.peek(words, "data.pack") or data.get("pack") or "",
        )
    task = tasks.get(name)
    known = options_of(task)
    values = {**config.resolve(known, words, recipe, origin), "task": task.NAME}
    values["name"] = check_name(
        values["name"]
        or Path(origin or f"{_plain_name(values['base'])}-{task.NAME}")
        .stem.replace("_", "-")
        .lower()
    )
    by_key = {
        option.key: option for option in config.expand_mappings(known, recipe, origin)
    }
    given = {key for key, _ in config.flatten(recipe, by_key)} | {
        key for key, _ in config.parse_argv(words, by_key)
    }
    made = {
        section: kind(**config.build(kind, values, f"{section}."))
        for section, kind in (
            ("data", examples.Config),
            ("head", task.Config),
            ("tune", TuneConfig),
            ("train", TrainConfig),
            ("report", ReportConfig),
        )
    }
    return Settings(
        values["name"],
        values["base"],
        task,
        **made,
        values=values,
        given=frozenset(given),
    )


def _plain_name(base: str) -> str:
    return Path(base.split("@")[0]).name


def guess(path: str, pack: str) -> str:
    """The task that the first records are written for. Raises BadInput that lists the
    tasks where none fits.
    """
    packs.check_one(path, pack, "my.jsonl", "chinese-reviews")
    for name in [name for name in GUESSES if name in tasks]:
        if all(_fits(tasks.get(name), path, pack)):
            return name
    listed = "\n".join(f"  {name}: {tasks.get(name).EXAMPLE}" for name in tasks.names())
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


def _fits(task: Any, path: str, pack: str) -> Iterable[bool]:
    """Of each of the first records, whether the task can use it; one False where they
    cannot even be read.
    """
    met = False
    try:
        for _, record in islice(readers.get(task.READER)(path, pack), LOOKED_AT):
            met = True
            try:
                task.columns(record, task.Config())
            except Unusable:
                yield False
    except MiaobiError:
        yield False
    if not met:
        yield False
