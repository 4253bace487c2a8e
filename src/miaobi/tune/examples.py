"""Labelled examples: read, checked, deduplicated, split without leaks, kept, encoded,
and drawn as batches.

`prepare` leaves one folder for each content and configuration, under $MIAOBI_HOME/examples:

    train.jsonl  validation.jsonl  test.jsonl    {"columns": {...}, "place": "chats.jsonl:12"}
    examples.json                                what was found: counts, duplicates, contradictions, problems

Examples that ask the same question (as `question` of the task tells, case and spaces
aside) never stand on two sides of a split; nor do those that the task has more in mind
to keep together, by an optional `group(columns)` (all questions about one text), and
pictures that a person would call the same (data/image/near_duplicates.py).
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field

from miaobi.core.errors import BadInput
from miaobi.core.files import home, write_beside
from miaobi.core.language import say
from miaobi.data import packs
from miaobi.data.cache import locked_folder, manifest
from miaobi.data.image import near_duplicates
from miaobi.data.labelled import readers
from miaobi.data.progress import bar
from miaobi.data.splitting import (
    DROPPED,
    TEST,
    VALIDATION,
    assign_groups,
    check_shares,
    joined_groups,
)
from miaobi.data.text.shapes import Unusable
from miaobi.nn.objective import Batch
from miaobi.tune.learner import Example, Features, Learner, Task

FORMAT = 3
MANIFEST = "examples.json"
SPLITS = ("train", "validation", "test")
SHOWN = 10
AFTERWARDS = {
    "path",
    "pack",
    "validation_path",
    "test_path",
    "max_length",
    "too_long",
    "mix",
}
"""Settings that do not change what is kept, or count by their content."""
KEPT = 2 << 30
"""Bytes of encoded examples in memory; ten thousand pictures of 224 pixels. Those
beyond are encoded anew in every epoch.
"""
LONGEST = 512
"""Tokens that an example may have unless told otherwise; a CPU is slow beyond."""


@dataclass(frozen=True)
class Source:
    """Further examples to train on, see tune/mixing.py."""

    path: str = ""
    """In a recipe, under a name of your own: a further file or folder of training
    examples, of any format that data.path may have.
    """
    pack: str = ""
    """A starter pack instead of a path."""
    share: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0
    """Examples of it for each training example of data.path, as far as it has so many;
    0 leaves it out.
    """
    columns: dict[str, str] | None = None
    """Your names for its columns, where they are others than data.columns."""


@dataclass(frozen=True)
class Config:
    """Where the labelled examples come from and how they are divided."""

    path: str = ""
    """A file or folder: JSONL, JSON, CSV, Parquet (each also gzip), or what the task
    reads besides (class folders, CoNLL, COCO).
    """
    pack: str = ""
    """A starter pack instead of a path."""
    columns: dict[str, str] = field(default_factory=dict)
    """Your names for the task's columns: {text: review, label: stars}."""
    validation: float = 0.1
    """Share that is kept from training, to stop early by."""
    test: float = 0.1
    """Share that is kept from both, to compare with the base by."""
    validation_path: str = ""
    """A file of its own for validation, instead of a share."""
    test_path: str = ""
    """A file of its own for the test, instead of a share."""
    max_examples: int = 0
    """Use only so many, chosen by chance; 0 uses all."""
    max_length: int = 0
    """Tokens of an example; 0 for enough to hold 99 % of them, at most 512 and at most
    what the base can hold.
    """
    too_long: Literal["truncate", "split", "drop"] = "truncate"
    """What becomes of longer ones."""
    allow_leakage: bool = False
    """Go on although questions of test_path stand in the training data."""
    strict: bool = True
    """Stop at the first unusable record. Otherwise leave such records out, count and
    report them.
    """
    mix: dict[str, Source] = field(default_factory=dict)
    """Further sources of training examples by name; what is held out comes from data.path alone."""


def prepare(
    config: Config,
    task: Task,
    head: Any,
    progress: bool = True,
    root: Path | None = None,
) -> Path:
    """The folder of the prepared examples, made now or found from an earlier run.
    Raises BadInput, NotFound, Damaged.
    """
    check_shares(config.validation, config.test)
    packs.check_one(config.path, config.pack, "my.jsonl", "chinese-reviews")
    with bar(progress) as shown:
        found = _read(config, task, head, shown)
    root = root or home() / "examples"
    root.mkdir(parents=True, exist_ok=True)
    settings = {
        key: value for key, value in asdict(config).items() if key not in AFTERWARDS
    }
    name = hashlib.sha256(
        json.dumps([FORMAT, task.NAME, asdict(head), settings], sort_keys=True).encode()
    )
    for example, given in zip(found.examples, found.given):
        name.update(f"{given}{_spelled(example.columns)}".encode())
    with locked_folder(root, name.hexdigest()[:16]) as folder:
        if not folder.exists():
            _keep(folder, config, task, found)
    return folder


@dataclass
class _Found:
    examples: list[Example] = field(default_factory=list)
    given: list[int] = field(default_factory=list)
    """The split that the source names for each, DROPPED for none."""
    problems: int = 0
    first: list[str] = field(default_factory=list)


def _read(config: Config, task: Task, head: Any, shown: Any) -> _Found:
    found = _Found()
    sources = [
        (config.path, config.pack, DROPPED),
        (config.validation_path, "", VALIDATION),
        (config.test_path, "", TEST),
    ]
    for path, pack, split in sources:
        if not (path or pack):
            continue
        for place, record in readers.get(task.READER)(path, pack):
            try:
                found.examples.append(
                    example_of(place, record, config.columns, task, head)
                )
            except Unusable as error:
                _report(found, place, error, config.strict)
                continue
            found.given.append(split)
            if len(found.examples) % 1000 == 0:
                shown(
                    say(
                        f"Reading: {len(found.examples):,} examples",
                        f"读取：{len(found.examples):,} 条",
                    ),
                    0,
                    0,
                )
    if not any(given == DROPPED for given in found.given):
        raise BadInput(
            say(
                f"{config.path or config.pack} holds no example.",
                f"{config.path or config.pack} 中没有样本。",
            ),
            say(
                f"Expected records such as {task.EXAMPLE}",
                f"应为这样的记录：{task.EXAMPLE}",
            ),
        )
    return found


def example_of(
    place: str,
    record: Mapping[str, Any],
    names: Mapping[str, str],
    task: Task,
    head: Any,
) -> Example:
    """A record as an example; names: people's own for the task's columns. Raises Unusable."""
    columns = dict(task.columns(renamed(record, names), head))
    return Example(columns, str(place), task.question(columns))


def renamed(record: Mapping[str, Any], columns: Mapping[str, str]) -> Mapping[str, Any]:
    """The record with people's own column names turned into the task's. Raises Unusable
    for a column that is not there.
    """
    for ours, theirs in columns.items():
        if theirs not in record:
            raise Unusable(
                say(
                    f"there is no column {theirs!r} (named for {ours}); there are: {', '.join(map(str, record))}.",
                    f"没有名为 {theirs!r} 的列（用作 {ours}）；现有：{'、'.join(map(str, record))}。",
                ),
                say("Mend data.columns.", "请修正 data.columns。"),
            )
    taken = set(columns.values())
    return {key: value for key, value in record.items() if key not in taken} | {
        ours: record[theirs] for ours, theirs in columns.items()
    }


def _report(found: _Found, place: Any, error: Unusable, strict: bool) -> None:
    problem = f"{place}: {error.what}"
    if strict:
        raise BadInput(
            problem,
            say(
                f"{error.remedy} Or leave such records out with --data.strict false.",
                f"{error.remedy} 也可用 --data.strict false 略过这类记录。",
            ),
        )
    found.problems += 1
    found.first += [problem] if len(found.first) < SHOWN else []


def _spelled(columns: Mapping[str, Any]) -> str:
    return json.dumps(columns, ensure_ascii=False, sort_keys=True, default=str)


def content(columns: Mapping[str, Any]) -> str:
    """Columns as text, by which they are told apart: pictures by what they show, not by
    the file they lie in.
    """
    return _spelled(
        {key: value for key, value in columns.items() if key != "image"}
        if "digest" in columns
        else columns
    )


def question_digest(parts: Mapping[str, Any]) -> int:
    """Eight bytes that tell questions apart; letters' case and spaces do not, nor where
    a picture lies that has a digest.
    """
    folded = " ".join(content(parts).casefold().split())
    return int.from_bytes(
        hashlib.blake2b(folded.encode(), digest_size=8).digest(), "big"
    )


def _keep(folder: Path, config: Config, task: Task, found: _Found) -> None:
    """Deduplicate, split, write."""
    questions = np.array(
        [question_digest(example.parts) for example in found.examples], dtype=np.uint64
    )
    whole = [content(example.columns) for example in found.examples]
    given = np.array(found.given)
    met, kept = set[tuple[int, str]](), np.zeros(len(whole), dtype=bool)
    for place, said in enumerate(whole):
        split = found.given[place]
        kept[place] = (split, said) not in met
        met.add((split, said))
    asked_by = [
        (int(question), example.location)
        for question, example in zip(questions, found.examples)
    ]
    leaks = shared_questions(
        [pair for pair, split in zip(asked_by, given) if split != DROPPED],
        [pair for pair, split in zip(asked_by, given) if split == DROPPED],
    )
    if leaks and not config.allow_leakage:
        raise _leak_error(leaks)
    # A leak that was allowed stays on both sides; without that, all examples of a
    # question go to one.
    free = kept & (given == DROPPED)
    splits = np.full(len(whole), DROPPED, dtype=np.uint8)
    shares = [
        0.0 if (given == split).any() else share
        for split, share in ((VALIDATION, config.validation), (TEST, config.test))
    ]
    chosen = _limited(np.flatnonzero(free), questions, config.max_examples)
    _, groups = np.unique(
        np.array(
            [
                question_digest(task.group(found.examples[place].columns))
                for place in chosen
            ],
            dtype=np.uint64,
        ),
        return_inverse=True,
    )
    if "digest" in found.examples[0].columns:
        groups = joined_groups(
            groups, near_duplicate_groups([found.examples[place] for place in chosen])
        )
    splits[chosen] = assign_groups(
        questions[chosen], groups, np.full(len(chosen), DROPPED), *shares
    )
    splits[kept & (given != DROPPED)] = given[kept & (given != DROPPED)]
    _, places = np.unique(questions[kept], return_inverse=True)
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
    facts = {
        "format": FORMAT,
        "task": task.NAME,
        "read": len(whole),
        "splits": counts,
        "duplicates": int((~kept).sum()),
        "contradictions": int(kept.sum() - len(np.unique(places))),
        "leaks": len(leaks),
        "problems": {"count": found.problems, "first": found.first},
        "config": asdict(replace(config, mix={})),
    }
    # Files are often sorted by label, and validation and tests may read only the first
    # examples: those must be a fair sample.
    order = np.argsort(questions, kind="stable")
    write(
        folder,
        {
            split: [found.examples[place] for place in order[splits[order] == number]]
            for number, split in enumerate(SPLITS)
        },
        facts,
    )


def near_duplicate_groups(examples: Sequence[Example]) -> np.ndarray:
    """The number of each picture's group of near-duplicates, int64 [examples]."""
    from miaobi.data.image.files import open_picture, quiet

    with quiet():
        looks = [
            near_duplicates.signature(
                np.asarray(
                    open_picture(
                        Path(example.columns["image"]), near_duplicates.SIDE
                    ).pixels.convert("L")
                )[None]
            )
            for example in examples
        ]
    return near_duplicates.groups(
        np.array([[number] for number, _ in looks]),
        np.stack([thumb for _, thumb in looks])[:, None],
    )


def write(
    folder: Path, splits: Mapping[str, Sequence[Example]], facts: Mapping[str, Any]
) -> None:
    """A prepared folder."""
    with write_beside(folder) as draft:
        draft.mkdir()
        for split, found in splits.items():
            with (draft / f"{split}.jsonl").open("w", encoding="utf-8") as file:
                for example in found:
                    file.write(
                        json.dumps(
                            {"columns": example.columns, "place": example.location},
                            ensure_ascii=False,
                        )
                        + "\n"
                    )
        (draft / MANIFEST).write_text(
            json.dumps(facts, ensure_ascii=False, indent=1), encoding="utf-8"
        )


def _limited(places: np.ndarray, questions: np.ndarray, count: int) -> np.ndarray:
    """`count` of the places, chosen by the questions' digests, in their order; all for 0."""
    if not count or count >= len(places):
        return places
    return np.sort(places[np.argsort(questions[places], kind="stable")[:count]])


def shared_questions(
    held_out: Iterable[tuple[int, str]], trained: Iterable[tuple[int, str]]
) -> list[tuple[str, str]]:
    """(place in the held-out data, place in the training data) of questions that stand
    in both; given are pairs of `asked` and place.
    """
    known = dict(trained)
    return [
        (place, known[question]) for question, place in held_out if question in known
    ]


def describe_leaks(leaks: Sequence[tuple[str, str]]) -> str:
    """The first few, for an error."""
    return "; ".join(f"{test} = {train}" for test, train in leaks[:3])


def _leak_error(leaks: Sequence[tuple[str, str]]) -> BadInput:
    shown = describe_leaks(leaks)
    return BadInput(
        say(
            f"{len(leaks)} held-out examples ask what the training data asks "
            f"too: {shown}{' ...' if len(leaks) > 3 else ''}",
            f"有 {len(leaks)} 条留出样本与训练数据的提问相同：{shown}{' ……' if len(leaks) > 3 else ''}",
        ),
        say(
            "Take them out of one side, or go on all the same with "
            "--data.allow_leakage true: the test will then flatter the model.",
            "请从一侧去掉它们；或用 --data.allow_leakage true 继续，但测试结果会偏高。",
        ),
    )


def read_split(folder: Path, split: str, task: Task) -> list[Example]:
    """The examples of a prepared split."""
    with (folder / f"{split}.jsonl").open(encoding="utf-8") as file:
        records = [json.loads(line) for line in file]
    return [
        Example(record["columns"], record["place"], task.question(record["columns"]))
        for record in records
    ]


@dataclass(frozen=True)
class Lengths:
    """How long the examples of a data set are, in tokens; all 0 for pictures."""

    median: int
    p95: int
    longest: int
    max_length: int
    cut: int
    """Examples longer than max_length."""


@dataclass(frozen=True, eq=False)
class Examples:
    """Prepared examples, encoded by a learner: what the training loop draws its batches from."""

    folder: Path
    task: Task
    learner: Learner
    max_length: int
    too_long: str = "truncate"
    left_out: frozenset[str] = frozenset()
    """Places of held-out examples that training showed nothing of (a label of which
    there is only one example).
    """

    @property
    def fingerprint(self) -> str:
        return self.folder.name

    @cached_property
    def spec(self) -> Mapping[str, Any]:
        """What preparation found."""
        return manifest(self.folder, MANIFEST)

    @cached_property
    def _splits(self) -> dict[str, list[Example]]:
        return {
            split: [
                example
                for example in self._fitted(read_split(self.folder, split, self.task))
                if example.location not in self.left_out
            ]
            for split in SPLITS
        }

    def _fitted(self, examples: Sequence[Example]) -> Iterator[Example]:
        for example in examples:
            if (
                self.too_long == "truncate"
                or self.learner.length(example.columns) <= self.max_length
            ):
                yield example
            elif self.too_long == "split":
                for columns in self.learner.split(example.columns, self.max_length):
                    yield Example(columns, example.location, example.parts)

    def examples(self, split: str) -> list[Example]:
        return self._splits[split]

    def count(self, split: str) -> int:
        return len(self._splits[split])

    @cached_property
    def _encoded(self) -> dict[str, list[Features | None]]:
        return {split: [None] * self.count(split) for split in SPLITS}

    @cached_property
    def _room(self) -> list[int]:
        """Bytes that may still be kept."""
        return [KEPT]

    def features(self, split: str, place: int) -> Features:
        """An example as arrays, encoded when first asked for, and kept while there is room."""
        found = self._encoded[split][place]
        if found is None:
            found = self.learner.encode(
                self._splits[split][place].columns, self.max_length
            )
            self._room[0] -= sum(value.nbytes for value in found.values())
            if self._room[0] >= 0:
                self._encoded[split][place] = found
        return found

    @cached_property
    def _order(self) -> Callable[[int, int], np.ndarray]:
        """(epoch, seed) -> the order of its training examples; the last few are kept."""
        return lru_cache(maxsize=2)(
            lambda epoch, seed: np.random.Generator(
                np.random.PCG64([seed, epoch])
            ).permutation(self.count("train"))
        )

    def batch(self, split: str, index: int, size: int, seed: int) -> Batch:
        """Batch `index` of an endless stream: epoch after epoch, each in an order of
        its own, without a break between them.
        """
        return self.learner.collate(
            [
                self.features(split, place)
                for place in self._drawn(split, index, size, seed)
            ]
        )

    def locations(self, split: str, index: int, size: int, seed: int) -> list[str]:
        """Where the examples of a batch were written."""
        return [
            self._splits[split][place].location
            for place in self._drawn(split, index, size, seed)
        ]

    def _drawn(self, split: str, index: int, size: int, seed: int) -> list[int]:
        count = self.count(split)
        return [
            int(self._order(at // count, seed)[at % count])
            if split == "train"
            else at % count
            for at in range(index * size, (index + 1) * size)
        ]

    def batches(self, split: str, size: int) -> Iterator[Batch]:
        for start in range(0, self.count(split), size):
            yield self.learner.collate(
                [
                    self.features(split, place)
                    for place in range(start, min(start + size, self.count(split)))
                ]
            )

    def save(self, folder: Path) -> None:
        self.learner.save(folder)


def measure(
    folder: Path, task: Task, learner: Learner, config: Config, limit: int
) -> Lengths:
    """How long the training examples are, and what max_length follows from that; what
    was mixed in, which stands last, has no say in it, so that held-out examples are cut
    the same whatever the mix. limit: what the base can hold, 0 for no end.
    """
    lengths = np.array(
        [
            learner.length(example.columns)
            for example in read_split(folder, "train", task)
        ]
    )
    own = lengths[
        : len(lengths)
        - sum(
            source["added"]
            for source in manifest(folder, MANIFEST).get("mix", {}).values()
        )
    ]
    room = limit or sys.maxsize
    if config.max_length > room:
        raise BadInput(
            say(
                f"data.max_length is {config.max_length}; the base holds {room} tokens.",
                f"data.max_length 为 {config.max_length}；基础模型最多容纳 {room} 个词元。",
            ),
            say(f"Give at most {room}.", f"请不要超过 {room}。"),
        )
    enough = -(-int(np.quantile(own, 0.99)) // 8) * 8
    longest = config.max_length or max(min(enough, LONGEST, room), 8)
    median, p95 = np.quantile(lengths, [0.5, 0.95])
    return Lengths(
        int(median),
        int(p95),
        int(lengths.max()),
        longest if lengths.any() else 0,
        int((lengths > longest).sum()),
    )
