"""From bytes to numbered lines of text: gzip, byte-order marks, UTF-8, UTF-16 and
GB18030, one line in memory at a time.
"""

from __future__ import annotations

import codecs
import gzip
import io
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from miaobi.core.errors import BadInput, Damaged, NotFound
from miaobi.core.language import say

SAMPLE = 1 << 18
MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


@dataclass(frozen=True)
class Problem:
    """Something in a file that could not be used, and what to do about it."""

    path: Path
    line: int
    """From 1; the row for Parquet; 0 when the whole file is meant."""
    what: str
    remedy: str

    def __str__(self) -> str:
        place = f"{self.path}:{self.line}" if self.line else str(self.path)
        return say(f"{place}: {self.what}", f"{place}：{self.what}")

    def error(self) -> BadInput:
        return BadInput(str(self), self.remedy)


Report = Callable[[Problem], None]
"""Called with each problem: raises it (strict) or keeps it and lets the rest be read."""


def raise_problem(problem: Problem) -> None:
    raise problem.error()


@contextmanager
def open_bytes(path: Path) -> Iterator[IO[bytes]]:
    """The bytes of a file, unpacked if it is gzip (told by content, not by name).
    Raises NotFound, Damaged.
    """
    try:
        with path.open("rb") as raw:
            zipped = raw.read(2) == b"\x1f\x8b"
            raw.seek(0)
            if zipped:
                with gzip.open(raw) as unpacked:
                    yield unpacked  # type: ignore[misc]
            else:
                yield raw
    except FileNotFoundError:
        raise NotFound(
            say(f"There is no file {path}.", f"文件 {path} 不存在。"),
            say(
                "Check the path; relative paths start at the current folder.",
                "请检查路径；相对路径从当前文件夹算起。",
            ),
        ) from None
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise Damaged(
            say(
                f"{path} is not a whole gzip file: {error}.",
                f"{path} 不是完整的 gzip 文件：{error}。",
            ),
            say("Copy or compress it again.", "请重新复制或压缩。"),
        ) from None


def detect(file: IO[bytes]) -> str:
    """The encoding of a file, from its mark or from its first lines with non-ASCII
    bytes. Leaves the file at the start of its text.

    Raises nothing: a file with no sign of another encoding counts as UTF-8 and is
        checked line by line as it is read.
    """
    start = file.read(4)
    for mark, name in MARKS:
        if start.startswith(mark):
            file.seek(len(mark) if name == "utf-8" else 0)
            return name
    file.seek(0)
    while sample := file.read(SAMPLE):
        if not sample.isascii():
            sample += file.readline(SAMPLE)
            break
    file.seek(0)
    lines = [line for line in sample.split(b"\n") if not line.isascii()]
    chinese = sum(
        not _decodes(line, "utf-8") and _decodes(line, "gb18030") for line in lines
    )
    return "gb18030" if chinese * 2 > len(lines) else "utf-8"


def numbered_lines(
    path: Path, report: Report = raise_problem, limit: int = -1
) -> Iterator[tuple[int, str]]:
    """(line number from 1, line with its "\\n") of a text file. "\\r\\n" becomes "\\n".

    With a limit, lines longer than that many bytes come in pieces under one number. A
    line in another encoding than the rest of its file goes to `report` and is left out.
    """
    with open_bytes(path) as file:
        encoding = detect(file)
        if encoding.startswith(("utf-16", "utf-32")):
            yield from _wide_lines(path, file, encoding, limit)
            return
        number, carried = 1, b""
        while raw := file.readline(limit):
            raw, carried = carried + raw, b""
            ended = raw.endswith(b"\n")
            if not ended and len(raw) >= limit > 0:
                raw, carried = _at_character(raw, encoding)
            if raw.endswith(b"\r\n"):
                raw = raw[:-2] + b"\n"
            if raw.isascii():
                yield number, raw.decode("ascii")
            elif (line := _decode(raw, encoding)) is not None:
                yield number, line
            else:
                report(_mixed(path, number, raw, encoding))
            number += ended
        if carried:
            report(_mixed(path, number, carried, encoding))


def encoding_of(path: Path) -> str:
    with open_bytes(path) as file:
        return detect(file)


def _wide_lines(
    path: Path, file: IO[bytes], encoding: str, limit: int
) -> Iterator[tuple[int, str]]:
    """Lines of UTF-16 or UTF-32, where a fault leaves no way to find the next line:
    always an error.
    """
    number, reader = 1, io.TextIOWrapper(file, encoding=encoding, newline="\n")
    try:
        while line := reader.readline(limit):
            yield (
                number,
                line.removesuffix("\r\n") + "\n" if line.endswith("\r\n") else line,
            )
            number += line.endswith("\n")
    except UnicodeError as error:
        raise Problem(
            path,
            number,
            say(
                f"not valid {encoding.upper()} ({error}).",
                f"不是有效的 {encoding.upper()}（{error}）。",
            ),
            say("Save the file again as UTF-8.", "请把文件另存为 UTF-8。"),
        ).error() from None
    finally:
        reader.detach()


def _at_character(raw: bytes, encoding: str) -> tuple[bytes, bytes]:
    """A piece of a long line, and the bytes of the character it was cut in."""
    decoder = codecs.getincrementaldecoder(encoding)("replace")
    decoder.decode(raw)
    rest = decoder.getstate()[0]
    return raw[: len(raw) - len(rest)], rest


def _decodes(raw: bytes, encoding: str) -> bool:
    try:
        raw.decode(encoding)
    except UnicodeDecodeError:
        return False
    return True


def _decode(raw: bytes, encoding: str) -> str | None:
    """The line in the file's encoding, or None when it is in another.

    GB18030 accepts most UTF-8 bytes as other characters, so there a line that reads as
    UTF-8 with two or more Chinese characters counts as UTF-8: by chance that happens to
    fewer than one short line in ten thousand.
    """
    try:
        if (
            encoding == "gb18030"
            and sum("\u3000" <= c <= "\u9fff" for c in raw.decode("utf-8")) >= 2
        ):
            return None
    except UnicodeDecodeError:
        pass
    try:
        return raw.decode(encoding)
    except UnicodeDecodeError:
        return None


def _mixed(path: Path, number: int, raw: bytes, encoding: str) -> Problem:
    other = next(
        (
            name
            for name in ("utf-8", "gb18030")
            if name != encoding and _decodes(raw, name)
        ),
        None,
    )
    shown = raw[:40].decode(other, "replace").rstrip() if other else repr(raw[:24])
    if other:
        what = say(
            f"mixed encodings: this line is {other.upper()} ({shown!r}), the file is {encoding.upper()}.",
            f"编码混杂：此行为 {other.upper()}（{shown!r}），文件为 {encoding.upper()}。",
        )
    else:
        what = say(
            f"neither UTF-8 nor GB18030: {shown}.",
            f"既不是 UTF-8 也不是 GB18030：{shown}。",
        )
    return Problem(
        path,
        number,
        what,
        say(
            "Save the whole file in one encoding, UTF-8 best, or leave such lines out with strict=false.",
            "请把整个文件存为同一种编码（最好是 UTF-8），或用 strict=false 跳过这些行。",
        ),
    )
