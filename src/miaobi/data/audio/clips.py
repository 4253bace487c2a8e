"""What every source of sound yields: clips, and the files they are in. Nothing is decoded
here: `media` does that.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from miaobi.core.errors import Damaged, nearest
from miaobi.core.language import say
from miaobi.data.audio.media import HEADERLESS
from miaobi.data.encoding import Problem, Report, open_bytes
from miaobi.data.image.listing import is_hidden, listing

ENDINGS = frozenset(
    {
        ".wav",
        ".flac",
        ".mp3",
        ".ogg",
        ".oga",
        ".opus",
        ".m4a",
        ".aac",
        ".aif",
        ".aiff",
        ".au",
        ".caf",
        ".w64",
        ".wma",
        ".webm",
        ".amr",
        *HEADERLESS,
    }
)

LONGEST_LINE = 1 << 16
"""Bytes of a line that is looked at to tell what a file is."""


class Segment(NamedTuple):
    """A phone or a word of a clip, in seconds from its begin."""

    name: str
    begin: float
    end: float


@dataclass(frozen=True)
class Clip:
    """One recording, or a part of one, with what its source says of it."""

    name: str
    """Unique within the source: the id that it gives, or a relative path."""
    path: Path
    """The sound file."""
    text: str = ""
    """What is said, or what is heard, as it is written."""
    spoken: str = ""
    """What is said in words alone ("twenty" for "20"), where the source has it."""
    speaker: str = ""
    label: str | None = None
    """A class by name."""
    begin: float = 0.0
    """Seconds into the file."""
    end: float | None = None
    """None for the end of the file."""
    split: str = ""
    """"train", "validation" or "test", where the source names one."""
    segments: tuple[Segment, ...] = ()
    meta: Mapping[str, str] = field(default_factory=dict)
    source: Path | None = None
    """The table that describes it, if one does."""
    line: int = 0
    """In that table, from 1."""

    @property
    def location(self) -> tuple[Path, int]:
        """The file and line that problems name."""
        return (self.source, self.line) if self.source else (self.path, 0)


def is_sound(file: PurePosixPath | Path) -> bool:
    """Return whether the ending of a file's name is that of a sound."""
    return file.suffix.lower() in ENDINGS


def sounds_in(folder: Path) -> list[Path]:
    """Return every sound file of a folder and its folders, sorted."""
    return [file for file in listing(folder).files if is_sound(file)]


def first_lines(table: Path, count: int) -> list[str]:
    """Return the first lines of a file that are not blank, to tell what it is; in another
    encoding than UTF-8 only its ASCII is right. Empty for a damaged file.
    """
    lines = list[str]()
    try:
        with open_bytes(table) as file:
            while len(lines) < count and (raw := file.readline(LONGEST_LINE)):
                line = raw.decode("utf-8-sig", "replace").strip()
                lines += [line] if line else []
    except Damaged:
        return []
    return lines


def is_near(folder: Path, name: str) -> bool:
    """Return whether a table in `folder` may name a recording so: it is called as a sound
    is, or a file of this name and a sound's ending lies in the folder or one below it.
    """
    written = name.strip().replace("\\", "/")
    if not written or len(written) > 255 or "\0" in written:
        return False
    if is_sound(PurePosixPath(written)):
        return True
    folders = [folder, *(item for item in folder.iterdir() if item.is_dir())]
    return any(
        (base / f"{written}{ending}").is_file()
        for base in folders
        for ending in ENDINGS
    )


class Recordings:
    """The sound files of a folder, by the names that tables call them."""

    def __init__(self, folder: Path, files: Iterable[Path] | None = None) -> None:
        self.folder = folder
        self.files = sounds_in(folder) if files is None else list(files)
        self._by_name = dict[str, Path | None]()
        for file in self.files:
            for name in _names(file.relative_to(folder)):
                other = self._by_name.get(name, file)
                self._by_name[name] = file if other == file else None

    def find(self, name: str) -> Path | None:
        """Return the file that is meant by an id or a path, with or without its ending
        and the folders above it; None where there is none, or more than one.
        """
        written = name.strip().replace("\\", "/")
        path = PurePosixPath(written)
        if path.is_absolute():
            file = Path(path)
            return file if is_sound(file) and file.is_file() else None
        if ".." in path.parts:
            return None
        exact = self.folder / path
        if is_sound(exact) and exact.is_file() and not is_hidden(path):
            return exact
        return self._by_name.get(str(path).casefold())

    def nearest(self, name: str) -> str:
        """Return a remedy that names the files that are nearly called so."""
        names = (file.name for file in self.files)
        return nearest(PurePosixPath(name).name, names)


def _names(path: Path) -> Iterator[str]:
    """Every name of a file: with fewer and fewer folders, with and without its ending."""
    parts = path.as_posix().casefold().split("/")
    for first in range(len(parts)):
        name = "/".join(parts[first:])
        yield name
        yield name.removesuffix(path.suffix.casefold())


class Clips:
    """Checks what all tables of clips get wrong, and yields what is right."""

    def __init__(self, recordings: Recordings, report: Report) -> None:
        self.recordings = recordings
        self.report = report
        self._lines = dict[str, int]()

    def file_of(
        self, name: str, table: Path, line: int, written: str = ""
    ) -> Path | None:
        """Return the file of a clip that a table names; reports one that is not there,
        and a name that was there before.

        Args:
            name: of the clip.
            table: the file that names it, with its `line`.
            written: the file, where it is not called as the clip is.
        """
        earlier = self._lines.setdefault(name, line)
        if earlier != line:
            self.report(_twice(table, line, name, earlier))
            return None
        file = self.recordings.find(written or name)
        if file is None:
            self.report(self._absent(table, line, written or name))
        return file

    def has_text(self, text: str, table: Path, line: int, name: str) -> bool:
        """Return whether there is a text; reports where there is none."""
        if text.strip():
            return True
        self.report(
            Problem(
                table,
                line,
                say(f"{name!r} has no text.", f"{name!r} 没有文本。"),
                say(
                    "Write what is said, or leave the line out.",
                    "请写出内容，或去掉该行。",
                ),
            )
        )
        return False

    def _absent(self, table: Path, line: int, name: str) -> Problem:
        put = say(
            "Put the recording there, or leave the line out.",
            "请放入该录音，或去掉该行。",
        )
        return Problem(
            table,
            line,
            say(
                f"it names the recording {name!r}, which is not there.",
                f"所指的录音 {name!r} 不存在。",
            ),
            self.recordings.nearest(name) or put,
        )


def attributes(path: Path, report: Report) -> dict[str, Any]:
    """Return the JSON object of a file that describes one recording; reports a file
    without one.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8-sig"))
    except (ValueError, RecursionError) as error:
        reason = str(error)
    else:
        if isinstance(value, dict):
            return value
        reason = say("it is no object.", "不是对象。")
    report(
        Problem(
            path,
            0,
            say(
                f"it does not describe its recording: {reason}",
                f"没有说明对应的录音：{reason}",
            ),
            say('Write {"text": "…"}.', '请写成 {"text": "…"} 的形式。'),
        )
    )
    return {}


def _twice(table: Path, line: int, name: str, earlier: int) -> Problem:
    return Problem(
        table,
        line,
        say(
            f"{name!r} is there twice, first in line {earlier}.",
            f"{name!r} 出现两次，首次在第 {earlier} 行。",
        ),
        say("Keep one of the lines.", "请只保留一行。"),
    )


def uneven(table: Path, line: int, columns: int, usual: int) -> Problem:
    """Return the problem of a line with another number of columns than the others."""
    return Problem(
        table,
        line,
        say(
            f"the line has {columns} columns, the others have {usual}.",
            f"该行有 {columns} 列，其他行有 {usual} 列。",
        ),
        say(
            'Separate with "|"; a text that holds "|" must stand in quotes with every column quoted.',
            "请用 “|” 分隔；文本中含有 “|” 时，该行每一列都要加引号。",
        ),
    )
