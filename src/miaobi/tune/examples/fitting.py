"""What of prepared examples the base can be taught."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from miaobi.core.errors import BadInput
from miaobi.core.language import located, say
from miaobi.data.text.shapes import Unusable
from miaobi.tune.examples.folder import SPLITS, read_split
from miaobi.tune.learner import Learner, Task


@dataclass(frozen=True)
class Fit:
    """Examples that the base cannot learn, and what it cannot read of the others."""

    left_out: frozenset[str]
    """Locations."""
    problems: tuple[str, ...]
    """Of those that are left out: location and reason."""
    unwritten: Mapping[str, int]
    """Examples by a key of theirs that the base has no way to read."""


def fit(folder: Path, task: Task, learner: Learner, strict: bool) -> Fit:
    """Ask a learner about each prepared example.

    Args:
        folder: the prepared examples.
        task: what they are examples of.
        learner: with the base that is to learn them.
        strict: whether one that it cannot learn is an error, or left out.

    Raises BadInput with the location.
    """
    unwritten = Counter[str]()
    problems = dict[str, str]()
    for split in SPLITS:
        for example in read_split(folder, split, task):
            try:
                unwritten.update(learner.unwritten(example.columns))
            except (Unusable, BadInput) as error:
                problem = located(example.location, error.args[0])
                if strict:
                    raise BadInput(problem, _remedy(error.remedy)) from None
                problems[example.location] = problem
    return Fit(
        frozenset(problems), tuple(problems.values()), dict(unwritten.most_common())
    )


def _remedy(remedy: str) -> str:
    return remedy + say(
        " Or leave such records out with --data.strict false.",
        " 也可用 --data.strict false 略过这类记录。",
    )
