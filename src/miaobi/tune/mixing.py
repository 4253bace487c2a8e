"""Prepared folders of examples put together: old examples replayed, other sources mixed
in, fewer to train on.

Whatever is drawn from a folder are its first examples by the digests of their
questions: the same every time, and of two draws the larger holds the smaller. What is
mixed in is trained on; what is held out stays that of data.path, so that runs with
different shares compare.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from miaobi.core import storage
from miaobi.core.errors import BadInput, NotFound
from miaobi.core.language import say
from miaobi.data.cache import locked_folder
from miaobi.data.survey import counted
from miaobi.data.text.shapes import Unusable
from miaobi.tune.examples import (
    PROBLEMS_LISTED,
    SPLITS,
    Config,
    Source,
    content,
    manifest,
    near_duplicate_groups,
    prepare,
    question_digest,
    read_split,
    write,
)
from miaobi.tune.learner import Example, Task

Splits = dict[str, list[Example]]


def first(examples: Iterable[Example], count: int) -> list[Example]:
    """Return `count` of the examples, as far as there are so many."""
    return sorted(examples, key=_question)[:count]


def _question(example: Example) -> int:
    return question_digest(example.parts)


def _read(folder: Path, task: Task) -> Splits:
    return {split: read_split(folder, split, task) for split in SPLITS}


def _counts(splits: Mapping[str, Sequence[Example]]) -> dict[str, int]:
    return {split: len(examples) for split, examples in splits.items()}


def with_replay(new: Path, old: Path, task: Task, replay: float) -> Path:
    """Return new examples with old ones replayed.

    The held-out examples of both are held out, so that what was learned before is
    neither lost nor unmeasured. Raises NotFound when the old ones are no longer there.

    Args:
        new: a prepared folder.
        old: the prepared folder of an earlier run.
        task: what they are examples of.
        replay: old training examples for each new one.
    """
    old_splits = manifest(old)["splits"]
    by_question = {
        split: {_question(example): example for example in examples}
        for split, examples in _read(new, task).items()
    }
    own_count = len(by_question["train"])
    new_questions = {question for split in SPLITS for question in by_question[split]}
    for split in SPLITS:
        replayed = {
            _question(example): example
            for example in read_split(old, split, task)
            if _question(example) not in new_questions
        }
        count = round(own_count * replay) if split == "train" else len(replayed)
        for example in first(replayed.values(), count):
            by_question[split][_question(example)] = example
    splits = {split: list(rows.values()) for split, rows in by_question.items()}
    facts = {
        **manifest(new),
        "replayed": len(splits["train"]) - own_count,
        "replayed_from": old_splits,
        "splits": _counts(splits),
    }
    with locked_folder(new.parent, _name(new.name, old.name, replay)) as folder:
        if not folder.exists():
            write(folder, splits, facts)
    return folder


def subset(folder: Path, task: Task, count: int) -> Path:
    """Return the same with fewer training examples, as if data.max_examples were `count`.

    The held-out examples stay as they are, so that models tuned on different amounts
    can be compared.
    """
    facts = manifest(folder)
    if "mix" in facts:
        plain = subset(folder.parent / facts["mixed_into"], task, count)
        return _mixture(plain, facts["mix"], task)
    splits = facts["splits"]
    train_count = round(count * splits["train"] / sum(splits.values()))
    with locked_folder(folder.parent, _name(folder.name, train_count)) as target:
        if not target.exists():
            rows = _read(folder, task)
            rows["train"] = first(rows["train"], max(train_count, 1))
            write(target, rows, {**facts, "splits": _counts(rows)})
    return target


def with_mixture(
    plain: Path,
    config: Config,
    task: Task,
    head: Any,
    spec: Mapping[str, Any],
    progress: bool = True,
) -> Path:
    """Return `plain` with training examples of config.mix.

    This is `plain` itself where no source has a share. Raises BadInput, NotFound,
    Damaged.

    Args:
        plain: prepared from data.path.
        config: of the data.
        task: what they are examples of.
        head: the task's own Config.
        spec: what the task's `survey` said of plain's training examples, which those
            that are mixed in must fit.
        progress: whether to show it.
    """
    mix = dict[str, Mapping[str, Any]]()
    for name, source in config.mix.items():
        check_source(name, source)
        if not source.share:
            continue
        own_config = _config_of_source(config, source)
        candidates = prepare(own_config, task, head, progress, plain.parent)
        usable = _usable(name, plain, candidates, own_config, task, head, spec)
        mix[name] = {
            "source": source.path or source.pack,
            "share": source.share,
            "folder": usable.name,
            **manifest(usable)["left_out"],
        }
    return _mixture(plain, mix, task) if mix else plain


def _config_of_source(config: Config, source: Source) -> Config:
    """Return how a source is prepared: all of it to train on."""
    return replace(
        config,
        path=source.path,
        pack=source.pack,
        columns=config.columns if source.columns is None else source.columns,
        mix={},
        validation=0.0,
        test=0.0,
        validation_path="",
        test_path="",
        max_examples=0,
    )


def check_source(name: str, source: Source, needed: bool = False) -> None:
    """Raise BadInput, NotFound for a source that cannot be read.

    Args:
        name: of the source.
        source: its settings.
        needed: whether its path must exist although it has no share.
    """
    key = f"data.mix.{name}"
    if bool(source.path) == bool(source.pack):
        english, chinese = ("neither path nor pack", "没有 path，也没有 pack")
        if source.path:
            english, chinese = ("both a path and a pack", "同时给出了 path 与 pack")
        raise BadInput(
            say(f"{key} has {english}.", f"{key} {chinese}。"),
            say(
                f"Give one of them: {key}.path general.jsonl, or {key}.pack chinese-reviews.",
                f"请二选一：{key}.path general.jsonl 或 {key}.pack chinese-reviews。",
            ),
        )
    is_read = bool(source.path) and (needed or source.share > 0)
    if is_read and not storage.exists(storage.location(source.path)):
        raise NotFound(
            say(
                f"{key}.path is {source.path!r}, which is not there.",
                f"{key}.path 为 {source.path!r}，不存在。",
            ),
            say(
                f"Mend the path, or leave the source out with --{key}.share 0.",
                f"请修正路径，或用 --{key}.share 0 去掉该来源。",
            ),
        )


def _usable(
    name: str,
    plain: Path,
    source: Path,
    config: Config,
    task: Task,
    head: Any,
    spec: Mapping[str, Any],
) -> Path:
    """Return the examples of a source that may be mixed into `plain`.

    These are the ones whose questions are neither held out nor trained on there.

    Args:
        name: of the source.
        plain: the prepared folder that is mixed into.
        source: the prepared folder of the source.
        config: of the source.
        task: what they are examples of.
        head: the task's own Config.
        spec: what the examples must fit.
    """
    fingerprint = _name(plain.name, source.name, config.strict, dict(spec))
    with locked_folder(plain.parent, fingerprint) as folder:
        if folder.exists():
            return folder
        splits = _read(plain, task)
        held_out = splits["validation"] + splits["test"]
        trained = {_question(example) for example in splits["train"]}
        candidates = read_split(source, "train", task)
        leaks = _leaks(candidates, held_out, task)
        new = [
            example
            for example, leaked in zip(candidates, leaks, strict=True)
            if not leaked and _question(example) not in trained
        ]
        fitting, problems = _fitting(new, task, spec, head, name, config.strict)
        of_source = manifest(source)
        unreadable = of_source["problems"]
        leak_count = int(leaks.sum())
        left_out = {
            "read": of_source["read"] + unreadable["count"],
            "duplicates": of_source["duplicates"],
            "held_out": leak_count,
            "repeated": len(candidates) - leak_count - len(new),
            "unusable": len(problems) + unreadable["count"],
            "problems": (unreadable["first"] + problems)[:PROBLEMS_LISTED],
            "unused": of_source.get("unused", {}),
        }
        write(folder, {"train": fitting}, {"left_out": left_out})
    return folder


def _fitting(
    examples: Sequence[Example],
    task: Task,
    spec: Mapping[str, Any],
    head: Any,
    name: str,
    strict: bool,
) -> tuple[list[Example], list[str]]:
    """Return the examples that fit the training data, and what is wrong with the others.

    Args:
        examples: of a source.
        task: checks them.
        spec: what they must fit.
        head: the task's own Config.
        name: of the source.
        strict: whether to raise BadInput for the first that does not fit.
    """
    fitting = list[Example]()
    problems = list[str]()
    for example in examples:
        try:
            task.check(example, spec, head)
        except Unusable as error:
            problems.append(error.at(example.location))
            if strict:
                raise BadInput(
                    f"data.mix.{name}: " + problems[0],
                    error.remedy
                    + say(
                        " Or leave such examples out with --data.strict false.",
                        " 也可用 --data.strict false 略过这类样本。",
                    ),
                ) from None
        else:
            fitting.append(example)
    return fitting, problems


def _leaks(
    candidates: Sequence[Example], held_out: Sequence[Example], task: Task
) -> np.ndarray:
    """Return which candidates may not be trained on, bool [candidates].

    These are the ones that `prepare` would never separate from a held-out example.
    """
    digests = set[int]()
    for example in held_out:
        digests |= _digests(example, task)
    leaks = np.array(
        [not digests.isdisjoint(_digests(example, task)) for example in candidates],
        dtype=bool,
    )
    if held_out and candidates and "digest" in candidates[0].columns:
        groups = near_duplicate_groups([*held_out, *candidates])
        leaks |= np.isin(groups[len(held_out) :], groups[: len(held_out)])
    return leaks


def _digests(example: Example, task: Task) -> set[int]:
    """Return the digests of an example's question and of its group."""
    return {_question(example), question_digest(task.group(example.columns))}


def _mixture(plain: Path, mix: Mapping[str, Mapping[str, Any]], task: Task) -> Path:
    """Return `plain` with the share of each source.

    Args:
        plain: a prepared folder.
        mix: what is known of each source; its usable examples are in `folder`.
        task: what they are examples of.
    """
    shares = {name: [source["folder"], source["share"]] for name, source in mix.items()}
    with locked_folder(plain.parent, _name(plain.name, shares)) as folder:
        if folder.exists():
            return folder
        facts = manifest(plain)
        own_count = facts["splits"]["train"] - facts.get("replayed", 0)
        splits = _read(plain, task)
        mix_facts = dict[str, Any]()
        seen = set[str]()
        for name, source in mix.items():
            usable = read_split(plain.parent / source["folder"], "train", task)
            wanted = round(own_count * source["share"])
            # The same example in two sources is one example, and it is there as long as
            # one of them would bring it.
            added = {
                content(example.columns): example for example in first(usable, wanted)
            }
            for key in seen & added.keys():
                del added[key]
            seen |= added.keys()
            splits["train"] += added.values()
            mix_facts[name] = {
                **source,
                "usable": len(usable),
                "wanted": wanted,
                "added": len(added),
            }
        mixed_facts = {
            **facts,
            "splits": _counts(splits),
            "mixed_into": plain.name,
            "mix": mix_facts,
        }
        write(folder, splits, mixed_facts)
    return folder


def describe(facts: Mapping[str, Any]) -> dict[str, str]:
    """Return for each source how many examples were mixed in, for people.

    facts: of a prepared folder.
    """
    mix = facts.get("mix", {})
    return {name: _describe_source(source) for name, source in mix.items()}


def _describe_source(source: Mapping[str, Any]) -> str:
    added, usable = source["added"], source["usable"]
    text = say(
        f"{added:,} of {usable:,} usable examples",
        f"{usable:,} 条可用样本中的 {added:,} 条",
    )
    if source["wanted"] > usable:
        text += say(
            f"; share {source['share']:g} asks for {source['wanted']:,}",
            f"；比例 {source['share']:g} 需要 {source['wanted']:,} 条",
        )
    left_out = _describe_left_out(source)
    if left_out:
        text += say("; left out: ", "；略去：") + say(", ", "，").join(left_out)
    unused = source.get("unused")
    if unused:
        text += say("; keys not used: ", "；未用的键：") + counted(unused)
    return text


def _describe_left_out(source: Mapping[str, Any]) -> list[str]:
    labels = {
        "held_out": ("{:,} held out", "与留出样本相同 {:,}"),
        "repeated": ("{:,} trained on already", "训练集中已有 {:,}"),
        "duplicates": ("{:,} duplicates", "重复 {:,}"),
        "unusable": ("{:,} unusable", "不可用 {:,}"),
    }
    return [
        say(*label).format(source[key]) for key, label in labels.items() if source[key]
    ]


def _name(*parts: Any) -> str:
    """Return the name of a folder for what it is made of."""
    text = json.dumps(parts, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
