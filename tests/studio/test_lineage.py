"""The tree of versions: what is newest, and where the base's score is on the axis."""

from __future__ import annotations

from typing import Any

from miaobi.studio.pages.models.lineage import Tree, trees


def version(number: int, parent: str, score: float, base: float | None) -> Any:
    """desk@number as /v1/store/models has it, made within one second of the others."""
    of_base = base and {"value": base, "low": base - 0.1, "high": base + 0.1}
    row = {"name": "accuracy", "label": "Accuracy", "n": 9, "unit": "", "base": of_base}
    interval = {"value": score, "low": score - 0.1, "high": score + 0.1}
    return {
        "id": f"desk@{number}",
        "name": "desk",
        "version": number,
        "created": "2026-12-01T09:00:00+00:00",
        "parents": [parent],
        "metrics": {},
        "scores": [{**row, **interval}],
        "production": False,
    }


def tree_of(*versions: Any) -> Tree:
    (tree,) = trees(versions)
    return tree


def test_of_versions_of_one_second_the_highest_number_is_newest() -> None:
    tree = tree_of(*(version(number, "e5", 0.5, None) for number in (2, 10, 1)))
    assert [node.id for node in tree.nodes] == ["desk@10", "desk@2", "desk@1", "e5"]


def test_the_base_is_on_the_axis_of_its_versions() -> None:
    tree = tree_of(version(1, "e5", 0.7, 0.3), version(2, "desk@1", 0.8, 0.7))
    newer, older, base = tree.nodes
    assert newer.mark and older.mark and base.mark
    assert base.mark.score.value == 0.3
    assert tree.base_x == base.mark.x < older.mark.x < newer.mark.x


def test_without_a_measured_base_or_with_several_there_is_no_line() -> None:
    assert tree_of(version(1, "e5", 0.7, None)).base_x is None
    several = tree_of(version(1, "e5", 0.7, 0.3), version(2, "bert", 0.7, 0.4))
    assert several.base_x is None
    assert [node.mark is not None for node in several.nodes] == [True] * 4
