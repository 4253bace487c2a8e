"""Preparation of text: read, deduplicate, split, tokenise, pack. Every stage leaves its
result, so one that was cut off continues.

1. Survey: one pass over the documents for exact duplicates (by 64-bit digest; about 100
   bytes of memory for each distinct document), their lengths, and the characters that
   occur. Leaves survey.json and plan.bin, one byte a document: its split, or dropped.
2. Tokenizer: built from the survey, trained on a sample, or loaded.
3. Packing: tokens are appended to one file a split. Every CHUNK characters the files
   are flushed to the disk and their lengths noted in progress.json; after a cut, what
   is beyond a noted length is thrown away and done again.

The text itself is never held: a corpus may be larger than memory.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from array import array
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np

from miaobi.core import storage
from miaobi.core.errors import BadInput
from miaobi.core.files import explain_refusal, home, write_beside, write_text
from miaobi.core.language import say
from miaobi.data import packs
from miaobi.data.cache import content_hash, locked_folder
from miaobi.data.encoding import Problem
from miaobi.data.progress import Bar, bar
from miaobi.data.splitting import DROPPED, TRAIN, Cut, assign_works, check_shares
from miaobi.data.text import sources, tokenizer
from miaobi.data.text.config import MANIFEST, SPLITS, Config
from miaobi.data.text.documents import Special, Work
from miaobi.data.text.files import files_in
from miaobi.data.text.tokenizer import Tokenizer

FORMAT = 1
CHUNK = 1 << 24
"""Characters between two notes of progress."""
BATCH = 1 << 20
"""Characters tokenised at once."""
BPE_SAMPLE = 750
"""Bytes of text for each token of a BPE trained here. Five times as many Tang poems
shorten their encoding by 4 %, but training time grows faster than the text (Chinese has
few spaces, so few words repeat).
"""
NAMED_PROBLEMS = 20
"""Problems that are kept by name; the others are counted."""
SMALL_VOCABULARY = 1 << 16
"""Tokens up to which uint16 is enough."""
NOT_IN_FINGERPRINT = {
    "context_length",
    "path",
    "pack",
    "source",
    "tokenizer",
    "fill_rate",
    "fill_suffix_first",
}
"""Settings that do not change the prepared files, or count by their content."""


def prepare_folder(
    config: Config, cache: Path | None = None, progress: bool = True
) -> Path:
    """Return the folder of the prepared data.

    Of two processes that want the same, one prepares it and the other waits.

    Args:
        config: the source of the text and how it becomes tokens
        cache: where prepared data is kept; $MIAOBI_HOME/prepared by default
        progress: show a bar on stderr
    """
    check_shares(config.validation, config.test)
    root = cache or home() / "prepared"
    root.mkdir(parents=True, exist_ok=True)
    with locked_folder(root, fingerprint(config, root)) as folder:
        if not (folder / MANIFEST).exists():
            draft = root / f".{folder.name}.part"
            with bar(progress) as show, explain_refusal(folder):
                _Preparation(config, draft, show).run()
                os.replace(draft, folder)
    return folder


def fingerprint(config: Config, root: Path) -> str:
    """Return the name of a preparation: 16 hexadecimal digits of the source's content,
    the settings that matter, the tokenizer's content and the format.
    """
    settings = {
        key: value
        for key, value in asdict(config).items()
        if key not in NOT_IN_FINGERPRINT
    }
    if not config.encoding:
        del settings["encoding"]  # data prepared before there was this setting is found
    path = tokenizer_path(config.tokenizer)
    vocabulary = config.tokenizer
    if path is not None:
        vocabulary = content_hash(path, files_in(path), root)
    described = [FORMAT, settings, vocabulary, sources.identity(config, root)]
    text = json.dumps(described, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def tokenizer_path(name: str) -> Path | None:
    """Return the file of a pretrained tokenizer; None for char and bpe, which are made
    here.
    """
    if name in ("char", "bpe"):
        return None
    if name in packs.catalogue():
        return packs.path(name)
    path = storage.local(name)
    return path / "tokenizer.json" if path.is_dir() else path


class Planned(NamedTuple):
    """A text with its split."""

    split: int
    pieces: list[str]
    is_last: bool
    """Whether its document ends with it."""

    @property
    def characters(self) -> int:
        return sum(map(len, self.pieces))


class _Preparation:
    """One preparation under way in `folder`, where an earlier one may have left its stages."""

    def __init__(self, config: Config, folder: Path, show: Bar) -> None:
        self.config = config
        self.folder = folder
        self.show = show
        self.problems = 0
        self.first_problems = list[str]()
        folder.mkdir(exist_ok=True)

    def run(self) -> None:
        if not (self.folder / "survey.json").exists():
            self.survey()
        if not (self.folder / "tokenizer").exists():
            with write_beside(self.folder / "tokenizer") as draft:
                self.make_tokenizer().save(draft)
        self.pack()

    def report(self, problem: Problem) -> None:
        self.problems += 1
        if len(self.first_problems) < NAMED_PROBLEMS:
            self.first_problems.append(str(problem))

    def survey(self) -> None:
        """Find duplicates, lengths, splits and characters, in one pass."""
        digests = _Digests()
        counts = _CharacterCounts()
        for document in sources.documents(self.config, self.report):
            text = document.training_text()
            digests.add(text, document.continues, document.work)
            if counts.add(text):
                self.show_read(digests.characters)
        assigned = assign_works(
            np.frombuffer(digests.works, dtype=np.uint64),
            np.frombuffer(digests.lengths, dtype=np.int64),
            self.config.validation,
            self.config.test,
        )
        repeated = np.frombuffer(digests.repeated, dtype=np.uint8).astype(bool)
        plan = np.full(len(repeated), DROPPED, dtype=np.uint8)
        cut = None
        if isinstance(assigned, Cut):
            plan[~repeated] = TRAIN
            cut = [assigned.validation, assigned.test]
        else:
            plan[~repeated] = assigned
        plan.tofile(self.folder / "plan.bin")
        survey = {
            "characters": sum(digests.lengths),
            "read": digests.characters,
            "duplicates": int(repeated.sum()),
            "counts": counts.by_character(),
            "cut": cut,
            "works": digests.named_works(),
            "problems": {"count": self.problems, "first": self.first_problems},
        }
        write_text(self.folder / "survey.json", json.dumps(survey))
        self.print_problems()

    def show_read(self, characters: int) -> None:
        millions = f"{characters / 1e6:,.1f}"
        label = say(
            f"Reading: {millions} million characters", f"读取：{millions} 百万字"
        )
        self.show(label, 0, 0)

    def print_problems(self) -> None:
        if self.problems:
            print(
                say(
                    f"{self.problems:,} broken records were left out; the first: {self.first_problems[0]}",
                    f"已略过 {self.problems:,} 条有问题的记录；第一条：{self.first_problems[0]}",
                ),
                file=sys.stderr,
            )

    @cached_property
    def surveyed(self) -> dict[str, Any]:
        text = (self.folder / "survey.json").read_text(encoding="utf-8")
        survey: dict[str, Any] = json.loads(text)
        return survey

    def make_tokenizer(self) -> Tokenizer:
        config = self.config
        path = tokenizer_path(config.tokenizer)
        if path is not None:
            return tokenizer.load(path)
        if config.tokenizer == "char":
            counts = self.surveyed["counts"]
            return tokenizer.characters(counts, config.min_frequency)
        self.show(say("Training the tokenizer", "训练分词器"), 0, 0)
        return tokenizer.train_bpe(self._sample(), config.vocab_size)

    def _sample(self) -> Iterator[str]:
        """Texts of the training split, evenly spread, about BPE_SAMPLE bytes for each token."""
        counts = self.surveyed["counts"].items()
        size = sum(count * len(char.encode()) for char, count in counts)
        stride = -(-size // (BPE_SAMPLE * self.config.vocab_size))
        for number, planned in enumerate(self.planned()):
            if planned.split != TRAIN or number % stride:
                continue
            for piece in planned.pieces:
                if not isinstance(piece, Special):
                    yield piece

    def planned(self) -> Iterator[Planned]:
        """Yield the texts that are not dropped. A cut inside a text ends it on both sides."""
        plan = np.fromfile(self.folder / "plan.bin", dtype=np.uint8)
        cut = Cut(*self.surveyed["cut"]) if self.surveyed["cut"] else None
        number, position = 0, 0
        # Problems were reported by the survey.
        for document in sources.documents(self.config, lambda problem: None):
            is_last = not document.continues
            if plan[number] != DROPPED:
                text = Planned(int(plan[number]), document.pieces(), is_last)
                if cut is None:
                    yield text
                else:
                    yield from _cut_up(text, cut, position)
                position += text.characters
            number += is_last

    def pack(self) -> None:
        """Append the tokens of every planned text to its split's file, noting progress
        as it goes.
        """
        vocabulary = tokenizer.load(self.folder / "tokenizer")
        total = self.surveyed["characters"]
        with _Packed.resume(self.folder, vocabulary) as packed:
            not_noted = 0
            remaining = islice(self.planned(), packed.done, None)
            for batch, is_full in _batches(remaining):
                packed.append(batch)
                not_noted += sum(text.characters for text in batch)
                if not is_full:
                    break
                if not_noted >= CHUNK:
                    packed.note()
                    not_noted = 0
                self.show(say("Tokenising", "分词"), packed.characters, total)
            packed.note()
        if packed.splits["train"]["tokens"] < 2:
            raise BadInput(
                say("There is too little text to train on.", "文本太少，无法训练。"),
                say("Give more text.", "请提供更多文本。"),
            )
        self.finish(vocabulary, packed)

    def finish(self, vocabulary: Tokenizer, packed: _Packed) -> None:
        """Write the manifest, and remove what only the stages needed."""
        manifest = {
            "format": FORMAT,
            "tokenizer": vocabulary.name,
            "vocab_size": vocabulary.vocab_size,
            "end_id": vocabulary.end_id,
            "dtype": packed.dtype.name,
            "splits": packed.splits,
            "duplicates": self.surveyed["duplicates"],
            "problems": self.surveyed["problems"],
            "works": self.surveyed["works"],
            "config": asdict(self.config),
        }
        text = json.dumps(manifest, ensure_ascii=False, indent=1)
        write_text(self.folder / MANIFEST, text)
        for name in ("plan.bin", "survey.json", "progress.json"):
            (self.folder / name).unlink()


def _cut_up(text: Planned, cut: Cut, position: int) -> Iterator[Planned]:
    """The parts of a text that starts at `position` of the running text."""
    length = text.characters
    parts = list(cut.parts(position, length))
    if len(text.pieces) > 1:  # a conversation goes whole to the split of its beginning
        yield text._replace(split=parts[0][0])
        return
    [piece] = text.pieces
    for split, first, last in parts:
        yield Planned(split, [piece[first:last]], text.is_last or last < length)


def _batches(texts: Iterator[Planned]) -> Iterator[tuple[list[Planned], bool]]:
    """Batches of at least BATCH characters, and whether each is full; the last is not,
    and may be empty.
    """
    batch, size = list[Planned](), 0
    for text in texts:
        batch.append(text)
        size += text.characters
        if size >= BATCH:
            yield batch, True
            batch, size = [], 0
    yield batch, False


class _Digests:
    """Length and work of each distinct document, and which ones are repeated."""

    def __init__(self) -> None:
        self.works = array("Q")
        """The digest of the work of each distinct document; its own where it has none."""
        self.lengths = array("q")
        """Characters of each distinct document."""
        self.repeated = bytearray()
        """For each document 1 where it occurred before."""
        self.characters = 0
        """Of all texts so far."""
        self._named = dict[Work, int]()
        """Characters of distinct documents from each work that has a name."""
        self._seen = set[int]()
        self._hash = hashlib.blake2b(digest_size=8)
        self._length = 0

    def add(self, text: str, continues: bool, work: Work | None = None) -> None:
        """Take up a text of a work; `continues` where the next one is a part of the
        same document.
        """
        self._hash.update(text.encode())
        self._length += len(text)
        self.characters += len(text)
        if continues:
            return
        digest = int.from_bytes(self._hash.digest(), "big")
        self.repeated.append(digest in self._seen)
        if digest not in self._seen:
            self._seen.add(digest)
            self.works.append(digest if work is None else _digest_of(work))
            self.lengths.append(self._length)
            if work is not None:
                self._named[work] = self._named.get(work, 0) + self._length
        self._hash = hashlib.blake2b(digest_size=8)
        self._length = 0

    def named_works(self) -> list[dict[str, Any]]:
        """Return name, version, licence and characters of each work that has a name."""
        return [
            {**work._asdict(), "characters": characters}
            for work, characters in self._named.items()
        ]


def _digest_of(work: Work) -> int:
    name = hashlib.blake2b(work.name.encode(), digest_size=8)
    return int.from_bytes(name.digest(), "big")


class _CharacterCounts:
    """How often each character occurs, counted in blocks."""

    def __init__(self) -> None:
        self.total = np.zeros(tokenizer.UNICODE, dtype=np.int64)
        self._block = list[str]()
        self._size = 0

    def add(self, text: str) -> bool:
        """Take up a text; return whether a block was counted just now."""
        self._block.append(text)
        self._size += len(text)
        if self._size < BATCH:
            return False
        self._count()
        return True

    def _count(self) -> None:
        block = "".join(self._block).encode("utf-32-le")
        codes = np.frombuffer(block, dtype=np.uint32)
        self.total += np.bincount(codes, minlength=tokenizer.UNICODE)
        self._block, self._size = [], 0

    def by_character(self) -> dict[str, int]:
        """Return the count of each character that occurs."""
        self._count()
        return {chr(code): int(self.total[code]) for code in np.flatnonzero(self.total)}


class _Packed:
    """The files of the splits as they grow."""

    def __init__(
        self, folder: Path, vocabulary: Tokenizer, progress: dict[str, Any]
    ) -> None:
        is_small = vocabulary.vocab_size <= SMALL_VOCABULARY
        self.folder = folder
        self.vocabulary = vocabulary
        self.dtype = np.dtype(np.uint16 if is_small else np.uint32)
        self.done: int = progress["done"]
        """Planned texts that are packed."""
        self.splits: dict[str, dict[str, int]] = progress["splits"]
        self.files = {split: self._open(split) for split in SPLITS}

    @classmethod
    @contextmanager
    def resume(cls, folder: Path, vocabulary: Tokenizer) -> Iterator[_Packed]:
        """Open the files at the progress that was noted last."""
        path = folder / "progress.json"
        if path.exists():
            progress = json.loads(path.read_text(encoding="utf-8"))
        else:
            progress = {"done": 0, "splits": {split: _no_counts() for split in SPLITS}}
        packed = cls(folder, vocabulary, progress)
        try:
            yield packed
        finally:
            for file in packed.files.values():
                file.close()

    @property
    def characters(self) -> int:
        return sum(counts["characters"] for counts in self.splits.values())

    def _open(self, split: str) -> IO[bytes]:
        file = (self.folder / f"{split}.bin").open("ab")
        file.truncate(self.splits[split]["tokens"] * self.dtype.itemsize)
        return file

    def append(self, texts: list[Planned]) -> None:
        """Tokenise texts and append them to the files of their splits."""
        end = np.array([self.vocabulary.end_id])
        encoded = self.vocabulary.encode_batch([text.pieces for text in texts])
        arrays: dict[str, list[np.ndarray]] = {split: [] for split in SPLITS}
        for text, ids in zip(texts, encoded, strict=True):
            split = SPLITS[text.split]
            arrays[split] += [ids, end] if text.is_last else [ids]
            counts = self.splits[split]
            counts["documents"] += text.is_last
            counts["characters"] += text.characters
            counts["bytes"] += sum(len(piece.encode()) for piece in text.pieces)
        for split in SPLITS:
            if arrays[split]:
                self._write(split, arrays[split], end)
        self.done += len(texts)

    def _write(self, split: str, arrays: list[np.ndarray], end: np.ndarray) -> None:
        """Append token numbers to a file, which begins with the end token."""
        counts = self.splits[split]
        if not counts["tokens"]:
            arrays = [end, *arrays]
        tokens = np.concatenate(arrays)
        counts["tokens"] += len(tokens)
        self.files[split].write(tokens.astype(self.dtype).data)

    def note(self) -> None:
        """Flush the files, then write down how long they are."""
        for file in self.files.values():
            file.flush()
            os.fsync(file.fileno())
        progress = {"done": self.done, "splits": self.splits}
        write_text(self.folder / "progress.json", json.dumps(progress))


def _no_counts() -> dict[str, int]:
    return {"tokens": 0, "documents": 0, "characters": 0, "bytes": 0}
