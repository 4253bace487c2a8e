"""Preparation: read, deduplicate, split, tokenise, pack. Every stage leaves its result,
so a cut-off one continues.

1. Survey: one pass over the documents for exact duplicates (by 64-bit digest; about 100 bytes of memory for each distinct
   document), their lengths, and the characters that occur. Leaves plan.npy, one byte a
   document: its split, or dropped.
2. Tokenizer: built from the survey, trained on a sample, or loaded.
3. Packing: tokens are appended to one file a split. Every CHUNK characters the files are flushed to the disk and their
   lengths noted in progress.json; what lies behind a noted length after a cut is thrown
   away and done again.

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
from typing import Any

import numpy as np

from miaobi.core.errors import BadInput
from miaobi.core.files import explain_refusal, home, write_beside, write_text
from miaobi.core.language import say
from miaobi.data import packs
from miaobi.data.cache import content_hash, locked_folder
from miaobi.data.encoding import Problem
from miaobi.data.progress import Bar, bar
from miaobi.data.splitting import DROPPED, Cut, assign, check_shares
from miaobi.data.text import sources, tokenizer
from miaobi.data.text.config import MANIFEST, SPLITS, Config
from miaobi.data.text.documents import Special
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
SHOWN_PROBLEMS = 20
AFTERWARDS = {"context_length", "path", "pack", "source", "tokenizer"}
"""Settings that do not change the prepared files, or count by their content."""


def prepare_folder(
    config: Config, cache: Path | None = None, progress: bool = True
) -> Path:
    """The folder of the prepared data. Two processes that want the same wait for each other."""
    check_shares(config.validation, config.test)
    root = cache or home() / "prepared"
    root.mkdir(parents=True, exist_ok=True)
    with locked_folder(root, fingerprint(config, root)) as folder:
        if not (folder / MANIFEST).exists():
            with bar(progress) as shown, explain_refusal(folder):
                _Preparation(config, root / f".{folder.name}.part", shown).run()
                os.replace(root / f".{folder.name}.part", folder)
    return folder


def fingerprint(config: Config, root: Path) -> str:
    """Name of a preparation: the source's content, the settings that matter, the format."""
    settings = {
        key: value for key, value in asdict(config).items() if key not in AFTERWARDS
    }
    path = tokenizer_path(config.tokenizer)
    words = (
        config.tokenizer if path is None else content_hash(path, files_in(path), root)
    )
    described = [FORMAT, settings, words, sources.identity(config, root)]
    return hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()[
        :16
    ]


def tokenizer_path(name: str) -> Path | None:
    """The file of a pretrained tokenizer; None for char and bpe, which are made here."""
    if name in ("char", "bpe"):
        return None
    if name in packs.catalogue():
        return packs.path(name)
    path = Path(name).expanduser()
    return path / "tokenizer.json" if path.is_dir() else path


class _Preparation:
    """One preparation under way in `folder`, where an earlier one may have left its stages."""

    def __init__(self, config: Config, folder: Path, shown: Bar) -> None:
        self.config, self.folder, self.shown = config, folder, shown
        self.problems, self.first_problems = 0, list[str]()
        folder.mkdir(exist_ok=True)

    def run(self) -> None:
        if not (self.folder / "survey.json").exists():
            self.survey()
        if not (self.folder / "tokenizer").exists():
            with write_beside(self.folder / "tokenizer") as draft:
                self.make_tokenizer().save(draft)
        self.pack()

    def keep(self, problem: Problem) -> None:
        self.problems += 1
        if len(self.first_problems) < SHOWN_PROBLEMS:
            self.first_problems.append(str(problem))

    def survey(self) -> None:
        """Duplicates, lengths, splits and characters, in one pass."""
        seen, digests, lengths, order = set[int](), array("Q"), array("q"), bytearray()
        counts, whole, length, read = _Counts(), hashlib.blake2b(digest_size=8), 0, 0
        for document in sources.documents(self.config, self.keep):
            text = document.training_text()
            whole.update(text.encode())
            length, read = length + len(text), read + len(text)
            if counts.add(text):
                self.shown(
                    say(
                        f"Reading: {read / 1e6:,.1f} million characters",
                        f"读取：{read / 1e6:,.1f} 百万字",
                    ),
                    0,
                    0,
                )
            if document.continues:
                continue
            digest = int.from_bytes(whole.digest(), "big")
            order.append(digest in seen)
            if digest not in seen:
                seen.add(digest)
                digests.append(digest)
                lengths.append(length)
            whole, length = hashlib.blake2b(digest_size=8), 0
        repeated = np.frombuffer(order, dtype=np.uint8).astype(bool)
        found = assign(
            np.frombuffer(digests, dtype=np.uint64),
            np.frombuffer(lengths, dtype=np.int64),
            self.config.validation,
            self.config.test,
        )
        plan = np.full(len(order), DROPPED, dtype=np.uint8)
        plan[~repeated] = 0 if isinstance(found, Cut) else found
        plan.tofile(self.folder / "plan.bin")
        write_text(
            self.folder / "survey.json",
            json.dumps(
                {
                    "characters": sum(lengths),
                    "read": read,
                    "duplicates": int(repeated.sum()),
                    "counts": counts.found(),
                    "cut": [found.validation, found.test]
                    if isinstance(found, Cut)
                    else None,
                    "problems": {"count": self.problems, "first": self.first_problems},
                }
            ),
        )
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
        loaded: dict[str, Any] = json.loads(
            (self.folder / "survey.json").read_text(encoding="utf-8")
        )
        return loaded

    def make_tokenizer(self) -> Tokenizer:
        path = tokenizer_path(self.config.tokenizer)
        if path is not None:
            return tokenizer.load(path)
        if self.config.tokenizer == "char":
            return tokenizer.characters(
                self.surveyed["counts"], self.config.min_frequency
            )
        self.shown(say("Training the tokenizer", "训练分词器"), 0, 0)
        return tokenizer.train_bpe(self._sample(), self.config.vocab_size)

    def _sample(self) -> Iterator[str]:
        """Texts of the training split, evenly spread, about BPE_SAMPLE bytes for each token."""
        size = sum(
            count * len(char.encode())
            for char, count in self.surveyed["counts"].items()
        )
        stride = -(-size // (BPE_SAMPLE * self.config.vocab_size))
        taken = (
            pieces
            for place, (split, pieces, _) in enumerate(self.planned())
            if split == 0 and place % stride == 0
        )
        return (
            piece
            for pieces in taken
            for piece in pieces
            if not isinstance(piece, Special)
        )

    def planned(self) -> Iterator[tuple[int, list[str], bool]]:
        """(split, pieces, whether a document ends here) of what is kept. A cut inside a
        text ends it on both sides.
        """
        plan = np.fromfile(self.folder / "plan.bin", dtype=np.uint8)
        cut = Cut(*self.surveyed["cut"]) if self.surveyed["cut"] else None
        place, position = 0, 0
        for document in sources.documents(
            self.config, lambda problem: None
        ):  # reported by the survey
            pieces, ends = document.pieces(), not document.continues
            if plan[place] != DROPPED:
                length = sum(map(len, pieces))
                if cut is None:
                    yield int(plan[place]), pieces, ends
                elif len(pieces) > 1:  # a conversation goes whole to where it begins
                    yield next(cut.parts(position, length))[0], pieces, ends
                else:
                    parts = list(cut.parts(position, length))
                    for split, first, last in parts:
                        yield split, [pieces[0][first:last]], ends or last < length
                position += length
            place += ends

    def pack(self) -> None:
        """Append the tokens of every planned text to its split's file, noting progress
        as it goes.
        """
        words = tokenizer.load(self.folder / "tokenizer")
        with _Packed.resume(self.folder, words) as packed:
            waiting, size, noted = list[tuple[int, list[str], bool]](), 0, 0
            for item in islice(self.planned(), packed.done, None):
                waiting.append(item)
                size += sum(map(len, item[1]))
                if size >= BATCH:
                    packed.append(waiting)
                    noted, waiting, size = noted + size, [], 0
                    if noted >= CHUNK:
                        packed.note()
                        noted = 0
                    self.shown(
                        say("Tokenising", "分词"),
                        packed.characters,
                        self.surveyed["characters"],
                    )
            packed.append(waiting)
            packed.note()
        if packed.splits["train"]["tokens"] < 2:
            raise BadInput(
                say("There is too little text to train on.", "文本太少，无法训练。"),
                say("Give more text.", "请提供更多文本。"),
            )
        self.finish(words, packed)

    def finish(self, words: Tokenizer, packed: _Packed) -> None:
        survey = self.surveyed
        write_text(
            self.folder / MANIFEST,
            json.dumps(
                {
                    "format": FORMAT,
                    "tokenizer": words.name,
                    "vocab_size": words.vocab_size,
                    "end_id": words.end_id,
                    "dtype": packed.dtype.name,
                    "splits": packed.splits,
                    "duplicates": survey["duplicates"],
                    "problems": survey["problems"],
                    "config": asdict(self.config),
                },
                ensure_ascii=False,
                indent=1,
            ),
        )
        for name in ("plan.bin", "survey.json", "progress.json"):
            (self.folder / name).unlink()


class _Counts:
    """How often each character occurs, counted in blocks."""

    def __init__(self) -> None:
        self.total, self.held, self.size = (
            np.zeros(tokenizer.UNICODE, dtype=np.int64),
            list[str](),
            0,
        )

    def add(self, text: str) -> bool:
        """Whether a block was counted just now."""
        self.held.append(text)
        self.size += len(text)
        if self.size < BATCH:
            return False
        self._count()
        return True

    def _count(self) -> None:
        codes = np.frombuffer("".join(self.held).encode("utf-32-le"), dtype=np.uint32)
        self.total += np.bincount(codes, minlength=tokenizer.UNICODE)
        self.held, self.size = [], 0

    def found(self) -> dict[str, int]:
        self._count()
        return {chr(code): int(self.total[code]) for code in np.flatnonzero(self.total)}


class _Packed:
    """The files of the splits as they grow."""

    def __init__(self, folder: Path, words: Tokenizer, noted: dict[str, Any]) -> None:
        self.folder, self.words = folder, words
        self.dtype = np.dtype(np.uint16 if words.vocab_size <= 1 << 16 else np.uint32)
        self.done, self.splits = noted["done"], noted["splits"]
        self.files = {split: self._open(split) for split in SPLITS}

    @classmethod
    @contextmanager
    def resume(cls, folder: Path, words: Tokenizer) -> Iterator[_Packed]:
        path = folder / "progress.json"
        start = {
            "done": 0,
            "splits": {
                split: {"tokens": 0, "documents": 0, "characters": 0, "bytes": 0}
                for split in SPLITS
            },
        }
        packed = cls(
            folder,
            words,
            json.loads(path.read_text(encoding="utf-8")) if path.exists() else start,
        )
        try:
            yield packed
        finally:
            for file in packed.files.values():
                file.close()

    @property
    def characters(self) -> int:
        return sum(split["characters"] for split in self.splits.values())

    def _open(self, split: str) -> Any:
        file = (self.folder / f"{split}.bin").open("ab")
        file.truncate(self.splits[split]["tokens"] * self.dtype.itemsize)
        return file

    def append(self, items: list[tuple[int, list[str], bool]]) -> None:
        end = np.array([self.words.end_id])
        encoded = self.words.encode_batch([pieces for _, pieces, _ in items])
        for number, split in enumerate(SPLITS):
            figures, arrays = self.splits[split], []
            for (where, pieces, ends), ids in zip(items, encoded, strict=True):
                if where != number:
                    continue
                arrays += [ids, end] if ends else [ids]
                figures["documents"] += ends
                figures["characters"] += sum(map(len, pieces))
                figures["bytes"] += sum(len(piece.encode()) for piece in pieces)
            if arrays:
                tokens = np.concatenate(arrays if figures["tokens"] else [end, *arrays])
                figures["tokens"] += len(tokens)
                self.files[split].write(tokens.astype(self.dtype).data)
        self.done += len(items)

    def note(self) -> None:
        """Flush the files, then write down how long they are."""
        for file in self.files.values():
            file.flush()
            os.fsync(file.fileno())
        write_text(
            self.folder / "progress.json",
            json.dumps({"done": self.done, "splits": self.splits}),
        )
