"""Looking at data before training on it, and fetching the starter packs."""

from __future__ import annotations

import re
from array import array
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from miaobi.core.errors import BadInput
from miaobi.core.language import language, say
from miaobi.data import packs
from miaobi.data.encoding import Problem, encoding_of
from miaobi.data.text import files
from miaobi.data.text.documents import Special

WIDE = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af\U00020000-\U0003ffff]+")
"""Scripts in which a byte-level BPE takes about a token for each character."""
TOKENS_PER_WIDE, TOKENS_PER_OTHER = 0.87, 0.25
"""Measured with a vocabulary of 8,192 on Tang poems and on Shakespeare."""
SHOWN = 20


@dataclass(frozen=True)
class Catalogue:
    packs: tuple[Mapping[str, Any], ...]

    def __str__(self) -> str:
        lines = list[str]()
        for row in self.packs:
            here = (
                say("here", "已有")
                if row["path"]
                else f"{row['megabytes']:.1f} MB, {row['client']}"
            )
            lines += [
                f"{row['name']:<18} {row['kind']:<6} {here:<14} {row['licence']}",
                f"{'':<18} {row['summary']}",
            ]
        return "\n".join(
            [
                *lines,
                "",
                say(
                    "Fetch one with: miaobi data fetch NAME",
                    "获取：miaobi data fetch 名称",
                ),
            ]
        )


@dataclass(frozen=True)
class Fetched:
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
    """What a file or folder of text holds."""

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
        rows = {
            say("encoding", "编码"): _counted(self.encodings),
            say("shape", "格式"): _counted(self.shapes),
            say("documents", "文档"): say(
                f"{self.documents:,} ({self.duplicates:,} of them exact duplicates)",
                f"{self.documents:,}（其中完全重复 {self.duplicates:,}）",
            ),
            say("characters", "字符"): f"{self.characters:,}",
            say("lengths", "长度"): "  ".join(
                f"{name} {value:,}" for name, value in self.lengths.items()
            ),
            say("tokens, about", "词元约"): say(
                f"{self.tokens_char:,} as characters, {self.tokens_bpe:,} as byte-level BPE of 8,192",
                f"按字 {self.tokens_char:,}，按字节级 BPE（8,192）{self.tokens_bpe:,}",
            ),
            say("problems", "问题"): f"{self.problems:,}",
        }
        lines = [
            f"{self.path}",
            *(f"  {name:<14} {value}" for name, value in rows.items()),
        ]
        lines += _listed(self.problems, self.first_problems)
        for place, example in enumerate(self.examples, 1):
            lines += [
                say(f"  example {place}", f"  示例 {place}"),
                *(f"    {line}" for line in example.splitlines()),
            ]
        return "\n".join(lines)


@dataclass(frozen=True)
class PictureInspection:
    """What a folder, table or IDX file of pictures holds."""

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
    """Exact copies beside the first."""
    near_duplicates: int
    """Pictures that look like an earlier one: kept on its side of the split."""
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
            say("sizes", "尺寸"): _counted(self.sizes, 8),
            say("kinds", "格式"): _counted(self.kinds, 8),
            say("classes", "类别"): _counted(self.classes, 12) or say("none", "无"),
            say("splits", "划分"): _counted(self.splits) or say("none", "无"),
            say("captions", "说明"): f"{self.captions:,}",
            say("problems", "问题"): f"{self.problems:,}",
        }
        lines = [
            f"{self.path}",
            *(f"  {name:<14} {value}" for name, value in rows.items()),
            *_listed(self.problems, self.first_problems),
        ]
        return "\n".join(
            [
                *lines,
                *(
                    say(f"  caption {place}      {text}", f"  说明 {place}  {text}")
                    for place, text in enumerate(self.examples, 1)
                ),
            ]
        )


def list_packs() -> Catalogue:
    """The starter packs: models and data that ordinary package clients bring."""
    return Catalogue(
        tuple(
            {
                "name": pack.name,
                "kind": pack.kind,
                "summary": pack.summary[language() == "zh"],
                "client": pack.client,
                "megabytes": pack.megabytes,
                "licence": pack.licence,
                "credit": pack.credit,
                "path": str(packs.path(pack.name, fetch=False))
                if packs.installed(pack.name)
                else None,
            }
            for pack in packs.catalogue().values()
        )
    )


def fetch(name: str) -> Fetched:
    """Fetch a starter pack, check it and unpack it under $MIAOBI_HOME/packs. At once
    when it is there already.

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
    """Read text or pictures as training would, and say what is in them and what is wrong with them.

    Args:
        path: plain text, JSONL, JSON, CSV or Parquet, each also gzip; pictures as files, Parquet, Arrow or IDX; or a folder of these
        strict: stop with an error at the first problem
        text_column: the column or key that holds the text, or the caption
        separator: what stands between the documents of a plain text file, such as \\n\\n
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
    with bar() as shown:
        survey.run(
            pictures(config, survey.report),
            lambda count: shown(
                say(f"Reading: {count:,} pictures", f"读取：{count:,} 张"), 0, 0
            ),
        )
    rows = survey.rows
    found = plan(rows, config)[1] if rows else {"duplicates": 0, "near_duplicates": 0}
    labels = Counter(row.label for row in rows)
    captions = [row.caption for row in rows if row.caption]
    return PictureInspection(
        path=path,
        layout=layout,
        pictures=len(rows),
        sizes={
            f"{width}×{height}": count
            for (width, height), count in survey.sizes.most_common()
        },
        kinds=dict(survey.kinds.most_common()),
        classes={name: labels[name] for name in survey.classes},
        splits=dict(Counter(row.split for row in rows if row.split)),
        captions=len(captions),
        duplicates=found["duplicates"],
        near_duplicates=found["near_duplicates"],
        problems=survey.problems,
        first_problems=tuple(survey.first_problems),
        examples=tuple(captions[:3]),
    )


def _inspect_text(
    path: Path, strict: bool, text_column: str | None, separator: str | None
) -> Inspection:
    found = _Tally()
    documents = files.read(
        path,
        text_column=text_column,
        separator=separator and separator.replace("\\n", "\n"),
        strict=strict,
        report=found.problem,
    )
    text = ""
    for document in documents:
        found.count(document.pieces())
        text += document.training_text() if len(text) < files.PART else ""
        if not document.continues:
            found.document(text, document.meta["shape"])
            text = ""
    sources = files.files_in(path)
    encodings = Counter(
        "Parquet" if files.format_of(file) == "parquet" else encoding_of(file).upper()
        for file in sources
    )
    return found.inspection(path, len(sources), encodings)


class _Tally:
    """What an inspection counts as documents go by."""

    def __init__(self) -> None:
        self.shapes, self.seen, self.lengths = Counter[str](), set[int](), array("q")
        self.problems, self.first_problems, self.examples = 0, list[str](), list[str]()
        self.length = self.wide = self.other = self.special = self.duplicates = 0

    def problem(self, problem: Problem) -> None:
        self.problems += 1
        if len(self.first_problems) < SHOWN:
            self.first_problems.append(str(problem))

    def count(self, pieces: list[str]) -> None:
        for piece in pieces:
            wide = 0 if piece.isascii() else sum(map(len, WIDE.findall(piece)))
            self.length += len(piece)
            self.special += isinstance(piece, Special)
            self.wide += wide
            self.other += 0 if isinstance(piece, Special) else len(piece) - wide

    def document(self, start: str, shape: str) -> None:
        """`start`: the text, or the first part of a very long one."""
        key = hash((start, self.length))
        repeated = key in self.seen
        self.duplicates += repeated
        self.seen.add(key)
        self.shapes[shape] += 1
        self.lengths.append(self.length)
        if len(self.examples) < 3 and not repeated:
            self.examples.append(start[:200] + (" …" if self.length > 200 else ""))
        self.length = 0

    def inspection(
        self, path: Path, count: int, encodings: Mapping[str, int]
    ) -> Inspection:
        lengths = sorted(self.lengths)
        places = {"min": 0, "p10": 0.1, "p50": 0.5, "p90": 0.9, "p99": 0.99, "max": 1}
        extra = self.special + len(lengths)  # each document ends in a token of its own
        return Inspection(
            path=path,
            files=count,
            encodings=encodings,
            shapes=self.shapes,
            documents=len(lengths),
            characters=sum(lengths),
            duplicates=self.duplicates,
            lengths={
                name: lengths[round(place * (len(lengths) - 1))]
                for name, place in places.items()
            },
            tokens_char=self.wide + self.other + extra,
            tokens_bpe=round(
                self.wide * TOKENS_PER_WIDE + self.other * TOKENS_PER_OTHER
            )
            + extra,
            problems=self.problems,
            first_problems=tuple(self.first_problems),
            examples=tuple(self.examples),
        )


def _counted(counts: Mapping[str, int], most: int = 99) -> str:
    shown = [
        f"{name} ({count:,})" if len(counts) > 1 or count > 1 else name
        for name, count in counts.items()
    ]
    return ", ".join(shown[:most] + ["…"] * (len(shown) > most))


def _listed(count: int, first: tuple[str, ...]) -> list[str]:
    """The first problems, a line each."""
    lines = [f"    {problem}" for problem in first]
    if count > len(first):
        lines.append(
            say(
                f"    … and {count - len(first):,} more",
                f"    …… 另有 {count - len(first):,} 处",
            )
        )
    return lines
