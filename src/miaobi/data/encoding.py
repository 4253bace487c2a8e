"""From bytes to numbered lines of text: gzip, byte-order marks, UTF-8 and every other
encoding that can be told or is named, one line in memory at a time.
"""

from __future__ import annotations

import codecs
import gzip
import io
import sys
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import cache
from typing import IO, cast

from miaobi.core import storage
from miaobi.core.errors import BadInput, Damaged, NotFound, nearest
from miaobi.core.language import located, say
from miaobi.core.storage import Location
from miaobi.data.plausibility import CANDIDATES, WIDE, Reading, excerpt, readings

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
FITS_LISTED = 5
"""Readings that are shown where none can be chosen."""
GZIP = b"\x1f\x8b"
UTF8_CHARACTERS = {
    "gb18030": 2,
    "big5hkscs": 2,
    "cp932": 2,
    "euc_jis_2004": 2,
    "cp949": 2,
}
"""Characters outside ASCII from which a line that reads as UTF-8 is UTF-8, in a file of
another encoding: those of two bytes accept most of UTF-8 as other characters, and by
chance two pass in fewer than one short line in ten thousand.
"""


_option = ContextVar("option", default="data.encoding")
"""The setting by which a person names the encoding, for messages."""


@contextmanager
def encoding_option(name: str) -> Iterator[None]:
    """Call the setting that names the encoding `name` in the messages of what runs
    inside: a command may have one of its own.
    """
    token = _option.set(name)
    try:
        yield
    finally:
        _option.reset(token)


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
        return located(location, self.what)

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


def detect(path: Location, file: IO[bytes], named: str = "") -> Reading:
    """Return the encoding of a file: as named, or by its mark, or by its first lines with
    non-ASCII bytes. Leaves the file at the start of its text.

    A file with no sign of another encoding counts as UTF-8 and is checked line by line
    as it is read.

    Args:
        path: for messages
        file: at its start
        named: the encoding that a person named; empty to judge

    Raises BadInput for a name that is no encoding, and where several readings are as
    plausible.
    """
    head = file.read(4)
    for mark, encoding in MARKS:
        if head.startswith(mark):
            file.seek(len(mark) if encoding == "utf-8" else 0)
            return Reading(encoding, 1.0)
    file.seek(0)
    if named:
        return Reading(checked_name(named), 1.0)
    sample = file.read(SAMPLE)
    if b"\0" in sample:
        file.seek(0)
        return _wide(sample)
    while sample.isascii() and (more := file.read(SAMPLE)):
        sample = more
    if not sample.isascii():
        sample += file.readline(SAMPLE)
    file.seek(0)
    lines = [line for line in sample.split(b"\n") if not line.isascii()]
    others = [line for line in lines if not _decodes(line, "utf-8")]
    if len(others) * 2 <= len(lines):
        return Reading("utf-8", 1.0)
    plausible = readings(b"\n".join(others))
    if plausible and plausible[0].confidence:
        return plausible[0]
    raise _undecided(path, plausible)


def _wide(sample: bytes) -> Reading:
    """The encoding of a file with zero bytes: UTF-16 without a mark, or none."""
    plausible = readings(sample[: len(sample) & ~1])
    if plausible and plausible[0].confidence and plausible[0].encoding in WIDE:
        return plausible[0]
    return Reading("utf-8", 1.0)


def checked_name(encoding: str) -> str:
    """Return Python's name of an encoding. Raises BadInput for what is none."""
    try:
        info = codecs.lookup(encoding)
    except LookupError:
        info = None
    if info is not None and info._is_text_encoding:
        return info.name
    option = _option.get()
    raise BadInput(
        say(
            f"{option} is {encoding!r}, which is no encoding.",
            f"{option} 为 {encoding!r}，没有这种编码。",
        ),
        nearest(encoding, ("utf-8", "utf-16", *CANDIDATES)),
        field=option,
    )


def _undecided(path: Location, plausible: list[Reading]) -> BadInput:
    option = _option.get()
    fits = "\n".join(
        f"  --{option} {item.encoding}  {item.excerpt!r}"
        for item in plausible[:FITS_LISTED]
    )
    return BadInput(
        say(
            f"{path} is not UTF-8, and which encoding it is in cannot be told from so little text.",
            f"{path} 不是 UTF-8，而文字太少，无法判断是哪种编码。",
        ),
        say(
            f"Save it as UTF-8, or name the encoding that reads rightly:\n{fits}",
            f"请另存为 UTF-8，或指明能读对的编码：\n{fits}",
        ),
        field=option,
    )


@cache
def _print_guess(path: Location, reading: Reading) -> None:
    """Say once how a file is read."""
    option = _option.get()
    text = say(
        f"{path} is not UTF-8; it is read as {reading.name} (confidence {reading.confidence:.1%}): "
        f"{reading.excerpt!r}. If that is wrong, name the encoding with --{option}.",
        f"{path} 不是 UTF-8，按 {reading.name} 读取（置信度 {reading.confidence:.1%}）："
        f"{reading.excerpt!r}。如有误，请用 --{option} 指明编码。",
    )
    print(text, file=sys.stderr)


def numbered_lines(
    path: Location,
    report: Report = raise_problem,
    limit: int = -1,
    encoding: str = "",
) -> Iterator[tuple[int, str]]:
    """Yield (line number from 1, line with its "\\n") of a text file. Lines also end with
    "\\r\\n" and with a "\\r" alone, as old Macs write them; both become "\\n".

    Args:
        path: the file
        report: called with each line in another encoding than the rest of its file,
            which is left out
        limit: lines longer than that many bytes come in pieces under one number; -1
            for no limit
        encoding: of the file, where a person named it; empty to judge

    Raises NotFound, Damaged; BadInput where the encoding cannot be told.
    """
    with open_bytes(path) as file:
        reading = detect(path, file, encoding)
        encoding = reading.encoding
        if reading.confidence < 1:
            _print_guess(path, reading)
        if encoding.startswith(("utf-16", "utf-32")):
            yield from _utf16_lines(path, file, encoding, limit)
            return
        number, rest = 1, b""
        for raw, is_cut in _byte_lines(file, limit):
            raw, rest = rest + raw, b""
            is_whole = raw.endswith(b"\n")
            if is_cut:
                raw, rest = _at_character(raw, encoding)
            line = _decode(raw, encoding)
            if line is None:
                report(_mixed(path, number, raw, encoding))
            else:
                yield number, line
            number += is_whole
        if rest:
            report(_mixed(path, number, rest, encoding))


def _byte_lines(file: IO[bytes], limit: int) -> Iterator[tuple[bytes, bool]]:
    """Yield (line, whether it was cut at the limit); whole lines end with "\\n"."""
    is_return = False
    while raw := file.readline(limit):
        if is_return and raw == b"\n":  # the limit stood between "\r" and "\n"
            is_return = False
            continue
        is_return = raw.endswith(b"\r")
        is_full = len(raw) == limit
        for line in raw.splitlines(keepends=True):
            if line.endswith((b"\r", b"\n")):
                yield line.rstrip(b"\r\n") + b"\n", False
            else:
                yield line, is_full


def encoding_of(path: Location, named: str = "") -> Reading:
    """Return the encoding of a file; see `detect`."""
    with open_bytes(path) as file:
        return detect(path, file, named)


def _utf16_lines(
    path: Location, file: IO[bytes], encoding: str, limit: int
) -> Iterator[tuple[int, str]]:
    """Lines of UTF-16 or UTF-32, where a fault leaves no way to find the next line:
    always an error.
    """
    number = 1
    reader = io.TextIOWrapper(file, encoding=encoding, newline=None)
    try:
        while line := reader.readline(limit):
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
    """The line in the file's encoding, or None when it is in another."""
    if raw.isascii():
        return raw.decode("ascii")
    if encoding != "utf-8" and _is_utf8(raw, UTF8_CHARACTERS.get(encoding, 1)):
        return None
    try:
        return raw.decode(encoding)
    except UnicodeDecodeError:
        return None


def _is_utf8(raw: bytes, least: int) -> bool:
    """Whether a line is UTF-8 with at least so many characters outside ASCII; in files
    of two-byte characters only those of East Asia count.
    """
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError:
        return False
    if least == 1:
        return True
    return sum("\u3000" <= char <= "\ud7a3" for char in text) >= least


def _mixed(path: Location, number: int, raw: bytes, encoding: str) -> Problem:
    if encoding != "utf-8" and _decodes(raw, "utf-8"):
        plausible = [Reading("utf-8", 1.0, excerpt(raw.decode("utf-8")))]
    else:
        plausible = readings(raw)
    file_encoding = Reading(encoding, 1.0).name
    if plausible:
        other = plausible[0]
        what = say(
            f"mixed encodings: this line is {other.name} ({other.excerpt!r}), the file is {file_encoding}.",
            f"编码混杂：此行为 {other.name}（{other.excerpt!r}），文件为 {file_encoding}。",
        )
    else:
        what = say(
            f"not {file_encoding}, and no other encoding fits: {raw[:24]!r}.",
            f"不是 {file_encoding}，也不符合其他编码：{raw[:24]!r}。",
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
