"""A source file: read as it is, a position or some lines of it, whether it parses, and
how it is replaced.
"""

from __future__ import annotations

import ast
import difflib
import re
import textwrap
import warnings
from dataclasses import dataclass, replace
from pathlib import Path

from miaobi.core.errors import BadInput, NotFound
from miaobi.core.files import write_beside
from miaobi.core.language import say

PYTHON = (".py", ".pyi")
POSITION = re.compile(r"(\d+):(\d+)")
LINES = re.compile(r"(\d+)(?:-(\d+))?")


@dataclass(frozen=True)
class Source:
    """A file's text, with its own line ends."""

    path: Path
    text: str

    @property
    def is_python(self) -> bool:
        return self.path.suffix in PYTHON

    @property
    def lines(self) -> list[str]:
        return self.text.splitlines(keepends=True)

    def offset(self, at: str, marker: str) -> tuple[str, str]:
        """Return what stands before and behind a position.

        Args:
            at: line:column, both from 1; empty for the marker, or for the file's end.
            marker: what stands at the position in the text; it is taken out.

        Raises BadInput for a position that is not in the file.
        """
        if at:
            return self._split_at(at)
        if marker and self.text.count(marker) > 1:
            raise BadInput(
                say(
                    f"{self.path} holds {marker} {self.text.count(marker)} times.",
                    f"{self.path} 中有 {self.text.count(marker)} 处 {marker}。",
                ),
                say(
                    "Leave one of them, or give --at line:column.",
                    "请只保留一处，或用 --at 行:列 指定位置。",
                ),
                field="marker",
            )
        if marker and marker in self.text:
            before, _, behind = self.text.partition(marker)
            return before, behind
        return self.text, ""

    def _split_at(self, at: str) -> tuple[str, str]:
        match = POSITION.fullmatch(at)
        if match is None:
            raise BadInput(
                say(f"at is {at!r}.", f"at 为 {at!r}。"),
                say(
                    "Give line and column, both from 1: --at 12:5.",
                    "请给出行与列（均从 1 起）：--at 12:5。",
                ),
                field="at",
            )
        line, column = int(match[1]), int(match[2])
        lines = self.lines
        content = lines[line - 1].rstrip("\r\n") if 1 <= line <= len(lines) else ""
        if not 1 <= line <= max(1, len(lines)) or not 1 <= column <= len(content) + 1:
            raise BadInput(
                say(
                    f"{self.path} has no position {at}: it has {len(lines)} lines, that one {len(content)} columns.",
                    f"{self.path} 中没有位置 {at}：共 {len(lines)} 行，该行 {len(content)} 列。",
                ),
                say("Give a position in the file.", "请给出文件内的位置。"),
                field="at",
            )
        offset = sum(map(len, lines[: line - 1])) + column - 1
        return self.text[:offset], self.text[offset:]

    def part(self, lines: str) -> Part:
        """Return some lines ("10-30", "7") of the file, or all of it where none are named.

        Raises BadInput for lines that are not in the file.
        """
        count = len(self.lines)
        if not lines:
            return Part(self, 0, count)
        match = LINES.fullmatch(lines)
        first = int(match[1]) if match else 0
        last = int(match[2] or match[1]) if match else 0
        if not 1 <= first <= last <= count:
            raise BadInput(
                say(
                    f"lines is {lines!r}; {self.path} has lines 1 to {count}.",
                    f"lines 为 {lines!r}；{self.path} 共有 1 到 {count} 行。",
                ),
                say("Give them as 10-30.", "请写成 10-30 的形式。"),
                field="lines",
            )
        return Part(self, first - 1, last)

    def check(self) -> None:
        """Raise BadInput, by line, for Python that does not parse."""
        error = syntax_error(self.text) if self.is_python else None
        if error is not None:
            raise BadInput(
                say(
                    f"{self.path}:{error.lineno}: {error.msg}.",
                    f"{self.path}:{error.lineno}：{error.msg}。",
                ),
                say(
                    "Mend that line first; miaobi code complete works on unfinished files.",
                    "请先修正该行；未写完的文件可用 miaobi code complete。",
                ),
            )

    def diff(self, new: Source) -> str:
        """Return what changes, as a unified diff that `patch` takes."""
        lines = difflib.unified_diff(
            self.lines, new.lines, f"a/{self.path}", f"b/{self.path}"
        )
        marked = (
            line if line.endswith("\n") else f"{line}\n\\ No newline at end of file\n"
            for line in lines
        )
        return "".join(marked)

    def write(self) -> None:
        """Write the text beside the file, then rename it; the file's mode stays."""
        with write_beside(self.path) as draft:
            draft.write_bytes(self.text.encode())
            draft.chmod(self.path.stat().st_mode)


@dataclass(frozen=True)
class Part:
    """Lines `first` up to `last` of a source, from 0."""

    source: Source
    first: int
    last: int

    @property
    def text(self) -> str:
        """The lines without the indentation that they share, with plain line ends."""
        lines = self.source.lines[self.first : self.last]
        plain = [line.replace("\r\n", "\n") for line in lines]
        return textwrap.dedent("".join(plain))

    def replaced(self, text: str) -> Source:
        """Return the source with these lines replaced, indented and ended as they were."""
        lines = self.source.lines
        old = lines[self.first : self.last]
        first_line = next((line for line in old if line.strip()), "")
        indentation = first_line[: len(first_line) - len(first_line.lstrip())]
        new = textwrap.indent(text.strip("\n") + "\n", indentation)
        if old and old[0].endswith("\r\n"):
            new = new.replace("\n", "\r\n")
        if old and not old[-1].endswith("\n"):
            new = new.rstrip("\r\n")
        before, behind = lines[: self.first], lines[self.last :]
        return replace(self.source, text="".join([*before, new, *behind]))


def read(path: Path) -> Source:
    """Return a source file. Raises NotFound, BadInput for what is not UTF-8."""
    if not path.is_file():
        raise NotFound(
            say(f"There is no file {path}.", f"文件 {path} 不存在。"),
            say("Check the path.", "请检查路径。"),
        )
    try:
        return Source(path, path.read_bytes().decode())
    except UnicodeDecodeError as error:
        raise BadInput(
            say(
                f"{path} is not UTF-8 (byte {error.start}).",
                f"{path} 不是 UTF-8 编码（第 {error.start} 字节）。",
            ),
            say("Save it as UTF-8.", "请另存为 UTF-8。"),
        ) from None


def syntax_error(text: str) -> SyntaxError | None:
    """Return why Python does not parse a text; None where it does."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SyntaxWarning)
        try:
            ast.parse(text)
        except SyntaxError as error:
            return error
        except ValueError as error:  # a zero byte
            return SyntaxError(str(error), (None, 1, None, None))
    return None
