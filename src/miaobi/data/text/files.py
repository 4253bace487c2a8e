"""The `files` source: text from a user's own files. Plain text, JSONL, JSON, CSV,
Parquet, each also gzip, or a folder of them.

Formats and shapes follow from the content where the name leaves a doubt. Nothing is
read whole into memory but single records; a plain text file larger than PART characters
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
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, NamedTuple, overload

from miaobi.core import storage
from miaobi.core.errors import BadInput, Damaged, NotFound, nearest
from miaobi.core.language import in_each, say
from miaobi.core.storage import Location, Url
from miaobi.data.encoding import (
    Problem,
    Report,
    detect,
    numbered_lines,
    open_bytes,
    raise_problem,
)
from miaobi.data.text.documents import Document
from miaobi.data.text.shapes import (
    CONVERSATIONS,
    Unusable,
    check_not_judged,
    to_document,
)

PART = 1 << 20
"""Characters of a plain text file's parts, at least."""
READ = 1 << 16
"""Bytes read at once of a file whose lines may be long."""
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
DELIMITERS = ",;\t|"
NAMED_DELIMITER = re.compile(r"sep=(.)\s*")
"""The line before the header by which Excel names the delimiter."""
QUOTED = re.compile(r'"[^"]*"')
EXCERPT = 60
"""Characters of a broken record in its problem."""
PARQUET_ROWS = 1024
"""Rows in memory at once."""
GAP = re.compile(r"[\s,]*")
CUT_MARGIN = 16
"""Characters at the end of a piece in which an error may come from the cut."""


def read(
    path: str | Location,
    *,
    text_column: str | None = None,
    separator: str | None = None,
    strict: bool = True,
    report: Report = raise_problem,
    include_judged: bool = False,
    encoding: str = "",
) -> Iterator[Document]:
    """Yield the documents of a file, or of every text file in a folder, in the order of
    their names.

    Args:
        path: a file or a folder
        text_column: the column or key that holds the text, where the names do not show it
        separator: what divides the documents of a plain text file ("\\n\\n" for a
            blank line). Without it the whole file is one document, as a novel is
        strict: raise at the first problem. Otherwise the rest is read and each problem
            goes to `report`
        report: called with each Problem when not strict
        include_judged: yield also what only fine-tuning may learn (a rejected answer, a turn of
            weight 0), which is a problem otherwise
        encoding: of the files, where they are not UTF-8 and it cannot be told

    Raises NotFound, BadInput with file and line, Damaged for a cut-off gzip or Parquet file.
    """
    path = storage.location(path)
    problems = list[Problem]()

    def keep_first(problem: Problem) -> None:
        if not problems:
            problems.append(problem)
        report(problem)

    is_empty = True
    for file in files_in(path):
        for document in read_file(
            file,
            text_column=text_column,
            separator=separator,
            report=raise_problem if strict else keep_first,
            include_judged=include_judged,
            encoding=encoding,
        ):
            is_empty = False
            yield document
    if is_empty and problems:
        raise problems[0].error()
    if is_empty:
        raise BadInput(
            say(f"{path} holds no text.", f"{path} 中没有文本。"),
            say("Choose a file with something to learn from.", "请选择有内容的文件。"),
        )


def may_be_text(path: Location) -> bool:
    """Return whether `path` is a file that is named as text or holds no zero bytes, or
    a folder with a text file.
    """
    if storage.is_folder(path):
        return bool(_text_files(path))
    if _suffix(path) in FORMATS:
        return True
    try:
        format_of(path)
    except (BadInput, Damaged):
        return False
    return True


@overload
def files_in(path: Path) -> list[Path]: ...


@overload
def files_in(path: Location) -> list[Location]: ...


def files_in(path: Location) -> Sequence[Location]:
    """Return the file itself, the text files of a folder and its folders, or those of
    them that a pattern at a URL (*.jsonl) fits, sorted.

    Raises NotFound with the nearest names.
    """
    if _holds_files(path):
        return _files_of_folder(path)
    if not storage.exists(path):
        siblings = storage.names(path.parent)
        raise NotFound(
            say(f"There is no file {path}.", f"文件 {path} 不存在。"),
            nearest(path.name, siblings) or say("Check the path.", "请检查路径。"),
        )
    return [path]


def _holds_files(path: Location) -> bool:
    is_pattern = isinstance(path, Url) and storage.folder_of(path) != path
    return is_pattern or storage.is_folder(path)


def _text_files(folder: Location) -> list[Location]:
    return [
        file
        for file in storage.files(folder)
        if _suffix(file) in FORMATS and not _is_hidden(file, folder)
    ]


def _files_of_folder(folder: Location) -> list[Location]:
    files = _text_files(folder)
    if not files:
        raise NotFound(
            say(
                f"The folder {folder} has no text files.",
                f"文件夹 {folder} 中没有文本文件。",
            ),
            say(
                f"Known endings: {', '.join(FORMATS)}, each also .gz.",
                f"可用的扩展名：{'、'.join(FORMATS)}，也可为 .gz。",
            ),
        )
    return files


def _is_hidden(file: Location, folder: Location) -> bool:
    name = storage.relative(file, storage.base(folder))
    return any(part.startswith(".") for part in name.split("/"))


def read_file(
    path: Location,
    *,
    text_column: str | None = None,
    separator: str | None = None,
    report: Report = raise_problem,
    include_judged: bool = False,
    encoding: str = "",
) -> Iterator[Document]:
    """Yield the documents of one file; the arguments are those of `read`."""
    if format_of(path, encoding) == "text":
        _check_no_column(path, text_column)
        yield from _plain(path, separator, report, encoding)
        return
    for line, record in records(path, report, encoding):
        meta = {"file": str(path), "line": line}
        try:
            document = to_document(record, text_column, meta)
            if not include_judged:
                check_not_judged(document)
                _check_not_weighted(document)
        except Unusable as error:
            report(Problem(path, line, error.what, error.remedy))
            continue
        if document.training_text().strip():
            yield document


def _check_not_weighted(document: Document) -> None:
    """Raise Unusable for turns that are not to be learned."""
    if document.only:
        raise Unusable(
            say(
                "a turn of weight 0 is not to be learned, and training from scratch learns every turn.",
                "有权重为 0 的轮次不应学习，而从头训练会学习每一轮。",
            ),
            f"miaobi finetune --task {document.only}",
        )


def _check_no_column(path: Location, text_column: str | None) -> None:
    if text_column is not None:
        raise BadInput(
            say(
                f"{path} is plain text; it has no column {text_column!r}.",
                f"{path} 是纯文本，没有名为 {text_column!r} 的列。",
            ),
            say("Leave text_column out.", "请去掉 text_column。"),
        )


def records(
    path: Location, report: Report = raise_problem, encoding: str = ""
) -> Iterator[tuple[int, Any]]:
    """Yield (line, or row for Parquet; record as written) of a file that is not plain
    text. The arguments are those of `numbered_lines`.
    """
    kind = format_of(path, encoding)
    if kind == "text":
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
    yield from READERS[kind](path, report, encoding)


def format_of(path: Location, encoding: str = "") -> str:
    """Return "text", "jsonl", "json", "csv" or "parquet".

    Args:
        path: the file
        encoding: of the file, where a person named it; empty to judge

    Raises NotFound, BadInput for what is no text; Damaged for a gzip file cut short at
    its start.
    """
    with open_bytes(path) as file:
        if file.read(4) == b"PAR1":
            return "parquet"
        file.seek(0)
        name = detect(path, file, encoding).encoding
        head = file.read(READ)
    if b"\0" in head and not name.startswith(("utf-16", "utf-32")):
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
    text = head.decode(name, "replace")
    return _format(_suffix(path), text.lstrip("\ufeff \t\r\n"))


def _format(suffix: str, head: str) -> str:
    """The format by the name's ending, corrected by how the content begins."""
    kind = FORMATS.get(suffix, "text")
    first_line = head.split("\n", 1)[0]
    if head.startswith("{") and (kind == "json" or suffix not in FORMATS):
        # JSON lines under the wrong name, as many tools write them.
        is_line = _is_json(first_line)
        if is_line and (kind != "json" or "\n{" in head):
            return "jsonl"
    if kind == "jsonl" and head.startswith("[") and not _is_json(first_line):
        return "json"
    return kind


def _suffix(path: Location) -> str:
    """The ending that names the format, before .gz."""
    if path.suffix.lower() == ".gz":
        path = path.with_suffix("")
    return path.suffix.lower()


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True


class _Text(NamedTuple):
    """A plain text, or a part of one."""

    line: int
    """The first one, from 1."""
    text: str
    continues: bool = False


def _plain(
    path: Location, separator: str | None, report: Report, encoding: str
) -> Iterator[Document]:
    """A text file as one document, in parts cut at line ends, or as the documents
    between separators.
    """
    texts = (
        _split(path, separator, report, encoding)
        if separator
        else _parts(path, report, encoding)
    )
    for line, text, continues in texts:
        meta = {"file": str(path), "line": line, "shape": "plain"}
        yield Document(text, meta=meta, continues=continues)


def _parts(path: Location, report: Report, encoding: str) -> Iterator[_Text]:
    """A whole file: every part but the last holds at least PART characters."""
    lines, size, first = list[str](), 0, 1
    is_first_part = True
    for number, line in numbered_lines(path, report, PART, encoding):
        if size >= PART:
            yield _Text(first, "".join(lines), continues=True)
            lines, size = [], 0
            is_first_part = False
        if not lines:
            first = number
        lines.append(line)
        size += len(line)
    text = "".join(lines)
    if text.strip() or not is_first_part:
        yield _Text(first, text)


def _split(
    path: Location, separator: str, report: Report, encoding: str
) -> Iterator[_Text]:
    """The non-empty texts between separators, without the line ends around them."""
    text, first = "", 1
    for number, line in numbered_lines(path, report, encoding=encoding):
        if not text or text.isspace():
            first = number
        searched = max(0, len(text) - len(separator) + 1)
        text += line
        while (at := text.find(separator, searched)) >= 0:
            before, text = text[:at], text[at + len(separator) :]
            searched = 0
            if before.strip():
                yield _Text(first, before.strip("\n"))
            first = number
    if text.strip():
        yield _Text(first, text.strip("\n"))


def json_lines(
    path: Location, report: Report, encoding: str = ""
) -> Iterator[tuple[int, Any]]:
    """Yield (line, value) of a file with a JSON value a line."""
    for number, line in numbered_lines(path, report, encoding=encoding):
        if not line.strip():
            continue
        try:
            yield number, json.loads(line)
        except (ValueError, RecursionError) as error:
            report(_broken(path, number, line, error))


def _broken(path: Location, number: int, text: str, error: Exception) -> Problem:
    reason = error.msg if isinstance(error, json.JSONDecodeError) else str(error)
    excerpt = text.strip()[:EXCERPT]
    return Problem(
        path,
        number,
        in_each(
            lambda: say(
                f"not valid JSON ({reason}): {excerpt!r}.",
                f"不是有效的 JSON（{reason}）：{excerpt!r}。",
            )
        ),
        say(
            "Mend that line, or keep the rest with strict=false.",
            "请修正该行，或用 strict=false 保留其余部分。",
        ),
    )


def _json(
    path: Location, report: Report, encoding: str = ""
) -> Iterator[tuple[int, Any]]:
    """The items of a JSON array, one at a time; or of the only list in an object
    ({"data": [...]}); or the object itself.
    """
    pieces = numbered_lines(path, report, READ, encoding)
    not_blank = ((number, piece) for number, piece in pieces if piece.strip())
    number, head = next(not_blank, (0, ""))
    if head.lstrip().startswith("["):
        items = itertools.chain([(number, head.lstrip()[1:])], pieces)
        yield from _Array(path, report).items(items)
    elif head:
        text = head + "".join(piece for _, piece in pieces)
        try:
            value = json.loads(text)
        except json.JSONDecodeError as error:
            line = number - 1 + error.lineno
            report(_broken(path, line, text[error.pos :], error))
            return
        except RecursionError as error:
            report(_broken(path, number, text, error))
            return
        for record in _records(value):
            yield number, record


def _records(value: Any) -> list[Any]:
    """{"version": 1, "data": [{...}, ...]} holds many records; a conversation, whose
    turns are a list too, is one.
    """
    if not isinstance(value, dict) or value.keys() & set(CONVERSATIONS):
        return [value]
    lists = [item for item in value.values() if _is_list_of_objects(item)]
    return lists[0] if len(lists) == 1 else [value]


def _is_list_of_objects(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and isinstance(value[0], dict)


class _Array:
    """The items of a JSON array that is read in pieces.

    A broken item ends the reading: nothing shows where the next one starts.
    """

    def __init__(self, path: Location, report: Report) -> None:
        self.path = path
        self.report = report
        self.decoder = json.JSONDecoder()
        self.text = ""
        """What is not decoded yet."""
        self.line = 0
        """Of the beginning of the text."""
        self.needed = 0
        """Characters from which another attempt is worth it."""
        self.fault: Exception | None = None
        """Of the last attempt."""
        self.is_broken = False
        """Whether the fault is in the text, and no effect of the end of the piece."""

    def items(self, pieces: Iterable[tuple[int, str]]) -> Iterator[tuple[int, Any]]:
        """Yield (line, item) of (line, piece)s whose "[" was taken off."""
        for line, piece in pieces:
            if not self.text:
                self.line = line
            self.text += piece
            if len(self.text) >= self.needed:
                yield from self._decoded(is_last=False)
            if self.is_broken or self.text.startswith("]"):
                break
        else:
            yield from self._decoded(is_last=True)
        if not self.text.startswith("]"):
            self.report(self._problem())

    def _decoded(self, is_last: bool) -> Iterator[tuple[int, Any]]:
        """The whole items at the beginning of the text."""
        while is_last or self.text:
            self._skip_gap()
            if self.text.startswith("]"):
                return
            try:
                item, end = self.decoder.raw_decode(self.text)
            except (json.JSONDecodeError, RecursionError) as error:
                self.fault = error
                self.is_broken = self._is_inside(error)
                # A huge item is not tried again at every piece, only when twice as much
                # has come.
                size = len(self.text)
                self.needed = 2 * size if size > READ else 0
                return
            self.needed = 0
            yield self.line, item
            self._advance(end)

    def _skip_gap(self) -> None:
        gap = GAP.match(self.text)
        self._advance(gap.end() if gap else 0)

    def _advance(self, count: int) -> None:
        self.line += self.text.count("\n", 0, count)
        self.text = self.text[count:]

    def _is_inside(self, error: Exception) -> bool:
        """Whether an error is too far from the end of the text to come from the cut."""
        return (
            isinstance(error, json.JSONDecodeError)
            and error.pos < len(self.text) - CUT_MARGIN
            and "Unterminated" not in error.msg
        )

    def _problem(self) -> Problem:
        if self.text and self.fault:
            return _broken(self.path, self.line, self.text, self.fault)
        return Problem(
            self.path,
            self.line,
            say(
                "the list is cut off: its closing ] is missing.",
                "列表被截断：缺少结尾的 ]。",
            ),
            say(
                "Copy the file again, or keep what could be read with strict=false.",
                "请重新复制文件，或用 strict=false 保留已读部分。",
            ),
        )


def csv_rows(
    path: Location, report: Report, encoding: str = ""
) -> Iterator[tuple[int, dict[str, str]]]:
    """Yield (line, row by column) of rows under a header line.

    The delimiter is comma, semicolon, tab or "|", whichever the header has most of
    outside quotes; or the one that a line "sep=;" before it names.
    """
    csv.field_size_limit(1 << 30)
    at = 0

    def lines() -> Iterator[str]:
        nonlocal at
        for at, line in numbered_lines(path, report, encoding=encoding):  # noqa: B007 - the line number of what csv reports
            yield line

    source = lines()
    header = next(source, "")
    if named := NAMED_DELIMITER.fullmatch(header):
        delimiter = named[1]
        header = next(source, "")
    else:
        delimiter = max(DELIMITERS, key=QUOTED.sub("", header).count)
    text = itertools.chain([header], source)
    rows = csv.reader(text, delimiter=delimiter, strict=True)
    names = list[str]()
    while True:
        line = at + bool(names)
        try:
            row = next(rows)
        except StopIteration:
            return
        except csv.Error as error:
            report(_broken_csv(path, line, error))
            continue
        if not names:
            names = [name.strip() for name in row]
            _check_names(path, line, names)
        elif len(row) == len(names):
            yield line, dict(zip(names, row, strict=True))
        elif row:
            report(_uneven(path, line, row, len(names)))


def _check_names(path: Location, line: int, names: list[str]) -> None:
    """Raise BadInput for two columns of one name: only one could be read."""
    twice = [name for name, count in Counter(names).items() if name and count > 1]
    if twice:
        raise Problem(
            path,
            max(line, 1),
            say(
                f"the header names {twice[0]!r} more than once.",
                f"表头中 {twice[0]!r} 出现多次。",
            ),
            say("Give each column a name of its own.", "请为每一列取不同的名称。"),
        ).error()


def _broken_csv(path: Location, line: int, error: csv.Error) -> Problem:
    return Problem(
        path,
        line,
        say(f"not valid CSV ({error}).", f"不是有效的 CSV（{error}）。"),
        say(
            'Quote fields as "..." and double the quotes inside.',
            '请用 "..." 包住字段，内部的引号写两次。',
        ),
    )


def _uneven(path: Location, line: int, row: list[str], columns: int) -> Problem:
    excerpt = ",".join(row)[:EXCERPT]
    return Problem(
        path,
        line,
        say(
            f"{len(row)} fields where the header has {columns}: {excerpt!r}.",
            f"有 {len(row)} 个字段，表头有 {columns} 个：{excerpt!r}。",
        ),
        say("Quote fields that contain the delimiter.", "含有分隔符的字段请加引号。"),
    )


def _parquet(
    path: Location, report: Report, encoding: str = ""
) -> Iterator[tuple[int, dict[str, Any]]]:
    import pyarrow
    from pyarrow import parquet

    with open_bytes(path) as raw, _seekable(raw) as file:
        try:
            row = 0
            table = parquet.ParquetFile(file)
            for batch in table.iter_batches(batch_size=PARQUET_ROWS):
                for record in batch.to_pylist():
                    row += 1
                    yield row, {key: _whole(value) for key, value in record.items()}
        except (pyarrow.ArrowInvalid, OSError) as error:
            reason = str(error).splitlines()[0]
            raise Damaged(
                say(
                    f"{path} is not a whole Parquet file: {reason}",
                    f"{path} 不是完整的 Parquet 文件：{reason}",
                ),
                say("Copy or export it again.", "请重新复制或导出。"),
            ) from None


def _whole(value: Any) -> Any:
    """A value without the nulls by which Parquet gives all objects of a column the same
    keys: nobody wrote them.
    """
    if isinstance(value, list):
        return [_whole(item) for item in value]
    if isinstance(value, dict):
        return {key: _whole(item) for key, item in value.items() if item is not None}
    return value


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


READERS: dict[str, Callable[[Location, Report, str], Iterator[tuple[int, Any]]]] = {
    "jsonl": json_lines,
    "json": _json,
    "csv": csv_rows,
    "parquet": _parquet,
}
