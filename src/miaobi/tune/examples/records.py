"""Records of any format as examples of a task."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from miaobi.core.errors import BadInput, MiaobiError
from miaobi.core.language import say
from miaobi.data import readers
from miaobi.data.encoding import Problem
from miaobi.data.labelled import ReadOptions
from miaobi.data.progress import Bar
from miaobi.data.splitting import DROPPED, TEST, VALIDATION
from miaobi.data.text.shapes import Record, Unusable, label_text
from miaobi.data.text.shapes.record import text_of
from miaobi.tune.config import DataConfig as Config
from miaobi.tune.learner import Example, Task

PROGRESS_EVERY = 1000
"""Examples between two updates of the progress."""

PROBLEMS_LISTED = 10
"""Unusable records that are listed in full; all are counted."""


WRONG_SHAPE = (TypeError, ValueError, AttributeError, LookupError, OverflowError)
"""What reading raises where a value, at some depth, is not what a task reads there."""


@dataclass
class Records:
    """What was read from all files of a configuration."""

    examples: list[Example] = field(default_factory=list)
    source_splits: list[int] = field(default_factory=list)
    """The split that the source names for each example, DROPPED for none."""
    problem_count: int = 0
    """Records that were left out as unusable."""
    problems: list[str] = field(default_factory=list)
    """The first of them, with location and reason."""
    unused: Counter[str] = field(default_factory=Counter)
    """Records by a key of theirs that the task made nothing of."""
    relabelled: Counter[str] = field(default_factory=Counter)
    """Records by what became of their label, where it is not as it was written."""

    def add_problem(self, problem: str) -> None:
        """Count a record that was left out, and keep its reason."""
        self.problem_count += 1
        if len(self.problems) < PROBLEMS_LISTED:
            self.problems.append(problem)


def read(config: Config, task: Task, head: Any, progress: Bar) -> Records:
    """Return the examples of all files. Raises BadInput, NotFound, Damaged.

    Args:
        config: names the files.
        task: turns records into examples.
        head: the task's own Config.
        progress: is shown what was read so far.
    """
    records = Records()
    _read_source(
        records, config.path, config.pack, DROPPED, config, task, head, progress
    )
    for path, split in (
        (config.validation_path, VALIDATION),
        (config.test_path, TEST),
    ):
        if path:
            _read_source(records, path, "", split, config, task, head, progress)
    if DROPPED not in records.source_splits:
        source = config.path or config.pack
        reason = f" {records.problems[0]}" if records.problems else ""
        raise BadInput(
            say(f"{source} holds no example.", f"{source} 中没有样本。") + reason,
            say(
                f"Expected records such as {task.EXAMPLE}",
                f"应为这样的记录：{task.EXAMPLE}",
            ),
        )
    return records


def _read_source(
    records: Records,
    path: str,
    pack: str,
    split: int,
    config: Config,
    task: Task,
    head: Any,
    progress: Bar,
) -> None:
    """Add the examples of one source to the records."""

    def report(problem: Problem) -> None:
        if config.strict:
            raise problem.error()
        records.add_problem(str(problem))

    reader = readers.get(task.READER)
    options = ReadOptions(encoding=config.encoding, report=report)
    for location, record in reader(path, pack, options):
        try:
            example = example_of(location, record, config.columns, task, head)
        except Unusable as error:
            _add_problem(records, location, error, config.strict)
            continue
        records.examples.append(example)
        records.unused.update(example.unused)
        written = record.get(config.columns.get("label", "label"))
        records.relabelled.update(_relabelled(written, example.columns.get("label")))
        records.source_splits.append(split)
        count = len(records.examples)
        if count % PROGRESS_EVERY == 0:
            label = say(f"Reading: {count:,} examples", f"读取：{count:,} 条")
            progress(label, 0, 0)


def _relabelled(written: Any, read: Any) -> Iterator[str]:
    """Yield the labels of a record that are not read as they are written."""
    if isinstance(read, str):
        read = [read]
        written = [written]
    if not isinstance(read, list) or not isinstance(written, list):
        return
    for label in written:
        name = label_text(label)
        if name != str(label) and name in read:
            yield f"{label!r} → {name!r}"


def _add_problem(
    records: Records, location: str, error: Unusable, strict: bool
) -> None:
    problem = error.at(location)
    if strict:
        raise BadInput(
            problem,
            error.remedy
            + say(
                " Or leave such records out with --data.strict false.",
                " 也可用 --data.strict false 略过这类记录。",
            ),
        )
    records.add_problem(problem)


def example_of(
    location: str,
    record: Mapping[str, Any],
    names: Mapping[str, str],
    task: Task,
    head: Any,
) -> Example:
    """Return a record as an example. Raises Unusable.

    Args:
        location: where it was written.
        record: in people's own terms.
        names: people's names for the task's columns.
        task: knows its columns.
        head: the task's own Config.
    """
    tracked = Record.of(_rename(Record.of(record), names))
    try:
        columns = dict(task.columns(tracked, head))
    except MiaobiError:
        raise
    except WRONG_SHAPE as error:
        raise Unusable(
            say(
                f"a value is of another shape than {task.NAME} reads ({error}).",
                f"有的值与 {task.NAME} 所读的形式不符（{error}）。",
            ),
            task.EXAMPLE,
        ) from None
    for key, value in columns.items():
        _check_characters(key, value)
    unused = frozenset(tracked.unused())
    return Example(columns, str(location), task.question(columns), unused)


def _check_characters(key: str, value: Any) -> None:
    """Raise Unusable for half a character in any text of a column."""
    if isinstance(value, str):
        text_of(value, key)
    elif isinstance(value, Mapping):
        for name, inner in value.items():
            _check_characters(key, str(name))
            _check_characters(key, inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            _check_characters(key, inner)


def _rename(record: Record, names: Mapping[str, str]) -> Mapping[str, Any]:
    """Return the record with people's own column names turned into the task's.

    Raises Unusable for a column that is not there.
    """
    for name, own_name in names.items():
        if own_name not in record:
            raise Unusable(
                say(
                    f"there is no column {own_name!r} (named for {name}); there are: {', '.join(map(str, record))}.",
                    f"没有名为 {own_name!r} 的列（用作 {name}）；现有：{'、'.join(map(str, record))}。",
                ),
                say("Mend data.columns.", "请修正 data.columns。"),
            )
    if not names:
        return record
    own_names = set(names.values())
    renamed = {key: value for key, value in record.items() if key not in own_names}
    for name, own_name in names.items():
        renamed[name] = record[own_name]
    return renamed
