"""Inspect data before training on it, and fetch the starter packs."""

from __future__ import annotations

import re
from array import array
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from miaobi.core.errors import BadInput
from miaobi.core.language import say
from miaobi.data import packs
from miaobi.data.encoding import Problem, encoding_of
from miaobi.data.text import files
from miaobi.data.text.documents import Special

WIDE = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af\U00020000-\U0003ffff]+")
"""Scripts in which a byte-level BPE takes about a token for each character."""
TOKENS_PER_WIDE = 0.87
TOKENS_PER_OTHER = 0.25
"""Tokens for a character, in a vocabulary of 8,192 on Tang poems and on Shakespeare."""
LISTED_PROBLEMS = 20
EXAMPLES = 3
EXAMPLE_CHARACTERS = 200
PERCENTILES = {"min": 0, "p10": 0.1, "p50": 0.5, "p90": 0.9, "p99": 0.99, "max": 1}


@dataclass(frozen=True)
class Catalogue:
    """The starter packs."""

    packs: tuple[Mapping[str, Any], ...]

    def __str__(self) -> str:
        lines = list[str]()
        for row in self.packs:
            state = say("here", "已有")
            if not row["path"]:
                state = f"{row['megabytes']:.1f} MB, {row['client']}"
            lines.append(
                f"{row['name']:<18} {row['kind']:<6} {state:<14} {row['licence']}"
            )
            lines.append(f"{'':<18} {row['summary']}")
        remedy = say(
            "Fetch one with: miaobi data fetch NAME",
            "获取：miaobi data fetch 名称",
        )
        return "\n".join([*lines, "", remedy])


@dataclass(frozen=True)
class Fetched:
    """A starter pack that is here."""

    name: str
    path: Path
    licence: str
    credit: str

    def __str__(self) -> str:
        return say(
            f"{self.name} is at {self.path}\n  licence: {self.licence}\n  from:    {self.credit}",
            f"{self.name} 位于 {self.path}\n  许可：{self.licence}\n  来源：{self.credit}",
        )


@dataclass(frozen=True)
class Inspection:
    """The content of a file or folder of text."""

    path: Path
    files: int
    encodings: Mapping[str, int]
    """Files by encoding."""
    shapes: Mapping[str, int]
    """Documents by shape: plain, text, prompt, alpaca, sharegpt, messages."""
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

    def __str__(self) -> str:
        lengths = "  ".join(f"{name} {value:,}" for name, value in self.lengths.items())
        rows = {
            say("encoding", "编码"): _counts(self.encodings),
            say("shape", "格式"): _counts(self.shapes),
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
        lines = [
            *_table(self.path, rows),
            *_problem_lines(self.problems, self.first_problems),
        ]
        for number, example in enumerate(self.examples, 1):
            lines.append(say(f"  example {number}", f"  示例 {number}"))
            lines += [f"    {line}" for line in example.splitlines()]
        return "\n".join(lines)


@dataclass(frozen=True)
class PictureInspection:
    """The content of a folder, table or IDX file of pictures."""

    path: Path
    layout: str
    """How it is read: folder, pairs, tables or idx."""
    pictures: int
    """Those that can be used."""
    sizes: Mapping[str, int]
    """Pictures by width × height, the most frequent first."""
    kinds: Mapping[str, int]
    """Pictures by format and mode, such as "JPEG CMYK"."""
    classes: Mapping[str, int]
    """Pictures by class, in the order of their numbers."""
    splits: Mapping[str, int]
    """Pictures by the split that the source names."""
    captions: int
    """Pictures with a caption."""
    duplicates: int
    """Exact copies, the first of each not counted."""
    near_duplicates: int
    """Pictures that look like an earlier one: they go to the same split."""
    problems: int
    first_problems: tuple[str, ...]
    examples: tuple[str, ...]
    """Captions."""

    def __str__(self) -> str:
        rows = {
            say("layout", "结构"): self.layout,
            say("pictures", "图片"): say(
                f"{self.pictures:,} ({self.duplicates:,} exact and {self.near_duplicates:,} near duplicates)",
                f"{self.pictures:,}（完全重复 {self.duplicates:,}，近似重复 {self.near_duplicates:,}）",
            ),
            say("sizes", "尺寸"): _counts(self.sizes, 8),
            say("kinds", "格式"): _counts(self.kinds, 8),
            say("classes", "类别"): _counts(self.classes, 12) or say("none", "无"),
            say("splits", "划分"): _counts(self.splits) or say("none", "无"),
            say("captions", "说明"): f"{self.captions:,}",
            say("problems", "问题"): f"{self.problems:,}",
        }
        lines = [
            *_table(self.path, rows),
            *_problem_lines(self.problems, self.first_problems),
        ]
        for number, caption in enumerate(self.examples, 1):
            lines.append(
                say(f"  caption {number}      {caption}", f"  说明 {number}  {caption}")
            )
        return "\n".join(lines)


def list_packs() -> Catalogue:
    """List the starter packs: models and data that package clients fetch."""
    rows = list[Mapping[str, Any]]()
    for pack in packs.catalogue().values():
        is_here = packs.installed(pack.name)
        rows.append(
            {
                "name": pack.name,
                "kind": pack.kind,
                "summary": say(*pack.summary),
                "client": pack.client,
                "megabytes": pack.megabytes,
                "licence": pack.licence,
                "credit": pack.credit,
                "path": str(packs.path(pack.name, fetch=False)) if is_here else None,
            }
        )
    return Catalogue(tuple(rows))


def fetch(name: str) -> Fetched:
    """Fetch a starter pack, check it and unpack it under $MIAOBI_HOME/packs.

    A pack that is there already is not fetched again.

    Args:
        name: a name from `miaobi data list`
    """
    pack = packs.get(name)
    return Fetched(name, packs.path(name), pack.licence, pack.credit)


def inspect(
    path: Path,
    *,
    strict: bool = False,
    text_column: str | None = None,
    separator: str | None = None,
) -> Inspection | PictureInspection:
    """Read text or pictures as training would, and report their content and problems.

    Args:
        path: plain text, JSONL, JSON, CSV or Parquet, each also gzip; pictures as files, Parquet, Arrow or IDX;
            or a folder of these
        strict: stop with an error at the first problem
        text_column: the column or key that holds the text, or the caption
        separator: what separates the documents of a plain text file, such as \\n\\n
    """
    from miaobi.data.image.sources import kind_of

    path = path.expanduser()
    layout = kind_of(path) if path.exists() else None
    if layout is None:
        return _inspect_text(path, strict, text_column, separator)
    if separator is not None:
        raise BadInput(
            say(
                f"separator is for text; {path} holds pictures.",
                f"separator 只用于文本，而 {path} 中是图片。",
            ),
            say("Leave separator out.", "请去掉 separator。"),
        )
    return _inspect_pictures(path, layout, strict, text_column or "")


def _inspect_pictures(
    path: Path, layout: str, strict: bool, caption_column: str
) -> PictureInspection:
    from miaobi.data.image.packing import plan
    from miaobi.data.image.prepared import Config
    from miaobi.data.image.sources import pictures
    from miaobi.data.image.survey import Survey
    from miaobi.data.progress import bar

    config = Config(
        path=str(path), source=layout, strict=strict, caption_column=caption_column
    )
    survey = Survey(config, None)
    with bar() as show:

        def show_count(count: int) -> None:
            label = say(f"Reading: {count:,} pictures", f"读取：{count:,} 张")
            show(label, 0, 0)

        survey.run(pictures(config, survey.report), show_count)
    rows = survey.rows
    duplicates = {"duplicates": 0, "near_duplicates": 0}
    if rows:
        duplicates = plan(rows, config)[1]
    labels = Counter(row.label for row in rows)
    captions = [row.caption for row in rows if row.caption]
    sizes = {
        f"{width}×{height}": count
        for (width, height), count in survey.sizes.most_common()
    }
    return PictureInspection(
        path=path,
        layout=layout,
        pictures=len(rows),
        sizes=sizes,
        kinds=dict(survey.kinds.most_common()),
        classes={name: labels[name] for name in survey.classes},
        splits=dict(Counter(row.split for row in rows if row.split)),
        captions=len(captions),
        duplicates=duplicates["duplicates"],
        near_duplicates=duplicates["near_duplicates"],
        problems=survey.problems,
        first_problems=tuple(survey.first_problems),
        examples=tuple(captions[:EXAMPLES]),
    )


def _inspect_text(
    path: Path, strict: bool, text_column: str | None, separator: str | None
) -> Inspection:
    tally = _Tally()
    documents = files.read(
        path,
        text_column=text_column,
        separator=separator and separator.replace("\\n", "\n"),
        strict=strict,
        report=tally.add_problem,
    )
    text = ""
    for document in documents:
        tally.add_pieces(document.pieces())
        if len(text) < files.PART:
            text += document.training_text()
        if not document.continues:
            tally.end_document(text, document.meta["shape"])
            text = ""
    sources = files.files_in(path)
    encodings = Counter(_encoding(file) for file in sources)
    return tally.inspection(path, len(sources), encodings)


def _encoding(file: Path) -> str:
    if files.format_of(file) == "parquet":
        return "Parquet"
    return encoding_of(file).upper()


class _Tally:
    """What an inspection counts, document by document."""

    def __init__(self) -> None:
        self.shapes = Counter[str]()
        self.lengths = array("q")
        self.duplicates = 0
        self.problems = 0
        self.first_problems = list[str]()
        self.examples = list[str]()
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
            self.examples.append(text[:EXAMPLE_CHARACTERS] + (" …" if is_cut else ""))
        self._keys.add(key)
        self.shapes[shape] += 1
        self.lengths.append(self._length)
        self._length = 0

    def inspection(
        self, path: Path, file_count: int, encodings: Mapping[str, int]
    ) -> Inspection:
        lengths = sorted(self.lengths)
        last = len(lengths) - 1
        # Each document ends in a token of its own.
        special_tokens = self._special_tokens + len(lengths)
        bpe_tokens = self._wide * TOKENS_PER_WIDE + self._other * TOKENS_PER_OTHER
        return Inspection(
            path=path,
            files=file_count,
            encodings=encodings,
            shapes=self.shapes,
            documents=len(lengths),
            characters=sum(lengths),
            duplicates=self.duplicates,
            lengths={
                name: lengths[round(share * last)]
                for name, share in PERCENTILES.items()
            },
            tokens_char=self._wide + self._other + special_tokens,
            tokens_bpe=round(bpe_tokens) + special_tokens,
            problems=self.problems,
            first_problems=tuple(self.first_problems),
            examples=tuple(self.examples),
        )


def _table(path: Path, rows: Mapping[str, str]) -> list[str]:
    return [f"{path}", *(f"  {name:<14} {value}" for name, value in rows.items())]


def _counts(counts: Mapping[str, int], limit: int = 99) -> str:
    """Return at most `limit` names with their counts; a single name of one thing alone."""
    texts = [
        f"{name} ({count:,})" if len(counts) > 1 or count > 1 else name
        for name, count in counts.items()
    ]
    if len(texts) > limit:
        texts = [*texts[:limit], "…"]
    return ", ".join(texts)


def _problem_lines(count: int, first: tuple[str, ...]) -> list[str]:
    lines = [f"    {problem}" for problem in first]
    if count > len(first):
        more = count - len(first)
        lines.append(say(f"    … and {more:,} more", f"    …… 另有 {more:,} 处"))
    return lines
