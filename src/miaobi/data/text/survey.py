"""What lies in files of text, for `miaobi data inspect`."""

from __future__ import annotations

import re
from array import array
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from miaobi.core.language import say
from miaobi.data.encoding import Problem, encoding_of
from miaobi.data.survey import (
    EXAMPLES,
    LISTED_PROBLEMS,
    counted,
    problem_lines,
    table,
)
from miaobi.data.text import files
from miaobi.data.text.documents import Special
from miaobi.data.text.sources import unescaped

WIDE = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af\U00020000-\U0003ffff]+")
"""Scripts in which a byte-level BPE takes about a token for each character."""
TOKENS_PER_WIDE = 0.87
TOKENS_PER_OTHER = 0.25
"""Tokens for a character, in a vocabulary of 8,192 on Tang poems and on Shakespeare."""
EXAMPLE_CHARACTERS = 200
UNUSED_LISTED = 20
PERCENTILES = {"min": 0, "p10": 0.1, "p50": 0.5, "p90": 0.9, "p99": 0.99, "max": 1}


@dataclass(frozen=True)
class TextSurvey:
    """The content of a file or folder of text."""

    path: Path
    files: int
    encodings: Mapping[str, int]
    """Files by encoding."""
    shapes: Mapping[str, int]
    """Documents by shape: plain, or a layout of data/text/shapes/layouts.py."""
    documents: int
    characters: int
    duplicates: int
    lengths: Mapping[str, int]
    """Characters of a document: minimum, 10th, 50th, 90th, 99th percentile, maximum."""
    tokens_char: int
    tokens_bpe: int
    problems: int
    first_problems: tuple[str, ...]
    examples: tuple[str, ...]
    unused: Mapping[str, int] = field(default_factory=dict)
    """Records by a key of theirs that nothing is made of."""
    only_chat: Mapping[str, int] = field(default_factory=dict)
    """Records by a key of theirs that only fine-tuning for chat reads."""

    def __str__(self) -> str:
        lengths = "  ".join(f"{name} {value:,}" for name, value in self.lengths.items())
        rows = {
            say("encoding", "编码"): counted(self.encodings),
            say("shape", "格式"): counted(self.shapes),
            say("documents", "文档"): say(
                f"{self.documents:,} ({self.duplicates:,} of them exact duplicates)",
                f"{self.documents:,}（其中完全重复 {self.duplicates:,}）",
            ),
            say("characters", "字符"): f"{self.characters:,}",
            say("lengths", "长度"): lengths,
            say("tokens, about", "词元约"): say(
                f"{self.tokens_char:,} as characters, {self.tokens_bpe:,} as byte-level BPE of 8,192",
                f"按字 {self.tokens_char:,}，按字节级 BPE（8,192）{self.tokens_bpe:,}",
            ),
            say("problems", "问题"): f"{self.problems:,}",
        }
        if self.unused:
            listed = counted(self.unused, UNUSED_LISTED)
            rows[say("unused keys", "未用的键")] = listed
        if self.only_chat:
            rows[say("only for chat", "仅 chat 使用")] = counted(self.only_chat)
        lines = [
            *table(self.path, rows),
            *problem_lines(self.problems, self.first_problems),
        ]
        for number, example in enumerate(self.examples, 1):
            lines.append(say(f"  example {number}", f"  示例 {number}"))
            lines += [f"    {line}" for line in example.splitlines()]
        return "\n".join(lines)


def inspect(
    path: Path,
    *,
    strict: bool = False,
    text_column: str | None = None,
    separator: str | None = None,
    encoding: str = "",
) -> TextSurvey:
    """Read the text at `path` as training would; the arguments are those of `files.read`,
    with the separator as it is typed.
    """
    counts = _Counts()
    documents = files.read(
        path,
        text_column=text_column,
        separator=unescaped(separator),
        strict=strict,
        report=counts.add_problem,
        include_judged=True,
        encoding=encoding,
    )
    text = ""
    for document in documents:
        counts.add_pieces(document.pieces())
        if len(text) < files.PART:
            text += document.training_text()
        if not document.continues:
            counts.end_document(text, document.meta["shape"])
            counts.unused.update(document.unused)
            counts.only_chat.update(document.only_chat)
            text = ""
    return counts.survey(path, encoding)


def _encoding(file: Path, named: str) -> str:
    if files.format_of(file, named) == "parquet":
        return "Parquet"
    return encoding_of(file, named).name


class _Counts:
    """What a survey counts, document by document."""

    def __init__(self) -> None:
        self.shapes = Counter[str]()
        self.lengths = array("q")
        self.duplicates = 0
        self.problems = 0
        self.first_problems = list[str]()
        self.examples = list[str]()
        self.unused = Counter[str]()
        self.only_chat = Counter[str]()
        self._keys = set[int]()
        """Of the documents so far, by which copies are recognised."""
        self._length = 0
        """Characters of the current document so far."""
        self._wide = 0
        self._other = 0
        self._special_tokens = 0

    def add_problem(self, problem: Problem) -> None:
        self.problems += 1
        if len(self.first_problems) < LISTED_PROBLEMS:
            self.first_problems.append(str(problem))

    def add_pieces(self, pieces: list[str]) -> None:
        """Count a part of the current document."""
        for piece in pieces:
            self._length += len(piece)
            wide = 0
            if not piece.isascii():
                wide = sum(map(len, WIDE.findall(piece)))
            self._wide += wide
            if isinstance(piece, Special):
                self._special_tokens += 1
            else:
                self._other += len(piece) - wide

    def end_document(self, text: str, shape: str) -> None:
        """Count the current document; `text` is the first part of a very long one."""
        key = hash((text, self._length))
        if key in self._keys:
            self.duplicates += 1
        elif len(self.examples) < EXAMPLES:
            is_cut = self._length > EXAMPLE_CHARACTERS
            ellipsis = " …" if is_cut else ""
            self.examples.append(text[:EXAMPLE_CHARACTERS] + ellipsis)
        self._keys.add(key)
        self.shapes[shape] += 1
        self.lengths.append(self._length)
        self._length = 0

    def survey(self, path: Path, encoding: str) -> TextSurvey:
        """Return what was counted of the files at `path`."""
        paths = files.files_in(path)
        # Each document ends in a token of its own.
        special_tokens = self._special_tokens + len(self.lengths)
        bpe_tokens = self._wide * TOKENS_PER_WIDE + self._other * TOKENS_PER_OTHER
        return TextSurvey(
            path=path,
            files=len(paths),
            encodings=Counter(_encoding(file, encoding) for file in paths),
            shapes=self.shapes,
            documents=len(self.lengths),
            characters=sum(self.lengths),
            duplicates=self.duplicates,
            lengths=_percentiles(self.lengths),
            tokens_char=self._wide + self._other + special_tokens,
            tokens_bpe=round(bpe_tokens) + special_tokens,
            problems=self.problems,
            first_problems=tuple(self.first_problems),
            examples=tuple(self.examples),
            unused=dict(self.unused.most_common()),
            only_chat=dict(self.only_chat.most_common()),
        )


def _percentiles(lengths: array[int]) -> dict[str, int]:
    """Lengths by the names in PERCENTILES; `lengths` is not empty."""
    ordered = sorted(lengths)
    last = len(ordered) - 1
    return {name: ordered[round(share * last)] for name, share in PERCENTILES.items()}
