"""From the configuration to a prepared folder."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from miaobi.core.errors import BadInput
from miaobi.core.files import home
from miaobi.core.language import say
from miaobi.data import packs
from miaobi.data.cache import locked_folder
from miaobi.data.progress import bar
from miaobi.data.splitting import (
    DROPPED,
    TEST,
    TRAIN,
    VALIDATION,
    assign_groups,
    check_shares,
    joined_groups,
)
from miaobi.tune.config import DataConfig as Config
from miaobi.tune.examples.folder import SPLITS, write
from miaobi.tune.examples.identity import (
    LEAKS_LISTED,
    canonical_json,
    content,
    describe_leaks,
    near_duplicate_groups,
    question_digest,
    shared_questions,
)
from miaobi.tune.examples.records import Records, read
from miaobi.tune.learner import Example, Task

FORMAT = 3
LATER_SETTINGS = {
    "path",
    "pack",
    "encoding",
    "validation_path",
    "test_path",
    "max_length",
    "too_long",
    "mix",
}
"""Settings that do not change what is written, or that count by their content."""


def prepare(
    config: Config,
    task: Task,
    head: Any,
    progress: bool = True,
    root: Path | None = None,
) -> Path:
    """Return the folder of the prepared examples, made now or in an earlier run.

    Raises BadInput, NotFound, Damaged.

    Args:
        config: where the examples come from and how they are divided.
        task: what they are examples of.
        head: the task's own Config.
        progress: whether to show it.
        root: where prepared folders are; None for the home of miaobi.
    """
    check_shares(config.validation, config.test)
    packs.check_one(config.path, config.pack, "my.jsonl", "chinese-reviews")
    with bar(progress) as show:
        records = read(config, task, head, show)
    root = root or home() / "examples"
    root.mkdir(parents=True, exist_ok=True)
    with locked_folder(root, _fingerprint(config, task, head, records)) as folder:
        if not folder.exists():
            _write(folder, config, task, records)
    return folder


def _fingerprint(config: Config, task: Task, head: Any, records: Records) -> str:
    """Return a name for the content and for the settings that shape it."""
    settings = {
        key: value for key, value in asdict(config).items() if key not in LATER_SETTINGS
    }
    header = [FORMAT, task.NAME, asdict(head), settings]
    if records.unused or records.problem_count:
        # Of the same examples, another file may have left other things out.
        header.append([records.unused, records.problem_count])
    if records.relabelled:
        header.append(records.relabelled)
    digest = hashlib.sha256(json.dumps(header, sort_keys=True).encode())
    for example, split in zip(records.examples, records.source_splits, strict=True):
        digest.update(f"{split}{canonical_json(example.columns)}".encode())
    return digest.hexdigest()[:16]


def _write(folder: Path, config: Config, task: Task, records: Records) -> None:
    """Deduplicate, split and write."""
    examples = records.examples
    source_splits = np.array(records.source_splits)
    questions = np.array(
        [question_digest(example.parts) for example in examples], dtype=np.uint64
    )
    leaks = _leaks(examples, questions, source_splits)
    if leaks and not config.allow_leakage:
        raise _leak_error(leaks)
    is_unique = _is_unique(examples, source_splits)
    splits = _assign_splits(examples, questions, source_splits, is_unique, config, task)
    counts = {
        split: int((splits == number).sum()) for number, split in enumerate(SPLITS)
    }
    if not counts["train"]:
        raise BadInput(
            say("Nothing is left to train on.", "没有留下训练样本。"),
            say(
                "Give more examples, or smaller shares.",
                "请提供更多样本，或调小留出比例。",
            ),
        )
    unique_questions = np.unique(questions[is_unique])
    facts = {
        "format": FORMAT,
        "task": task.NAME,
        "read": len(examples),
        "splits": counts,
        "duplicates": int((~is_unique).sum()),
        "contradictions": int(is_unique.sum() - len(unique_questions)),
        "leaks": len(leaks),
        "problems": {"count": records.problem_count, "first": records.problems},
        "unused": dict(records.unused.most_common()),
        "relabelled": dict(records.relabelled.most_common()),
        "config": asdict(replace(config, mix={})),
    }
    write(folder, _in_fair_order(examples, questions, splits), facts)


def _leaks(
    examples: Sequence[Example], questions: np.ndarray, source_splits: np.ndarray
) -> list[tuple[str, str]]:
    """Return the locations of held-out questions that are in the training data too."""
    held_out = list[tuple[int, str]]()
    trained = list[tuple[int, str]]()
    for example, question, split in zip(
        examples, questions, source_splits, strict=True
    ):
        side = trained if split == DROPPED else held_out
        side.append((int(question), example.location))
    return shared_questions(held_out, trained)


def _leak_error(leaks: Sequence[tuple[str, str]]) -> BadInput:
    listed = describe_leaks(leaks)
    more = len(leaks) > LEAKS_LISTED
    return BadInput(
        say(
            f"{len(leaks)} held-out examples ask what the training data asks "
            f"too: {listed}{' ...' if more else ''}",
            f"有 {len(leaks)} 条留出样本与训练数据的提问相同：{listed}{' ……' if more else ''}",
        ),
        say(
            "Take them out of one side, or go on all the same with "
            "--data.allow_leakage true: the test scores will then be too good.",
            "请从一侧去掉它们；或用 --data.allow_leakage true 继续，但测试结果会偏高。",
        ),
    )


def _is_unique(examples: Sequence[Example], source_splits: np.ndarray) -> np.ndarray:
    """Return whether each example is the first of its content in its split, bool [N]."""
    seen = set[tuple[int, str]]()
    is_unique = np.zeros(len(examples), dtype=bool)
    for number, example in enumerate(examples):
        key = (int(source_splits[number]), content(example.columns))
        is_unique[number] = key not in seen
        seen.add(key)
    return is_unique


def _assign_splits(
    examples: Sequence[Example],
    questions: np.ndarray,
    source_splits: np.ndarray,
    is_unique: np.ndarray,
    config: Config,
    task: Task,
) -> np.ndarray:
    """Return the split of each example, uint8 [N].

    A leak that was allowed stays on both sides; otherwise all examples of a question,
    and of a group, go to one.

    Args:
        examples: N of them.
        questions: their digests, uint64 [N].
        source_splits: the split that the source names for each, DROPPED for none.
        is_unique: whether each is to be in a split at all.
        config: has the shares, and how many examples are used.
        task: knows what belongs together.
    """
    from_source = source_splits != DROPPED
    candidates = np.flatnonzero(is_unique & ~from_source)
    chosen = _limited(candidates, questions, config.max_examples)
    has_validation = (source_splits == VALIDATION).any()
    has_test = (source_splits == TEST).any()
    splits = np.full(len(examples), DROPPED, dtype=np.uint8)
    splits[chosen] = assign_groups(
        questions[chosen],
        _groups([examples[number] for number in chosen], task),
        np.full(len(chosen), DROPPED),
        0.0 if has_validation else config.validation,
        0.0 if has_test else config.test,
    )
    held_out = is_unique & from_source
    splits[held_out] = source_splits[held_out]
    return splits


def _limited(numbers: np.ndarray, questions: np.ndarray, count: int) -> np.ndarray:
    """Return `count` of the numbers, chosen by their questions' digests; all for 0.

    Args:
        numbers: of examples, int64 [N].
        questions: the digests of all examples.
        count: how many are used.
    """
    if not count or count >= len(numbers):
        return numbers
    order = np.argsort(questions[numbers], kind="stable")
    return np.sort(numbers[order[:count]])


def _groups(examples: Sequence[Example], task: Task) -> np.ndarray:
    """Return the number of each example's group, int64 [N], which no split separates."""
    digests = np.array(
        [question_digest(task.group(example.columns)) for example in examples],
        dtype=np.uint64,
    )
    _, groups = np.unique(digests, return_inverse=True)
    if "digest" in examples[0].columns:
        groups = joined_groups(groups, near_duplicate_groups(examples))
    return groups


def _in_fair_order(
    examples: Sequence[Example], questions: np.ndarray, splits: np.ndarray
) -> dict[str, list[Example]]:
    """Return the examples of each split in the order of their questions' digests.

    Files are often sorted by label, and validation and tests may read only the first
    examples: those must be a fair sample.
    """
    order = np.argsort(questions, kind="stable")
    numbers = dict(zip(SPLITS, (TRAIN, VALIDATION, TEST), strict=True))
    return {
        split: [examples[at] for at in order[splits[order] == number]]
        for split, number in numbers.items()
    }
