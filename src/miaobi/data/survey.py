"""What the surveys of all data sets share: how `miaobi data inspect` prints them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Protocol

from miaobi.core.language import say

LISTED_PROBLEMS = 20
"""Problems that a survey lists; the others are counted."""
EXAMPLES = 3


class Survey(Protocol):
    """The content of a path: a frozen dataclass, printed as it is or as JSON."""

    def __str__(self) -> str: ...


def table(path: Path, rows: Mapping[str, str]) -> list[str]:
    """Return the lines of a survey: the path, then a name and a value in each."""
    return [f"{path}", *(f"  {name:<14} {value}" for name, value in rows.items())]


def counted(counts: Mapping[str, int], limit: int = 99) -> str:
    """Return at most `limit` names with their counts; a single name of one thing alone."""
    texts = [
        f"{name} ({count:,})" if len(counts) > 1 or count > 1 else name
        for name, count in counts.items()
    ]
    if len(texts) > limit:
        texts = [*texts[:limit], "…"]
    return ", ".join(texts)


def problem_lines(count: int, first: Iterable[str]) -> list[str]:
    """Return a line for each of the first problems, and one for the rest of `count`."""
    lines = [f"    {problem}" for problem in first]
    if count > len(lines):
        more = count - len(lines)
        lines.append(say(f"    … and {more:,} more", f"    …… 另有 {more:,} 处"))
    return lines
