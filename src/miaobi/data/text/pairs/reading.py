"""Reading the sources of pairs: every record as examples, one for each direction."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import permutations
from typing import Any, NamedTuple

from miaobi.core import storage
from miaobi.core.errors import BadInput
from miaobi.core.language import say
from miaobi.data import readers
from miaobi.data.encoding import Problem
from miaobi.data.labelled import ReadOptions
from miaobi.data.text.pairs.config import Config
from miaobi.data.text.pairs.survey import holds

NAMED_PROBLEMS = 20


class Example(NamedTuple):
    """A pair to learn from."""

    source: str
    target: str
    language: str
    """Of the target; empty where there are no languages."""
    group: str


def pack_names(config: Config) -> list[str]:
    return [name.strip() for name in config.pack.split(",") if name.strip()]


def source_of(config: Config) -> str:
    if config.source:
        return config.source
    return "gettext" if config.path and holds(storage.local(config.path)) else "texts"


@dataclass
class Read:
    """The examples of all sources, each once."""

    examples: list[Example] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    """The first of them."""
    problem_count: int = 0
    duplicates: int = 0

    @classmethod
    def of(cls, config: Config) -> Read:
        """Read all sources. Raises BadInput for the first problem where strict."""
        read = cls()
        seen = set[tuple[str, str, str]]()
        for example in read._all(config):
            key = example[:3]
            if key in seen:
                read.duplicates += 1
                continue
            seen.add(key)
            read.examples.append(example)
        if not read.examples:
            named = ", ".join(config.languages or _columns(config))
            reason = f" {read.problems[0]}" if read.problems else ""
            raise BadInput(
                say(
                    f"{config.path or config.pack} holds no pair of {named}.",
                    f"{config.path or config.pack} 中没有 {named} 的文本对。",
                )
                + reason,
                say(
                    "Name the columns: data.source_columns and data.target_column, or data.languages.",
                    "请写明列名：data.source_columns 与 data.target_column，或 data.languages。",
                ),
            )
        if read.problem_count:
            print(
                say(
                    f"{read.problem_count:,} records were left out; the first: {read.problems[0]}",
                    f"已略过 {read.problem_count:,} 条记录；第一条：{read.problems[0]}",
                ),
                file=sys.stderr,
            )
        return read

    def _all(self, config: Config) -> Iterator[Example]:
        def report(problem: Problem) -> None:
            if config.strict:
                raise problem.error()
            self.add_problem(str(problem))

        reader = readers.get(source_of(config), within="labelled/")
        options = ReadOptions(config.encoding, report)
        sources = [("", name) for name in pack_names(config)] or [(config.path, "")]
        for path, pack in sources:
            for location, record in reader(path, pack, options):
                yield from self._examples(location, record, config)

    def _examples(
        self, location: str, record: Mapping[str, Any], config: Config
    ) -> Iterator[Example]:
        group = str(value_at(record, config.group) or "") if config.group else ""
        for source_names, target_name, language in _directions(record, config):
            texts = [value_at(record, name) for name in source_names]
            target = value_at(record, target_name)
            names = [*source_names, target_name]
            wrong = [
                name
                for name, text in zip(names, [*texts, target], strict=True)
                if not (isinstance(text, str) and text.strip())
            ]
            if wrong:
                self._report_empty(location, wrong[0], config)
                return
            source = "\n".join(str(text).strip() for text in texts)
            yield Example(source, str(target).strip(), language, group)

    def _report_empty(self, location: str, name: str, config: Config) -> None:
        problem = say(
            f"{location}: {name} is empty or no text.",
            f"{location}：{name} 为空或不是文本。",
        )
        if config.strict:
            raise BadInput(
                problem,
                say(
                    "Mend that record, or leave such records out with data.strict: false.",
                    "请修正该记录，或用 data.strict: false 略过这类记录。",
                ),
            )
        self.add_problem(problem)

    def add_problem(self, problem: str) -> None:
        self.problem_count += 1
        if len(self.problems) < NAMED_PROBLEMS:
            self.problems.append(problem)


def value_at(record: Mapping[str, Any], name: str) -> Any:
    """Return what a record has at a column, or at one inside another: answers.text.

    Of a list the first item is taken. None where there is nothing.
    """
    value: Any = record
    for key in [name] if name in record else name.split("."):
        value = value.get(key) if isinstance(value, Mapping) else None
        if isinstance(value, list):
            value = value[0] if value else None
    return value


def _columns(config: Config) -> list[str]:
    return [*config.source_columns, config.target_column]


def _directions(
    record: Mapping[str, Any], config: Config
) -> Iterator[tuple[list[str], str, str]]:
    """Yield (columns of the source, column of the target, its language)."""
    if not config.languages:
        yield config.source_columns, config.target_column, ""
        return
    present = [name for name in config.languages if name in record]
    for source, target in permutations(present, 2):
        yield [source], target, target
