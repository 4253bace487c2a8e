"""A prepared folder on disk."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from miaobi.core.files import write_beside
from miaobi.data import cache
from miaobi.tune.learner import Example, Task

MANIFEST = "examples.json"
SPLITS = ("train", "validation", "test")


def write(
    folder: Path, splits: Mapping[str, Sequence[Example]], facts: Mapping[str, Any]
) -> None:
    """Write a prepared folder, which appears whole or not at all.

    Args:
        folder: where.
        splits: the examples by split.
        facts: what `manifest` gives back.
    """
    with write_beside(folder) as draft:
        draft.mkdir()
        for split, examples in splits.items():
            with (draft / f"{split}.jsonl").open("w", encoding="utf-8") as file:
                for example in examples:
                    row = {"columns": example.columns, "place": example.location}
                    file.write(json.dumps(row, ensure_ascii=False) + "\n")
        text = json.dumps(facts, ensure_ascii=False, indent=1)
        (draft / MANIFEST).write_text(text, encoding="utf-8")


def manifest(folder: Path) -> dict[str, Any]:
    """Return the facts of a prepared folder. Raises NotFound where it is gone."""
    return cache.manifest(folder, MANIFEST)


def read_split(folder: Path, split: str, task: Task) -> list[Example]:
    """Return the examples of a prepared split."""
    examples = list[Example]()
    with (folder / f"{split}.jsonl").open(encoding="utf-8") as file:
        for line in file:
            row = json.loads(line)
            columns = row["columns"]
            examples.append(Example(columns, row["place"], task.question(columns)))
    return examples
