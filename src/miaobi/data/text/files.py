"""The `files` source: text from a person's own files. Plain text, JSONL, JSON, CSV,
Parquet, each also gzip, or a folder of them.

Formats and shapes are told by content where the name leaves a doubt. Nothing is read
whole into memory but single records; a plain text file larger than PART characters
passes through in parts.
"""

from __future__ import annotations

import csv
import gzip
import itertools
import json
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from miaobi.core.errors import BadInput, Damaged, NotFound, nearest
from miaobi.core.language import say
from miaobi.data.encoding import (
    MARKS,
    Problem,
    Report,
    numbered_lines,
    open_bytes,
    raise_problem,
)
from miaobi.data.text.documents import Document
from miaobi.data.text.shapes import Unusable, to_document

PART = 1 << 20
READ = 1 << 16
FORMATS = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "json",
    ".csv": "csv",
    ".tsv": "csv",
    ".parquet": "parquet",
    ".txt": "text",
    ".text": "text",
    ".md": "text",
}


def read(
    path: Path | str,
    *,
    text_column: str | None = None,
    separator: str | None = None,
    strict: bool = True,
    report: Report = raise_problem,
) -> Iterator[Document]:
    """The documents of a file, or of every text file in a folder, in the order of their names.

    Args:
        path: A file or a folder.
        text_column: The column or key that holds the text, where it cannot be told from the names.
        separator: What stands between the documents of a plain text file ("\\n\\n" for
            a blank line). Without it
            the whole file is one document, as a novel is.
        strict: Raise at the first problem. Otherwise the rest is kept and each problem
            goes to `report`.
        report: Called with each Problem when not strict.

    Raises NotFound, BadInput with file and line, Damaged for a cut-off gzip or Parquet file.
    """
    path, found, problems = Path(path).expanduser(), False, list[Problem]()

    def keep(problem: Problem) -> None:
        problems[:] = problems or [problem]
        report(problem)

    for file in files_in(path):
        for document in read_file(
            file,
            text_column=text_column,
            separator=separator,
            report=raise_problem if strict else keep,
        ):
            found = True
            yield document
    if problems and not found:
        raise problems[0].error()
    if not found:
        raise BadInput(
            say(f"{path} holds no text.", f"{path} 中没有文本。"),
            say("Choose a file with something to learn from.", "请选择有内容的文件。"),
        )


def files_in(path: Path) -> list[Path]:
    """The file itself, or the text files of a folder and its folders, sorted. Raises
    NotFound with the nearest names.
    """
    if path.is_dir():
        files = sorted(
            file
            for file in path.rglob("*")
            if file.is_file()
            and _suffix(file) in FORMATS
            and not any(part.startswith(".") for part in file.relative_to(path).parts)
        )
        if not files:
            raise NotFound(
                say(
                    f"The folder {path} has no text files.",
                    f"文件夹 {path} 中没有文本文件。",
                ),
                say(
                    f"Known endings: {', '.join(FORMATS)}, each also .gz.",
                    f"可用的扩展名：{'、'.join(FORMATS)}，也可为 .gz。",
                ),
            )
        return files
    if not path.exists():
        siblings = (
            [item.name for item in path.parent.iterdir()]
            if path.parent.is_dir()
            else []
        )
        raise NotFound(
            say(f"There is no file {path}.", f"文件 {path} 不存在。"),
            nearest(path.name, siblings) or say("Check the path.", "请检查路径。"),
        )
    return [path]


def read_file(
    path: Path,
    *,
    text_column: str | None = None,
    separator: str | None = None,
    report: Report = raise_problem,
) -> Iterator[Document]:
    """The documents of one file."""
    kind = format_of(path)
    if kind == "text":
        if text_column is not None:
            raise BadInput(
                say(
                    f"{path} is plain text; it has no column {text_column!r}.",
                    f"{path} 是纯文本，没有名为 {text_column!r} 的列。",
                ),
                say("Leave text_column out.", "请去掉 text_column。"),
            )
        yield from _plain(path, separator, report)
        return
    for line, record in records(path, report):
        try:
            document = to_document(
                record, text_column, {"file": str(path), "line": line}
            )
        except Unusable as error:
            report(Problem(path, line, error.what, error.remedy))
            continue
        if document.training_text().strip():
            yield document


def records(path: Path, report: Report = raise_problem) -> Iterator[tuple[int, Any]]:
    """(line, or row for Parquet; record as written) of a file that is not plain text."""
    readers = {"jsonl": json_lines, "json": _json, "csv": csv_rows, "parquet": _parquet}
    kind = format_of(path)
    if kind not in readers:
        raise BadInput(
            say(
                f"{path} is plain text, which has no columns.",
                f"{path} 是纯文本，没有列。",
            ),
            say(
                "Give JSONL, JSON, CSV or Parquet.",
                "请提供 JSONL、JSON、CSV 或 Parquet。",
            ),
        )
    yield from readers[kind](path, report)


def format_of(path: Path) -> str:
    """ "text", "jsonl", "json", "csv" or "parquet". Raises NotFound, Damaged for a gzip
    file cut short at its start.
    """
    with open_bytes(path) as file:
        start = file.read(READ)
    if start.startswith(b"PAR1"):
        return "parquet"
    if b"\0" in start and not any(start.startswith(mark) for mark, _ in MARKS):
        raise BadInput(
            say(
                f"{path} is not text: it holds zero bytes.",
                f"{path} 不是文本：其中含有零字节。",
            ),
            say(
                "Export it as plain text, JSONL, CSV or Parquet first.",
                "请先导出为纯文本、JSONL、CSV 或 Parquet。",
            ),
        )
    kind = FORMATS.get(_suffix(path), "text")
    first = start.lstrip(b"\xef\xbb\xbf \t\r\n")
    if (
        kind == "json"
        and first.startswith(b"{")
        and _is_json(first.split(b"\n", 1)[0])
        and b"\n{" in first
    ):
        return "jsonl"  # JSON lines under the wrong name, as many tools write them
    if (
        kind == "jsonl"
        and first.startswith(b"[")
        and not _is_json(first.split(b"\n", 1)[0])
    ):
        return "json"
    if (
        _suffix(path) not in FORMATS
        and first.startswith(b"{")
        and _is_json(first.split(b"\n", 1)[0])
    ):
        return "jsonl"
    return kind


def _suffix(path: Path) -> str:
    """The ending that tells the format, behind .gz."""
    path = path.with_suffix("") if path.suffix.lower() == ".gz" else path
    return path.suffix.lower()


def _is_json(raw: bytes) -> bool:
    try:
        json.loads(raw)
    except (ValueError, RecursionError):
        return False
    return True


def _plain(path: Path, separator: str | None, report: Report) -> Iterator[Document]:
    """A text file as one document, in parts cut at line ends, or as the documents
    between separators.
    """
    texts = _split(path, separator, report) if separator else _parts(path, report)
    for line, text, continues in texts:
        yield Document(
            text,
            meta={"file": str(path), "line": line, "shape": "plain"},
            continues=continues,
        )


def _parts(path: Path, report: Report) -> Iterator[tuple[int, str, bool]]:
    """(first line, text, whether more follows): every part but the last holds at least
    PART characters.
    """
    held, size, first, began = list[str](), 0, 1, False
    for number, line in numbered_lines(path, report, limit=PART):
        if size >= PART:
            yield first, "".join(held), True
            held, size, began = [], 0, True
        if not held:
            first = number
        held.append(line)
        size += len(line)
    text = "".join(held)
    if began or text.strip():
        yield first, text, False


def _split(
    path: Path, separator: str, report: Report
) -> Iterator[tuple[int, str, bool]]:
    """The non-empty texts between separators, without the line ends around them."""
    held, first = "", 1
    for number, line in numbered_lines(path, report):
        if not held or held.isspace():
            first = number
        start = max(0, len(held) - len(separator) + 1)
        held += line
        while (at := held.find(separator, start)) >= 0:
            text, held, start = held[:at], held[at + len(separator) :], 0
            if text.strip():
                yield first, text.strip("\n"), False
            first = number
    if held.strip():
        yield first, held.strip("\n"), False


def json_lines(path: Path, report: Report) -> Iterator[tuple[int, Any]]:
    for number, line in numbered_lines(path, report):
        if not line.strip():
            continue
        try:
            yield number, json.loads(line)
        except (ValueError, RecursionError) as error:
            report(_broken(path, number, line, error))


def _broken(path: Path, number: int, text: str, error: Exception) -> Problem:
    reason = error.msg if isinstance(error, json.JSONDecodeError) else str(error)
    return Problem(
        path,
        number,
        say(
            f"not valid JSON ({reason}): {text.strip()[:60]!r}.",
            f"不是有效的 JSON（{reason}）：{text.strip()[:60]!r}。",
        ),
        say(
            "Mend that line, or keep the rest with strict=false.",
            "请修正该行，或用 strict=false 保留其余部分。",
        ),
    )


def _json(path: Path, report: Report) -> Iterator[tuple[int, Any]]:
    """The items of a JSON array, one at a time; or of the only list in an object
    ({"data": [...]}); or the object itself.
    """
    pieces = numbered_lines(path, report, limit=READ)
    number, start = next(
        ((number, piece) for number, piece in pieces if piece.strip()), (0, "")
    )
    if start.lstrip().startswith("["):
        yield from _array(
            path, itertools.chain([(number, start.lstrip()[1:])], pieces), report
        )
    elif start:
        text = start + "".join(piece for _, piece in pieces)
        try:
            whole = json.loads(text)
        except json.JSONDecodeError as error:
            report(_broken(path, number - 1 + error.lineno, text[error.pos :], error))
            return
        except RecursionError as error:
            report(_broken(path, number, text, error))
            return
        yield from ((number, record) for record in _records(whole))


def _records(whole: Any) -> list[Any]:
    """{"version": 1, "data": [{...}, ...]} holds many records; a conversation, whose
    turns are a list too, is one.
    """
    if (
        not isinstance(whole, dict)
        or {"messages", "conversations", "conversation"} & whole.keys()
    ):
        return [whole]
    lists = [
        value
        for value in whole.values()
        if isinstance(value, list) and value and isinstance(value[0], dict)
    ]
    return lists[0] if len(lists) == 1 else [whole]


def _array(
    path: Path, pieces: Iterator[tuple[int, str]], report: Report
) -> Iterator[tuple[int, Any]]:
    """Items of an array whose "[" was taken off. A broken item ends the reading:
    nothing tells where the next one starts.
    """
    decoder, gap, held, number, needed = (
        json.JSONDecoder(),
        re.compile(r"[\s,]*"),
        "",
        0,
        0,
    )
    fault: Exception | None = None
    for at, piece in itertools.chain(pieces, [(0, "")]):
        if not held:
            number = at or number
        held += piece
        while len(held) >= needed or not at:
            skipped = gap.match(held).end()  # type: ignore[union-attr]
            number, held = number + held.count("\n", 0, skipped), held[skipped:]
            if held.startswith("]"):
                return
            try:
                item, end = decoder.raw_decode(held)
            except (json.JSONDecodeError, RecursionError) as error:
                fault = error
                if (
                    isinstance(error, json.JSONDecodeError)
                    and error.pos < len(held) - 16
                    and "Unterminated" not in error.msg
                ):
                    at = 0  # broken here, not merely cut by the end of the piece
                # A huge item is not tried again at every piece, only when twice as much
                # has come.
                needed = 2 * len(held) if len(held) > READ else 0
                break
            yield number, item
            number, held, needed = number + held.count("\n", 0, end), held[end:], 0
        if not at:
            break
    if held and fault:
        report(_broken(path, number, held, fault))
    else:
        report(
            Problem(
                path,
                number,
                say(
                    "the list is cut off: its closing ] is missing.",
                    "列表被截断：缺少结尾的 ]。",
                ),
                say(
                    "Copy the file again, or keep what could be read with strict=false.",
                    "请重新复制文件，或用 strict=false 保留已读部分。",
                ),
            )
        )


def csv_rows(path: Path, report: Report) -> Iterator[tuple[int, dict[str, str]]]:
    """Rows under a header line. Comma, semicolon or tab, whichever the header has most of."""
    csv.field_size_limit(1 << 30)
    at = 0

    def lines() -> Iterator[str]:
        nonlocal at
        for at, line in numbered_lines(path, report):  # noqa: B007 - the line number of what csv reports
            yield line

    source = lines()
    header = next(source, "")
    rows = csv.reader(
        itertools.chain([header], source),
        delimiter=max(",;\t", key=header.count),
        strict=True,
    )
    names: list[str] = []
    while True:
        line = at + bool(names)
        try:
            row = next(rows)
        except StopIteration:
            return
        except csv.Error as error:
            report(
                Problem(
                    path,
                    line,
                    say(f"not valid CSV ({error}).", f"不是有效的 CSV（{error}）。"),
                    say(
                        'Quote fields as "..." and double the quotes inside.',
                        '请用 "..." 包住字段，内部的引号写两次。',
                    ),
                )
            )
            continue
        if not names:
            names = [name.strip() for name in row]
        elif len(row) == len(names):
            yield line, dict(zip(names, row, strict=True))
        elif row:
            report(
                Problem(
                    path,
                    line,
                    say(
                        f"{len(row)} fields where the header has {len(names)}: {','.join(row)[:60]!r}.",
                        f"有 {len(row)} 个字段，表头有 {len(names)} 个：{','.join(row)[:60]!r}。",
                    ),
                    say(
                        "Quote fields that contain the delimiter.",
                        "含有分隔符的字段请加引号。",
                    ),
                )
            )


def _parquet(path: Path, report: Report) -> Iterator[tuple[int, dict[str, Any]]]:
    import pyarrow
    from pyarrow import parquet

    with open_bytes(path) as packed, _seekable(packed) as file:
        try:
            row = 0
            for batch in parquet.ParquetFile(file).iter_batches(batch_size=1024):
                for record in batch.to_pylist():
                    row += 1
                    yield row, record
        except (pyarrow.ArrowInvalid, OSError) as error:
            raise Damaged(
                say(
                    f"{path} is not a whole Parquet file: {str(error).splitlines()[0]}",
                    f"{path} 不是完整的 Parquet 文件：{str(error).splitlines()[0]}",
                ),
                say("Copy or export it again.", "请重新复制或导出。"),
            ) from None


@contextmanager
def _seekable(file: IO[bytes]) -> Iterator[IO[bytes]]:
    """Parquet is read from its end; a gzip stream would be unpacked anew for every step
    back, so it goes to a temporary file.
    """
    if not isinstance(file, gzip.GzipFile):
        yield file
        return
    with tempfile.TemporaryFile() as unpacked:
        shutil.copyfileobj(file, unpacked)
        unpacked.seek(0)
        yield unpacked
