"""What lies in catalogues of gettext, for `miaobi data inspect`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from miaobi.core.language import say
from miaobi.data.encoding import Problem
from miaobi.data.labelled import ReadOptions, gettext
from miaobi.data.survey import EXAMPLES, LISTED_PROBLEMS, counted, problem_lines, table


@dataclass(frozen=True)
class PairSurvey:
    """The content of catalogues of gettext."""

    path: Path
    files: int
    languages: Mapping[str, int]
    """Messages by language."""
    packages: int
    messages: int
    problems: int
    first_problems: tuple[str, ...]
    examples: tuple[str, ...]

    def __str__(self) -> str:
        rows = {
            say("files", "文件"): f"{self.files:,}",
            say("languages", "语言"): counted(self.languages),
            say("packages", "软件包"): f"{self.packages:,}",
            say("messages", "消息"): f"{self.messages:,}",
            say("problems", "问题"): f"{self.problems:,}",
        }
        lines = table(self.path, rows)
        lines += problem_lines(self.problems, self.first_problems)
        return "\n".join([*lines, *(f"    {text}" for text in self.examples)])


def holds(path: Path) -> bool:
    """Return whether `path` is a catalogue of gettext, or a folder of them."""
    if path.is_dir():
        return any(file.suffix in gettext.ENDINGS for file in path.rglob("*"))
    return path.suffix in gettext.ENDINGS


def inspect(path: Path, *, strict: bool = False) -> PairSurvey:
    """Return what the catalogues at `path` hold, and their problems."""
    problems = list[str]()

    def report(problem: Problem) -> None:
        if strict:
            raise problem.error()
        problems.append(str(problem))

    languages = Counter[str]()
    packages = set[str]()
    examples = list[str]()
    for _, record in gettext.read(str(path), "", ReadOptions(report=report)):
        texts = {name: text for name, text in record.items() if name != "package"}
        languages.update(texts.keys())
        packages.add(record["package"])
        if len(examples) < EXAMPLES:
            examples.append("  |  ".join(texts.values()))
    return PairSurvey(
        path,
        len(gettext.catalogues(path)),
        languages,
        len(packages),
        languages[gettext.ORIGINAL],
        len(problems),
        tuple(problems[:LISTED_PROBLEMS]),
        tuple(examples),
    )
