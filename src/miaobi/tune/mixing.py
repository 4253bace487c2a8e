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

from miaobi.core.errors import BadInput, NotFound
from miaobi.core.language import say
from miaobi.data.cache import locked_folder, manifest
from miaobi.data.text.shapes import Unusable
from miaobi.tune.examples import (
    MANIFEST,
    SHOWN,
    SPLITS,
    Config,
    Source,
    content,
    near_duplicate_groups,
    prepare,
    question_digest,
    read_split,
    write,
)
from miaobi.tune.learner import Example, Task


def first(examples: Iterable[Example], count: int) -> list[Example]:
    """`count` of the examples, as far as there are."""
    return sorted(examples, key=lambda example: question_digest(example.parts))[:count]


def with_replay(new: Path, old: Path, task: Task, replay: float) -> Path:
    """New examples with old ones replayed: `replay` old training examples for each new
    one, and the held-out ones of both, so that what was learned before is neither lost
    nor unmeasured. Raises NotFound when the old ones are no longer there.
    """
    before = manifest(old, MANIFEST)
    kept = {
        split: {
            question_digest(example.parts): example
            for example in read_split(new, split, task)
        }
        for split in SPLITS
    }
    fresh = {question for found in kept.values() for question in found}
    counts = {split: len(found) for split, found in kept.items()}
    for split in SPLITS:
        older = {
            question: example
            for example in read_split(old, split, task)
            if (question := question_digest(example.parts)) not in fresh
        }
        room = round(counts["train"] * replay) if split == "train" else len(older)
        kept[split] |= {
            question_digest(example.parts): example
            for example in first(older.values(), room)
        }
    facts = {
        **manifest(new, MANIFEST),
        "replayed": len(kept["train"]) - counts["train"],
        "replayed_from": before["splits"],
        "splits": {split: len(found) for split, found in kept.items()},
    }
    with locked_folder(new.parent, _name(new.name, old.name, replay)) as folder:
        if not folder.exists():
            write(
                folder,
                {split: list(found.values()) for split, found in kept.items()},
                facts,
            )
    return folder


def subset(folder: Path, task: Task, count: int) -> Path:
    """The same with fewer training examples, as if data.max_examples were `count`; the
    held-out ones stay as they are, so that models tuned on different amounts can be
    compared.
    """
    found = manifest(folder, MANIFEST)
    if "mix" in found:
        return _combined(
            subset(folder.parent / found["mixed_into"], task, count), found["mix"], task
        )
    room = round(count * found["splits"]["train"] / sum(found["splits"].values()))
    with locked_folder(folder.parent, _name(folder.name, room)) as target:
        if not target.exists():
            kept = {split: read_split(folder, split, task) for split in SPLITS}
            kept["train"] = first(kept["train"], max(room, 1))
            write(
                target,
                kept,
                {
                    **found,
                    "splits": {
                        split: len(examples) for split, examples in kept.items()
                    },
                },
            )
    return target


def with_mixture(
    plain: Path,
    config: Config,
    task: Task,
    head: Any,
    spec: Mapping[str, Any],
    progress: bool = True,
) -> Path:
    """`plain`, prepared from data.path, with training examples of config.mix; `plain`
    itself where no source has a share.

    spec: what the head was told of plain's training examples, which those that are
        mixed in must fit. Raises BadInput, NotFound, Damaged.
    """
    sources = dict[str, Mapping[str, Any]]()
    for name, source in config.mix.items():
        check_source(name, source)
        if source.share:
            own = replace(
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
            usable = _usable(
                name,
                plain,
                prepare(own, task, head, progress, plain.parent),
                own,
                task,
                head,
                spec,
            )
            sources[name] = {
                "source": source.path or source.pack,
                "share": source.share,
                "folder": usable.name,
                **manifest(usable, MANIFEST)["left_out"],
            }
    return _combined(plain, sources, task) if sources else plain


def check_source(name: str, source: Source, needed: bool = False) -> None:
    """Raise BadInput, NotFound for a source that cannot be read; one with no share is
    not asked for, unless it is needed.
    """
    key = f"data.mix.{name}"
    if bool(source.path) == bool(source.pack):
        raise BadInput(
            say(
                f"{key} has {'both a path and a pack' if source.path else 'neither path nor pack'}.",
                f"{key} {'同时给出了 path 与 pack' if source.path else '没有 path，也没有 pack'}。",
            ),
            say(
                f"Give one of them: {key}.path general.jsonl, or {key}.pack chinese-reviews.",
                f"请二选一：{key}.path general.jsonl 或 {key}.pack chinese-reviews。",
            ),
        )
    if (
        (source.share or needed)
        and source.path
        and not Path(source.path).expanduser().exists()
    ):
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
    """The examples of a source that may be mixed into `plain`: those that ask nothing
    that is held out or trained on there already.
    """
    with locked_folder(
        plain.parent, _name(plain.name, source.name, config.strict, dict(spec))
    ) as folder:
        if not folder.exists():
            found = {split: read_split(plain, split, task) for split in SPLITS}
            candidates, trained = (
                read_split(source, "train", task),
                {question_digest(example.parts) for example in found["train"]},
            )
            leaks = _leaks(candidates, found["validation"] + found["test"], task)
            fresh = [
                example
                for example, leaked in zip(candidates, leaks)
                if not leaked and question_digest(example.parts) not in trained
            ]
            kept, problems = list[Example](), list[str]()
            for example in fresh:
                try:
                    task.check(example, spec, head)
                    kept.append(example)
                except Unusable as error:
                    problems.append(f"{example.location}: {error.what}")
                    if config.strict:
                        raise BadInput(
                            f"data.mix.{name}: {problems[0]}",
                            say(
                                f"{error.remedy} Or leave such examples out with --data.strict false.",
                                f"{error.remedy} 也可用 --data.strict false 略过这类样本。",
                            ),
                        ) from None
            read = manifest(source, MANIFEST)
            left_out = {
                "read": read["read"] + read["problems"]["count"],
                "duplicates": read["duplicates"],
                "held_out": int(leaks.sum()),
                "repeated": len(candidates) - int(leaks.sum()) - len(fresh),
                "unusable": len(problems) + read["problems"]["count"],
                "problems": (read["problems"]["first"] + problems)[:SHOWN],
            }
            write(folder, {"train": kept}, {"left_out": left_out})
    return folder


def _leaks(
    candidates: Sequence[Example], held_out: Sequence[Example], task: Task
) -> np.ndarray:
    """Which candidates may not be trained on, bool [candidates]: what `prepare` would
    never part from a held-out example.
    """
    known = {
        question_digest(parts)
        for example in held_out
        for parts in (example.parts, task.group(example.columns))
    }
    found = np.array(
        [
            question_digest(example.parts) in known
            or question_digest(task.group(example.columns)) in known
            for example in candidates
        ],
        dtype=bool,
    )
    if held_out and candidates and "digest" in candidates[0].columns:
        groups = near_duplicate_groups([*held_out, *candidates])
        found |= np.isin(groups[len(held_out) :], groups[: len(held_out)])
    return found


def _combined(
    plain: Path, sources: Mapping[str, Mapping[str, Any]], task: Task
) -> Path:
    """`plain` with the share of each source: what mixing noted of it, its usable
    examples in `folder`.
    """
    with locked_folder(
        plain.parent,
        _name(
            plain.name,
            {
                name: [source["folder"], source["share"]]
                for name, source in sources.items()
            },
        ),
    ) as folder:
        if not folder.exists():
            facts = manifest(plain, MANIFEST)
            kept, mix = (
                {split: read_split(plain, split, task) for split in SPLITS},
                dict[str, Any](),
            )
            own, met = facts["splits"]["train"] - facts.get("replayed", 0), set[str]()
            for name, source in sources.items():
                usable = read_split(plain.parent / source["folder"], "train", task)
                wanted = round(own * source["share"])
                # The same example in two sources is one example, and it is there as
                # long as one of them would bring it.
                drawn = {
                    said: example
                    for example in first(usable, wanted)
                    if (said := content(example.columns)) not in met
                }
                met |= drawn.keys()
                kept["train"] += drawn.values()
                mix[name] = {
                    **source,
                    "usable": len(usable),
                    "wanted": wanted,
                    "added": len(drawn),
                }
            splits = {split: len(examples) for split, examples in kept.items()}
            write(
                folder,
                kept,
                {**facts, "splits": splits, "mixed_into": plain.name, "mix": mix},
            )
    return folder


def describe(facts: Mapping[str, Any]) -> dict[str, str]:
    """How many examples came from each source that was mixed in, for people; facts:
    what preparation noted.
    """
    return {name: _told(source) for name, source in facts.get("mix", {}).items()}


def _told(source: Mapping[str, Any]) -> str:
    left_out = [
        said
        for count, said in (
            (
                source["held_out"],
                say(
                    f"{source['held_out']:,} held out",
                    f"与留出样本相同 {source['held_out']:,}",
                ),
            ),
            (
                source["repeated"],
                say(
                    f"{source['repeated']:,} trained on already",
                    f"训练集中已有 {source['repeated']:,}",
                ),
            ),
            (
                source["duplicates"],
                say(
                    f"{source['duplicates']:,} duplicates",
                    f"重复 {source['duplicates']:,}",
                ),
            ),
            (
                source["unusable"],
                say(
                    f"{source['unusable']:,} unusable", f"不可用 {source['unusable']:,}"
                ),
            ),
        )
        if count
    ]
    short = source["wanted"] > source["usable"]
    return "".join(
        [
            say(
                f"{source['added']:,} of {source['usable']:,} usable examples",
                f"{source['usable']:,} 条可用样本中的 {source['added']:,} 条",
            ),
            say(
                f"; share {source['share']:g} asks for {source['wanted']:,}",
                f"；比例 {source['share']:g} 需要 {source['wanted']:,} 条",
            )
            if short
            else "",
            say("; left out: ", "；略去：") + say(", ", "，").join(left_out)
            if left_out
            else "",
        ]
    )


def _name(*parts: Any) -> str:
    return hashlib.sha256(
        json.dumps(parts, sort_keys=True, default=str).encode()
    ).hexdigest()[:16]
