"""Vectors of a file of texts: `miaobi embed --model e5-small texts.jsonl --out
vectors.parquet`.

The ending of --out says what is written:

    .parquet   columns row, text and vector (float32); the model in the file's metadata
    .jsonl     {"row", "text", "vector"} a line
    .npy       float32 [texts, D], in the order of the texts
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import numpy as np
from pydantic import Field

from miaobi.core import storage
from miaobi.core.artifacts import Embedding
from miaobi.core.errors import BadInput, Unsupported
from miaobi.core.files import write_beside
from miaobi.core.language import say
from miaobi.core.requests import EmbeddingRequest, command_for
from miaobi.core.storage import Location
from miaobi.data.encoding import (
    Problem,
    Report,
    encoding_option,
    numbered_lines,
    raise_problem,
)
from miaobi.data.progress import Bar, bar
from miaobi.data.text.files import files_in, format_of, records
from miaobi.data.text.shapes import Unusable, to_document
from miaobi.engines.load import load
from miaobi.engines.model import Model

BLOCK = 1024
"""Texts of one request; they are sorted by length among themselves."""
EXAMPLE = '{"text": "..."}'
InputType = Literal["", "query", "passage"]
TooLong = Literal["truncate", "split", "error"]


class Text(NamedTuple):
    """A text, and where it stands in its file."""

    row: int
    """From 1; the line of a text file."""
    text: str


@dataclass(frozen=True)
class Embedded:
    """What was written."""

    out: Path
    model: str
    texts: int
    dimensions: int
    tokens: int
    truncated: int
    """Texts that lost their end."""
    skipped: int
    """Records without a text, with --strict false."""
    seconds: float

    def __str__(self) -> str:
        speed = self.texts / self.seconds
        sentences = [
            say(
                f"{self.out}: {self.texts} vectors of {self.dimensions} numbers, in "
                f"{self.seconds:.1f} s ({speed:.0f} texts/s)",
                f"{self.out}：{self.texts} 个 {self.dimensions} 维向量，用时 "
                f"{self.seconds:.1f} 秒（每秒 {speed:.0f} 段文本）",
            )
        ]
        if self.truncated:
            sentences.append(
                say(
                    f"  {self.truncated} texts were longer than the model holds and lost their end; "
                    "--too-long split reads them whole",
                    f"  有 {self.truncated} 段文本超出模型长度，结尾被截断；--too-long split 可读取全文",
                )
            )
        if self.skipped:
            sentences.append(
                say(
                    f"  {self.skipped} records without a text were left out",
                    f"  略去 {self.skipped} 条没有文本的记录",
                )
            )
        return "\n".join(sentences)


def embed(
    data: str,
    *,
    model: str,
    out: Path,
    column: str | None = None,
    input_type: InputType = "",
    too_long: TooLong = "truncate",
    strict: bool = True,
    encoding: str = "",
    threads: Annotated[int, Field(ge=1)] | None = None,
    dtype: Literal["float32", "bfloat16"] = "float32",
) -> Embedded:
    """Make a vector of each text of a file, each of length one, so that their products
    are cosines.

    Args:
        data: JSONL, JSON, CSV, Parquet, or plain text with a text on each line; or a
            folder of such files.
        model: A packaged encoder (e5-small, or e5-small:en+zh with a smaller vocabulary;
            use-multilingual), a model tuned for embedding, or a Transformers folder of an
            encoder.
        out: The file to write, .parquet, .jsonl or .npy; it appears when all is there.
        column: The column or key that holds the text, where the names do not show it.
        input_type: What the texts are, for models that were trained with words before them
            (e5-small): what is searched for (query), or what is found (passage, unless
            given). A text that begins with such words stays as it is.
        too_long: What becomes of a text that is longer than the model holds: cut at its
            end, cut into pieces whose vectors are averaged, or refused.
        strict: Stop at the first record without a text; otherwise leave it out.
        encoding: Of the file, where it is not UTF-8 and it cannot be told.
        threads: Of the processor.
        dtype: What is computed in; bfloat16 is quicker where the processor has it.
    """
    open_writer = _writer_of(out)
    skipped = list[Problem]()
    report = raise_problem if strict else skipped.append
    with encoding_option("--encoding"):
        # Read twice: what is wrong with the file is said before the work begins.
        total = sum(1 for _ in texts(data, column, encoding, report))
    if not total:
        raise _no_text(data)
    source = texts(data, column, encoding, ignore)
    options = {} if threads is None else {"threads": threads}
    with _opened(model, dtype=dtype, **options) as opened, bar() as progress:
        began = time.monotonic()
        encoder = Encoder(opened, input_type, too_long, total, progress)
        facts = {
            "model": opened.weights.label,
            "input_type": input_type,
            "too_long": too_long,
        }
        with write_beside(out) as draft, open_writer(draft, facts) as write:
            while block := list(islice(source, BLOCK)):
                write(block, encoder.vectors(block))
    return Embedded(
        out=out,
        model=opened.weights.label,
        texts=encoder.done,
        dimensions=encoder.dimensions,
        tokens=encoder.tokens,
        truncated=encoder.truncated,
        skipped=len(skipped),
        seconds=time.monotonic() - began,
    )


def ignore(problem: Problem) -> None:
    """Pass over a problem that was reported before."""


class Encoder:
    """Makes vectors block by block, and counts."""

    def __init__(
        self,
        model: Model,
        input_type: InputType,
        too_long: TooLong,
        total: int,
        progress: Bar,
    ) -> None:
        self._model = model
        self._input_type = input_type
        self._too_long = too_long
        self._total = total
        self._progress = progress
        self.done = 0
        self.tokens = 0
        self.truncated = 0
        self.dimensions = 0

    def vectors(self, block: list[Text]) -> np.ndarray:
        """Return the vectors of a block, float32 [texts, D]."""
        request = EmbeddingRequest(
            texts=tuple(text.text for text in block),
            input_type=self._input_type,
            too_long=self._too_long,
        )
        embedding: Embedding | None = None
        for chunk in self._model.stream(request):
            self.tokens += chunk.prompt_tokens
            done = self.done + (chunk.progress or 0) * len(block)
            self._progress(say("texts", "文本"), done, self._total)
            if isinstance(chunk.artifact, Embedding):
                embedding = chunk.artifact
        assert embedding is not None, "the last chunk has the vectors"
        self.done += len(block)
        self.truncated += embedding.facts.parameters.get("truncated", 0)
        self.dimensions = embedding.vectors.shape[1]
        return embedding.vectors


def _no_text(data: str) -> BadInput:
    return BadInput(
        say(f"{data} holds no text.", f"{data} 中没有文本。"),
        say(
            f"Give a file with a text on each line, or records such as {EXAMPLE}",
            f"请给出每行一段文本的文件，或这样的记录：{EXAMPLE}",
        ),
    )


def texts(
    path: str, column: str | None, encoding: str, report: Report
) -> Iterator[Text]:
    """Yield the texts of a file, or of every file in a folder in the order of names.

    Reports what cannot be read, and records without a text; blank lines of plain text
    are passed over. Raises NotFound, Damaged.
    """
    for file in files_in(storage.location(path)):
        if format_of(file, encoding) != "text":
            yield from _of_records(file, column, encoding, report)
            continue
        if column is not None:
            raise BadInput(
                say(
                    f"{file} is plain text; it has no column {column!r}.",
                    f"{file} 是纯文本，没有名为 {column!r} 的列。",
                ),
                say("Leave --column out.", "请去掉 --column。"),
            )
        for row, text in numbered_lines(file, report, encoding=encoding):
            if text.strip():
                yield Text(row, text.strip())


def _of_records(
    file: Location, column: str | None, encoding: str, report: Report
) -> Iterator[Text]:
    for row, record in records(file, report, encoding):
        try:
            text = _text_of(record, column)
        except Unusable as error:
            report(Problem(file, row, error.what, error.remedy))
            continue
        yield Text(row, text)


def _text_of(record: Any, column: str | None) -> str:
    """Return the text of a record. Raises Unusable where there is none, or a dialogue."""
    document = to_document(record, column, {})
    if document.messages or document.prompt:
        raise Unusable(
            say(
                "the record holds a dialogue, not one text.",
                "记录是一段对话，而不是一段文本。",
            ),
            say("Name the column with --column.", "请用 --column 指明列。"),
        )
    text = document.text.strip()
    if not text:
        raise Unusable(
            say("the text is empty.", "文本为空。"),
            say(
                "Fill it in, or leave such records out with --strict false.",
                "请补全，或用 --strict false 略去这样的记录。",
            ),
        )
    return text


@contextmanager
def _opened(name: str, **options: Any) -> Iterator[Model]:
    """Open a model that makes vectors. Raises Unsupported for one that does not."""
    from miaobi.engines import engines
    from miaobi.models.weights import find

    weights = find(name)
    module = engines.get("embedding")
    if weights.format not in module.FORMATS or not module.reads(weights):
        raise Unsupported(
            say(
                f"{name} makes {weights.modality}, not vectors.",
                f"{name} 生成 {weights.modality}，不能生成向量。",
            ),
            say(
                f"Use --model e5-small, or ask it so: {command_for(weights.modality, name)}",
                f"请用 --model e5-small，或这样使用它：{command_for(weights.modality, name)}",
            ),
        )
    with load(weights, engine="embedding", **options) as model:
        yield model


Write = Callable[[list[Text], np.ndarray], None]
OpenWriter = Callable[[Path, Mapping[str, str]], AbstractContextManager[Write]]


@contextmanager
def _parquet(draft: Path, facts: Mapping[str, str]) -> Iterator[Write]:
    import pyarrow
    from pyarrow import parquet

    writers = list[parquet.ParquetWriter]()

    def write(block: list[Text], vectors: np.ndarray) -> None:
        size = vectors.shape[1]
        values = pyarrow.array(vectors.ravel(), pyarrow.float32())
        columns = {
            "row": pyarrow.array([text.row for text in block], pyarrow.int64()),
            "text": pyarrow.array([text.text for text in block], pyarrow.string()),
            "vector": pyarrow.FixedSizeListArray.from_arrays(values, size),
        }
        table = pyarrow.table(columns, metadata=dict(facts))
        if not writers:
            writers.append(parquet.ParquetWriter(draft, table.schema))
        writers[0].write_table(table)

    try:
        yield write
    finally:
        for writer in writers:
            writer.close()


@contextmanager
def _jsonl(draft: Path, facts: Mapping[str, str]) -> Iterator[Write]:
    with draft.open("w", encoding="utf-8") as file:

        def write(block: list[Text], vectors: np.ndarray) -> None:
            for text, vector in zip(block, vectors.tolist(), strict=True):
                record = {**text._asdict(), "vector": vector}
                file.write(json.dumps(record, ensure_ascii=False) + "\n")

        yield write


@contextmanager
def _npy(draft: Path, facts: Mapping[str, str]) -> Iterator[Write]:
    blocks = list[np.ndarray]()
    yield lambda block, vectors: blocks.append(vectors)
    with draft.open("wb") as file:
        np.save(file, np.concatenate(blocks))


WRITERS: Mapping[str, OpenWriter] = {
    ".parquet": _parquet,
    ".jsonl": _jsonl,
    ".npy": _npy,
}


def _writer_of(out: Path) -> OpenWriter:
    """Return what writes a file with this ending. Raises BadInput for another one."""
    if out.suffix.lower() in WRITERS:
        return WRITERS[out.suffix.lower()]
    raise BadInput(
        say(
            f"--out {out} has no known ending.",
            f"--out {out} 的扩展名无法识别。",
        ),
        say(f"Choose one of {', '.join(WRITERS)}.", f"请选用 {'、'.join(WRITERS)}。"),
    )
