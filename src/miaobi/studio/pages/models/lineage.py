"""What came from what: versions of the store in groups that belong together, each group
newest first above its base, as the design's tree draws them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from miaobi.core.language import say
from miaobi.evaluate.page.numbers import ticks

Json = Mapping[str, Any]

NOT_SCORES = ("seconds", "steps")
"""Numbers of a manifest that say how long it was trained, not how good it is."""
LABELS = {
    "validation_loss": ("Validation loss", "验证损失"),
    "test_loss": ("Test loss", "测试损失"),
    "test_perplexity": ("Test perplexity", "测试困惑度"),
    "test_accuracy": ("Test accuracy", "测试准确率"),
    "test_token_accuracy": ("Test token accuracy", "测试词元准确率"),
}
WIDTH = 220
"""Of an interval's picture."""
EDGE = 12


@dataclass(frozen=True)
class Score:
    """A score of one version; `low` and `high` are None where no interval was measured."""

    name: str
    label: str
    value: float
    low: float | None = None
    high: float | None = None
    n: int | None = None
    unit: str = ""
    base: Score | None = None
    """What the base reached on the same examples."""


@dataclass(frozen=True)
class Mark:
    """A score on the axis of its group, in units of the picture."""

    score: Score
    x: float
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Tick:
    at: float
    text: str


@dataclass(frozen=True)
class Node:
    """A row of the tree."""

    id: str
    version: Json | None
    """None for a base that is not of the store."""
    knot: str
    """trunk, branch or base."""
    mark: Mark | None = None


@dataclass(frozen=True)
class Tree:
    """Versions that belong together."""

    name: str
    nodes: Sequence[Node]
    score_label: str
    ticks: Sequence[Tick]
    has_intervals: bool

    @property
    def base_x(self) -> float | None:
        """Where the base's score is on the axis; None with several bases, or none."""
        marks = [node.mark for node in self.nodes if node.knot == "base"]
        only = marks[0] if len(marks) == 1 else None
        return only.x if only else None

    @property
    def production(self) -> Json | None:
        """The version that the tree's name means, once one was promoted."""
        versions = (node.version for node in self.nodes if node.version)
        own = (version for version in versions if version["name"] == self.name)
        return next((version for version in own if version["production"]), None)


def trees(versions: Sequence[Json]) -> list[Tree]:
    """Return the versions in trees, those with the newest version first.

    versions: of /v1/store/models.
    """
    groups = _groups(versions)
    ordered = sorted(groups, key=lambda group: max(map(_age, group)), reverse=True)
    return [_tree(group) for group in ordered]


def _age(version: Json) -> tuple[str, int]:
    """Return what grows with the time a version was made: to the second, as ISO 8601."""
    return version["created"][:19], int(version["version"])


def _groups(versions: Sequence[Json]) -> list[list[Json]]:
    """Return versions that share a name or came from each other, as one list each."""
    group_of = dict[str, set[str]]()
    for version in versions:
        linked = {version["name"], *map(_name_of, version["parents"])}
        whole = set[str]().union(linked, *(group_of.get(name, ()) for name in linked))
        for name in whole:
            group_of[name] = whole
    groups = dict[int, list[Json]]()
    for version in versions:
        groups.setdefault(id(group_of[version["name"]]), []).append(version)
    return list(groups.values())


def _name_of(reference: str) -> str:
    return reference.partition("@")[0]


def _tree(group: Sequence[Json]) -> Tree:
    counts = Counter(version["name"] for version in group)
    newest = max(group, key=_age)
    trunk = max(counts, key=lambda name: (counts[name], name == newest["name"]))
    ids = {version["id"] for version in group}
    names = {version["name"] for version in group}
    bases = dict.fromkeys(
        parent
        for version in group
        for parent in version["parents"]
        if parent not in ids and _name_of(parent) not in names
    )
    score_name = _score_name(group)
    scores = {
        version["id"]: score
        for version in group
        if (score := _score(version, score_name)) is not None
    }
    base_scores = _base_scores(group, scores)
    scale = Scale.of([*scores.values(), *base_scores.values()])
    nodes = [
        Node(
            version["id"],
            version,
            "trunk" if version["name"] == trunk else "branch",
            scale.mark(scores.get(version["id"])),
        )
        for version in sorted(group, key=_age, reverse=True)
    ]
    nodes += [
        Node(base, None, "base", scale.mark(base_scores.get(base))) for base in bases
    ]
    some = next(iter(scores.values()), None)
    return Tree(
        trunk,
        nodes,
        some.label if some else "",
        scale.ticks,
        any(score.low is not None for score in scores.values()),
    )


def _base_scores(
    group: Sequence[Json], scores: Mapping[str, Score]
) -> dict[str, Score]:
    """Return the bases' scores by name, as the newest version tuned from each found them."""
    found = dict[str, Score]()
    for version in sorted(group, key=_age):
        score = scores.get(version["id"])
        if score and score.base:
            found |= dict.fromkeys(version["parents"], score.base)
    return found


def scores_of(version: Json) -> list[Score]:
    """Return a version's scores: as they were evaluated, with intervals, and those of
    its training.
    """
    scores = [_measured(row) for row in version["scores"]]
    measured = {score.name for score in scores}
    for name, value in version["metrics"].items():
        if name not in NOT_SCORES and name.removeprefix("test_") not in measured:
            label = say(*LABELS.get(name, (name.replace("_", " "),) * 2))
            scores.append(Score(name, label, value))
    return scores


def _measured(row: Json) -> Score:
    name, label, unit = row["name"], row["label"], row["unit"]
    of_base = row["base"]
    base = Score(name, label, **of_base, unit=unit) if of_base else None
    return Score(
        name, label, row["value"], row["low"], row["high"], row["n"], unit, base
    )


def _score_name(group: Sequence[Json]) -> str:
    """Return the score by which most of the versions can be compared."""
    counts = Counter[str]()
    for version in group:
        for score in scores_of(version):
            counts[score.name] += 2 if score.low is not None else 1
    return max(counts, key=lambda name: counts[name], default="")


def _score(version: Json, name: str) -> Score | None:
    return next((score for score in scores_of(version) if score.name == name), None)


@dataclass(frozen=True)
class Scale:
    """The axis that the scores of a group share."""

    low: float
    high: float

    @classmethod
    def of(cls, scores: Iterable[Score]) -> Scale:
        values = [
            value
            for score in scores
            for value in (score.value, score.low, score.high)
            if value is not None
        ]
        if not values:
            return cls(0.0, 0.0)
        margin = (max(values) - min(values)) * 0.1 or abs(values[0]) * 0.1 or 1.0
        return cls(min(values) - margin, max(values) + margin)

    def x(self, value: float) -> float:
        share = (value - self.low) / (self.high - self.low)
        return round(EDGE + (WIDTH - 2 * EDGE) * share, 1)

    def mark(self, score: Score | None) -> Mark | None:
        if score is None:
            return None
        low = None if score.low is None else self.x(score.low)
        high = None if score.high is None else self.x(score.high)
        return Mark(score, self.x(score.value), low, high)

    @property
    def ticks(self) -> list[Tick]:
        if self.high <= self.low:
            return []
        return [
            Tick(self.x(value), f"{value:.4g}")
            for value in ticks(self.low, self.high, 4)
        ]
