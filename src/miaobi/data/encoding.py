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
from typing import IO, cast

from miaobi.core import storage
from miaobi.core.errors import BadInput, Damaged, NotFound
from miaobi.core.language import say
from miaobi.core.storage import Location

SAMPLE = 1 << 18
"""Bytes in which the first ones outside ASCII are looked for at once."""
MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
"""Byte-order marks with their encodings, the longest first."""
GZIP = b"\x1f\x8b"
ENCODINGS = ("utf-8", "gb18030")


@dataclass(frozen=True)
class Problem:
    """Something in a file that could not be used, and what to do about it."""

    path: Location
    line: int
    """From 1; the row for Parquet; 0 when the whole file is meant."""
    what: str
    remedy: str

    def __str__(self) -> str:
        location = f"{self.path}:{self.line}" if self.line else str(self.path)
        return say(f"{location}: {self.what}", f"{location}：{self.what}")

    def error(self) -> BadInput:
        """Return the error of this problem, for whoever stops at it."""
        return BadInput(str(self), self.remedy)


Report = Callable[[Problem], None]
"""Called with each problem: raises it (strict) or keeps it and lets the rest be read."""


def raise_problem(problem: Problem) -> None:
    """Report by raising BadInput."""
    raise problem.error()


@contextmanager
def open_bytes(path: Location) -> Iterator[IO[bytes]]:
    """Open the bytes of a file, unpacked if its content (not its name) is gzip.

    Raises NotFound, Damaged.
    """
    try:
        with storage.open_read(path) as raw:
            is_gzip = raw.read(len(GZIP)) == GZIP
            raw.seek(0)
            if is_gzip:
                with gzip.GzipFile(fileobj=raw) as unpacked:
                    yield cast("IO[bytes]", unpacked)
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
    """Return the encoding of a file, by its mark or its first lines with non-ASCII
    bytes. Leaves the file at the start of its text.

    Raises nothing: a file with no sign of another encoding counts as UTF-8 and is
    checked line by line as it is read.
    """
    head = file.read(4)
    for mark, encoding in MARKS:
        if head.startswith(mark):
            file.seek(len(mark) if encoding == "utf-8" else 0)
            return encoding
    file.seek(0)
    while sample := file.read(SAMPLE):
        if not sample.isascii():
            sample += file.readline(SAMPLE)
            break
    file.seek(0)
    wide = [line for line in sample.split(b"\n") if not line.isascii()]
    others = [line for line in wide if not _decodes(line, "utf-8")]
    chinese = sum(_decodes(line, "gb18030") for line in others)
    return "gb18030" if chinese * 2 > len(wide) else "utf-8"


def numbered_lines(
    path: Location, report: Report = raise_problem, limit: int = -1
) -> Iterator[tuple[int, str]]:
    """Yield (line number from 1, line with its "\\n") of a text file. "\\r\\n" becomes
    "\\n".

    Args:
        path: the file
        report: called with each line in another encoding than the rest of its file,
            which is left out
        limit: lines longer than that many bytes come in pieces under one number; -1
            for no limit
    """
    with open_bytes(path) as file:
        encoding = detect(file)
        if encoding.startswith(("utf-16", "utf-32")):
            yield from _utf16_lines(path, file, encoding, limit)
            return
        number, rest = 1, b""
        while raw := file.readline(limit):
            raw, rest = rest + raw, b""
            is_whole = raw.endswith(b"\n")
            if not is_whole and len(raw) >= limit > 0:
                raw, rest = _at_character(raw, encoding)
            if raw.endswith(b"\r\n"):
                raw = raw[:-2] + b"\n"
            line = _decode(raw, encoding)
            if line is None:
                report(_mixed(path, number, raw, encoding))
            else:
                yield number, line
            number += is_whole
        if rest:
            report(_mixed(path, number, rest, encoding))


def encoding_of(path: Location) -> str:
    """Return the encoding of a file."""
    with open_bytes(path) as file:
        return detect(file)


def _utf16_lines(
    path: Location, file: IO[bytes], encoding: str, limit: int
) -> Iterator[tuple[int, str]]:
    """Lines of UTF-16 or UTF-32, where a fault leaves no way to find the next line:
    always an error.
    """
    number = 1
    reader = io.TextIOWrapper(file, encoding=encoding, newline="\n")
    try:
        while line := reader.readline(limit):
            if line.endswith("\r\n"):
                line = line.removesuffix("\r\n") + "\n"
            yield number, line
            number += line.endswith("\n")
    except UnicodeError as error:
        what = say(
            f"not valid {encoding.upper()} ({error}).",
            f"不是有效的 {encoding.upper()}（{error}）。",
        )
        remedy = say("Save the file again as UTF-8.", "请把文件另存为 UTF-8。")
        raise Problem(path, number, what, remedy).error() from None
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
    if raw.isascii():
        return raw.decode("ascii")
    if encoding == "gb18030" and _is_chinese_utf8(raw):
        return None
    try:
        return raw.decode(encoding)
    except UnicodeDecodeError:
        return None


def _is_chinese_utf8(raw: bytes) -> bool:
    """Whether a line is UTF-8 with two or more Chinese characters."""
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return sum("\u3000" <= char <= "\u9fff" for char in text) >= 2


def _mixed(path: Location, number: int, raw: bytes, encoding: str) -> Problem:
    others = [name for name in ENCODINGS if name != encoding and _decodes(raw, name)]
    if others:
        other = others[0]
        excerpt = raw[:40].decode(other, "replace").rstrip()
        what = say(
            f"mixed encodings: this line is {other.upper()} ({excerpt!r}), the file is {encoding.upper()}.",
            f"编码混杂：此行为 {other.upper()}（{excerpt!r}），文件为 {encoding.upper()}。",
        )
    else:
        what = say(
            f"neither UTF-8 nor GB18030: {raw[:24]!r}.",
            f"既不是 UTF-8 也不是 GB18030：{raw[:24]!r}。",
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
