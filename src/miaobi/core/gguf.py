"""Reading a GGUF file's header: whether it is whole, and its metadata.

Format: github.com/ggml-org/ggml/blob/master/docs/gguf.md. Every length in the header is
checked against what is left of the file before it is followed, so that a false header
costs nothing.
"""

from __future__ import annotations

import mmap
import struct
from array import array
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from miaobi.core.errors import Damaged, Unsupported
from miaobi.core.language import in_each, say

MAGIC = b"GGUF"
"""The first bytes of a file."""
_SCALARS = {
    0: "B",
    1: "b",
    2: "H",
    3: "h",
    4: "I",
    5: "i",
    6: "f",
    7: "?",
    10: "Q",
    11: "q",
    12: "d",
}
_STRING = 8
_ARRAY = 9
_DEEPEST = 2
"""Arrays within arrays that are followed."""
_DIMENSIONS = 8
"""The most that a tensor may have."""

_BLOCKS = {
    "F32": (0, 1, 4),
    "F16": (1, 1, 2),
    "Q4_0": (2, 32, 18),
    "Q4_1": (3, 32, 20),
    "Q5_0": (6, 32, 22),
    "Q5_1": (7, 32, 24),
    "Q8_0": (8, 32, 34),
    "Q8_1": (9, 32, 36),
    "Q2_K": (10, 256, 84),
    "Q3_K": (11, 256, 110),
    "Q4_K": (12, 256, 144),
    "Q5_K": (13, 256, 176),
    "Q6_K": (14, 256, 210),
    "Q8_K": (15, 256, 292),
    "IQ4_NL": (20, 32, 18),
    "IQ4_XS": (23, 256, 136),
    "I8": (24, 1, 1),
    "I16": (25, 1, 2),
    "I32": (26, 1, 4),
    "I64": (27, 1, 8),
    "F64": (28, 1, 8),
    "BF16": (30, 1, 2),
}
"""Name: (type number, values in a block, bytes of a block)."""
_TYPES = {
    number: (name, values, size) for name, (number, values, size) in _BLOCKS.items()
}


@dataclass(frozen=True)
class Header:
    metadata: dict[str, Any]
    types: frozenset[str]
    """Names of the number formats of its tensors."""
    parameters: int

    @property
    def architecture(self) -> str:
        return str(self.metadata.get("general.architecture", ""))

    def of_model(self, key: str, default: int = 0) -> int:
        """A whole number among the architecture's own keys: context_length, block_count, ..."""
        value = self.metadata.get(f"{self.architecture}.{key}", default)
        return int(max(value)) if isinstance(value, array) else int(value)


class _CutShort(Exception):
    pass


class _Cursor:
    """Reads forward, never past the end."""

    def __init__(self, data: mmap.mmap) -> None:
        self.data = data
        self.position = 0
        self.size = len(data)

    @property
    def left(self) -> int:
        return self.size - self.position

    def take(self, count: int) -> bytes:
        if count > self.left:
            raise _CutShort
        begin = self.position
        self.position += count
        return self.data[begin : self.position]

    def number(self, form: str) -> Any:
        return struct.unpack("<" + form, self.take(struct.calcsize(form)))[0]

    def string(self) -> str:
        return self.take(self.number("Q")).decode("utf-8", errors="replace")

    def value(self, kind: int, depth: int = 0) -> Any:
        """A value of a type number of the format; arrays of numbers as `array`."""
        if kind in _SCALARS:
            return self.number(_SCALARS[kind])
        if kind == _STRING:
            return self.string()
        if kind != _ARRAY or depth > _DEEPEST:
            raise ValueError(f"value type {kind}")
        inner = self.number("I")
        count = self.number("Q")
        if inner in _SCALARS:
            form = _SCALARS[inner]
            form = "B" if form == "?" else form
            return array(form, self.take(count * struct.calcsize(form)))
        if count > self.left:
            raise _CutShort
        return [self.value(inner, depth + 1) for _ in range(count)]


def read(path: Path) -> Header:
    """Return the header of a GGUF file.

    Raises Damaged when it is no such file, cut short or contradicts itself, Unsupported
    for another version of the format.
    """
    stat = path.stat()
    return _read(path, stat.st_size, stat.st_mtime_ns)


@lru_cache(maxsize=8)
def _read(path: Path, size: int, _changed: int) -> Header:
    if size < 24:
        raise _damaged(path, say(f"it has only {size} bytes", f"只有 {size} 字节"))
    with (
        path.open("rb") as file,
        mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data,
    ):
        cursor = _Cursor(data)
        if cursor.take(4) != MAGIC:
            raise _damaged(path, say("it does not begin with GGUF", "开头不是 GGUF"))
        _check_version(cursor.number("I"), path)
        try:
            return _header(cursor, path)
        except _CutShort:
            problem = say(
                f"it is cut short: its header goes on past its {size:,} bytes",
                f"文件不完整：文件头超出了文件的 {size:,} 字节",
            )
            raise _damaged(path, problem) from None
        except (ValueError, struct.error, OverflowError) as error:
            problem = say(
                f"its header makes no sense ({error})", f"文件头无法解读（{error}）"
            )
            raise _damaged(path, problem) from None


def _check_version(version: int, path: Path) -> None:
    if version not in (2, 3):
        raise Unsupported(
            say(
                f"{path} is GGUF version {version}; versions 2 and 3 are read.",
                f"{path} 是 GGUF 第 {version} 版；支持第 2、3 版。",
            ),
            say(
                "Convert it with a current llama.cpp.",
                "请用当前的 llama.cpp 转换。",
            ),
        )


def _header(cursor: _Cursor, path: Path) -> Header:
    tensor_count = cursor.number("Q")
    pair_count = cursor.number("Q")
    # A tensor takes at least 24 bytes of the header, a pair 13.
    if tensor_count * 24 > cursor.size or pair_count * 13 > cursor.size:
        raise _CutShort
    metadata: dict[str, Any] = {}
    for _ in range(pair_count):
        key = cursor.string()
        metadata[key] = cursor.value(cursor.number("I"))
    types = set[str]()
    parameters = 0
    data_size = 0
    for _ in range(tensor_count):
        name, count, end = _tensor(cursor)
        types.add(name)
        parameters += count
        data_size = max(data_size, end)
    alignment = int(metadata.get("general.alignment", 32)) or 32
    data_begin = -(-cursor.position // alignment) * alignment
    expected = data_begin + data_size
    if expected > cursor.size:
        problem = say(
            f"it is cut short: {cursor.size:,} bytes where its header promises {expected:,}",
            f"文件不完整：只有 {cursor.size:,} 字节，文件头标明 {expected:,} 字节",
        )
        raise _damaged(path, problem)
    return Header(metadata, frozenset(types), parameters)


def _tensor(cursor: _Cursor) -> tuple[str, int, int]:
    """The next tensor: its number format, how many numbers it has, and where it ends in
    the data.
    """
    cursor.string()  # its name
    dimensions = cursor.number("I")
    if dimensions > _DIMENSIONS:
        raise ValueError(f"a tensor of {dimensions} dimensions")
    count = 1
    for _ in range(dimensions):
        count *= cursor.number("Q")
    name, values, size = _TYPES.get(cursor.number("I"), ("other", 1, 0))
    offset = cursor.number("Q")
    return name, count, offset + count // values * size


def _damaged(path: Path, why: str) -> Damaged:
    return Damaged(
        in_each(
            lambda: say(
                f"{path} is not a whole GGUF file: {why}.",
                f"{path} 不是完整的 GGUF 文件：{why}。",
            )
        ),
        say("Copy or download it again.", "请重新复制或下载。"),
    )
