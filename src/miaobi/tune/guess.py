"""Which task a file's records are written for, with the reason.

A task fits records of which it can make examples with the head and the columns that are
given, and of whose labels it leaves none unused: what people preferred or labelled is
never taught as something else. Where most records fit and some do not, the task is
told, and reading them names the others by line.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from miaobi.core import storage
from miaobi.core.errors import BadInput, MiaobiError, NotFound, nearest
from miaobi.core.language import joined, say
from miaobi.data import readers
from miaobi.data.encoding import Problem
from miaobi.data.labelled import ReadOptions
from miaobi.data.text.shapes import Record, Unusable
from miaobi.data.text.shapes.record import NAMELESS
from miaobi.tune.examples import example_of
from miaobi.tune.tasks import tasks

ORDER = (
    "extractive-questions",
    "chat",
    "preference",
    "token-classification",
    "reranker",
    "embedding",
    "pair-classification",
    "text-classification",
    "seq2seq",
    "object-detection",
    "image-segmentation",
    "image-classification",
    "image-captioning",
    "causal",
)
"""Tasks in the order in which records are tried on them, the more particular first."""
RECORDS = 20
"""Records of the data by which the task is recognised."""
DECISIVE = frozenset(
    {
        "label",
        "labels",
        "kto_tag",
        "chosen",
        "rejected",
        "rejected_response",
        "rejected_messages",
        "preferred_output",
        "non_preferred_output",
        "tags",
        "ner_tags",
        "entities",
        "relevance",
    }
)
"""Keys that say what a record is for. A task that leaves one unused does not fit."""


@dataclass(frozen=True)
class Guess:
    """The task that records are written for."""

    task: str
    fitting: int
    """Records that fit, of those looked at."""
    records: int
    columns: tuple[str, ...]
    """Keys of the first that fits which the task uses."""

    def __str__(self) -> str:
        columns = ", ".join(self.columns)
        return say(
            f"Task: {self.task}, since {self.fitting} of the first {self.records} "
            f"records fit it ({columns}). Another: --task NAME.",
            f"任务：{self.task}，因为前 {self.records} 条记录中有 {self.fitting} "
            f"条符合（{columns}）。如需其他任务：--task 名称。",
        )


@dataclass
class Trial:
    """How the first records fit one task."""

    task: str
    records: int = 0
    fitting: int = 0
    columns: tuple[str, ...] = ()
    problem: str = ""
    """The first record that does not fit, with file and line, and why."""
    remedy: str = ""
    read_keys: int = 0
    """Keys of that record which the task read before it gave up."""
    shared_keys: int = 0
    """Keys of the task's own example that the first record has."""
    first: str = ""
    """Where the first record stands, and its keys."""
    unread: MiaobiError | None = field(default=None, repr=False)
    """Why no record could be read."""


def guess(
    path: str,
    pack: str,
    encoding: str = "",
    columns: Mapping[str, str] | None = None,
    head: Mapping[str, Any] | None = None,
) -> Guess:
    """Return the task that the first records of a file or pack are written for.

    Args:
        path: a file or folder, or "".
        pack: a pack, or "".
        encoding: of the file, where a person named it.
        columns: people's own names for columns.
        head: settings of the head, those that are given.

    Raises:
        NotFound: there is no such file
        BadInput: the records fit no task; the nearest is named with its reason
    """
    _check_exists(path)
    names = [name for name in ORDER if name in tasks]
    # Several tasks have one reader: each reads the beginning of the data once.
    readings = {
        reader: _reading(reader, path, pack, encoding)
        for reader in {tasks.get(name).READER: None for name in names}
    }
    attempt = Attempt(columns or {}, head or {})
    trials = [attempt.trial(name, readings[tasks.get(name).READER]) for name in names]
    whole = [item for item in trials if item.records and item.fitting == item.records]
    mostly = [item for item in trials if 2 * item.fitting > item.records]
    # max and the list keep the order of the tasks among equals.
    best = whole[0] if whole else max(mostly, key=_share, default=None)
    if best is None:
        raise _fits_none(path or pack, trials)
    return Guess(best.task, best.fitting, best.records, best.columns)


def _share(trial: Trial) -> float:
    return trial.fitting / trial.records


def _check_exists(path: str) -> None:
    """Raise NotFound for a path that is not there, with the nearest names."""
    if not path:
        return
    location = storage.location(path)
    if storage.exists(location) or storage.is_folder(location):
        return
    siblings = storage.names(location.parent)
    raise NotFound(
        say(f"There is no file {path}.", f"找不到文件 {path}。"),
        nearest(location.name, siblings),
    )


Reading = list[tuple[str, Mapping[str, Any]] | MiaobiError]
"""What a reader made of the beginning of the data, in its order: (location, record), and
why something could not be read.
"""


def _reading(reader: str, path: str, pack: str, encoding: str) -> Reading:
    """Return the first records of the data.

    What cannot be read is passed over: whoever reads it in full says so.
    """
    reading: Reading = []

    def report(problem: Problem) -> None:
        reading.append(problem.error())

    options = ReadOptions(encoding=encoding, report=report)
    try:
        for row in islice(readers.get(reader)(path, pack, options), RECORDS):
            reading.append(row)
    except MiaobiError as error:
        reading.append(error)
    return reading


@dataclass(frozen=True)
class Attempt:
    """How records are tried on tasks: the settings that are given beside them."""

    columns: Mapping[str, str]
    head: Mapping[str, Any]

    def trial(self, name: str, reading: Reading) -> Trial:
        """Try the first records on a task."""
        task = tasks.get(name)
        trial = Trial(name)
        try:
            for row in reading:
                if isinstance(row, MiaobiError):
                    trial.unread = trial.unread or row
                else:
                    location, record = row
                    self._try(trial, task, str(location), record)
        except MiaobiError as error:
            trial.unread = trial.unread or error
        return trial

    def _try(
        self, trial: Trial, task: Any, location: str, record: Mapping[str, Any]
    ) -> None:
        trial.records += 1
        if trial.records == 1:
            keys = re.findall(r'"(\w+)":', task.EXAMPLE)
            trial.shared_keys = len({*keys} & {*map(str, record)})
            trial.first = f"{location}: {', '.join(map(str, record))}"
        tracked = Record.of(record)
        try:
            head = _head(task, self.head)
            example = example_of(location, tracked, self.columns, task, head)
            unused = sorted(example.unused & DECISIVE)
            if unused:
                raise _unused(task.NAME, unused)
        except Unusable as error:
            if not trial.problem:
                trial.problem = error.at(location)
                trial.remedy = error.remedy
                trial.read_keys = len(record) - len(tracked.unread())
            return
        trial.fitting += 1
        names = [str(key) or NAMELESS for key in record]
        used = [name for name in names if name not in example.unused]
        trial.columns = trial.columns or tuple(used)


def _head(task: Any, given: Mapping[str, Any]) -> Any:
    """Return the task's head with the given settings. Raises Unusable for another's."""
    unknown = sorted(given.keys() - vars(task.Config())) if given else []
    if unknown:
        raise Unusable(
            say(
                f"{task.NAME} has no head.{unknown[0]}.",
                f"{task.NAME} 没有 head.{unknown[0]}。",
            ),
            f"miaobi finetune --task {task.NAME} --help",
        )
    return task.Config(**given)


def _unused(task: str, keys: list[str]) -> Unusable:
    named = ", ".join(keys)
    return Unusable(
        say(
            f"{task} would leave {named} unused.",
            f"{task} 不会用到 {named}。",
        ),
        say(
            f"Take it out of the records, or name the task: --task {task}.",
            f"请从记录中去掉，或指明任务：--task {task}。",
        ),
    )


def _fits_none(source: str, trials: list[Trial]) -> MiaobiError:
    """Return the error for records that fit no task, with the nearest one's reason."""
    read = [trial for trial in trials if trial.problem]
    if not read:
        unread = [trial.unread for trial in trials if trial.unread is not None]
        if unread:
            return unread[0]
        return BadInput(
            say(f"{source} holds no record.", f"{source} 中没有记录。"), _examples()
        )
    closest = max(read, key=_closeness)
    if not any(_closeness(closest)):
        return BadInput(
            say(
                f"{source}: its records fit no task: none reads a key of theirs. {closest.first}.",
                f"{source}：其中的记录不适合任何任务：没有任务读取它们的键。{closest.first}。",
            ),
            say(
                "The first line of a table names its columns.\n",
                "表格的第一行应为列名。\n",
            )
            + _examples(),
        )
    return BadInput(
        say(
            f"{source}: its records fit no task. The nearest is {closest.task}: ",
            f"{source}：其中的记录不适合任何任务。最接近的是 {closest.task}：",
        )
        + closest.problem,
        joined((closest.remedy, _examples()), "\n"),
    )


def _closeness(trial: Trial) -> tuple[int, int]:
    """Return how near the records are to a task: those that fit, then the keys that it
    read or that its own example has.
    """
    return trial.fitting, trial.read_keys + trial.shared_keys


def _examples() -> str:
    """Return how to name the task, with a record of each."""
    rows = [f"  {name}: {tasks.get(name).EXAMPLE}" for name in tasks.names()]
    listed = "\n".join(rows)
    return say(
        f"Name the task with --task, and your columns with --data.columns. Tasks and a record of each:\n{listed}",
        f"请用 --task 指明任务，用 --data.columns 指明列名。各任务的记录示例：\n{listed}",
    )
