"""LJSpeech: lines of a recording's id and its text, separated by "|".

    LJ001-0001|Printed in 1460.|Printed in fourteen sixty.
    clip_1|anna|Good morning.

Two columns are id and text. Of three, either the last two are a text as written and as
spoken, or one of them is the speaker: their content tells which. A first line of names
(file|speaker|text) settles it. The recordings lie anywhere below the table's folder.
"""

from __future__ import annotations

import csv
import difflib
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import mean

from miaobi.core.language import say
from miaobi.data.audio.clips import (
    Clip,
    Clips,
    Recordings,
    first_lines,
    is_near,
    uneven,
)
from miaobi.data.encoding import Problem, Report, numbered_lines

TABLES = ("metadata.csv", "metadata.txt", "metadata_train.csv", "metadata_val.csv")
NAMES = {
    "file": (
        "file",
        "file_name",
        "filename",
        "id",
        "wav",
        "path",
        "audio",
        "audio_file",
    ),
    "text": ("text", "transcription", "transcript", "sentence", "raw_text"),
    "spoken": ("spoken", "normalized", "normalised", "normalized_text"),
    "speaker": ("speaker", "speaker_id", "speaker_name", "speakers"),
}
"""What a first line of names may call each column."""
COMPARED = 50
"""Lines whose second and third columns are compared."""
ALIKE = 0.35
"""From this mean likeness on (difflib), two columns are the same text."""
Row = tuple[int, list[str]]


def holds(path: Path) -> bool:
    """Return whether a table of this kind is there, or is this file: its first line names
    a recording that lies near it.
    """
    return any(map(_names_a_recording, _tables(path)))


def _names_a_recording(table: Path) -> bool:
    rows = list(map(_columns, first_lines(table, 2)))
    if rows and _header(rows[0]):
        del rows[0]
    if not rows or len(rows[0]) < 2:
        return False
    return is_near(table.parent, rows[0][0])


def read(path: Path, report: Report) -> Iterator[Clip]:
    """Yield the clips of a table, or of each table of a folder."""
    for table in _tables(path):
        clips = Clips(Recordings(table.parent), report)
        rows = [
            (number, _columns(line))
            for number, line in numbered_lines(table, report)
            if line.strip()
        ]
        if not rows:
            continue
        header = _header(rows[0][1])
        if header:
            rows = rows[1:]
        usual = len(header) or _usual_columns(rows)
        even = list[Row]()
        for row in rows:
            if len(row[1]) == usual:
                even.append(row)
            else:
                report(uneven(table, row[0], len(row[1]), usual))
        names = header or _meaning(table, even, usual)
        for number, columns in even:
            values = dict(zip(names, columns))
            text = values.get("text") or values.get("spoken", "")
            file = clips.file_of(values["file"], table, number)
            if file and clips.has_text(text, table, number, values["file"]):
                yield Clip(
                    values["file"],
                    file,
                    text,
                    values.get("spoken", ""),
                    values.get("speaker", ""),
                    source=table,
                    line=number,
                )


def _tables(path: Path) -> list[Path]:
    if path.is_file():
        return [path] if path.suffix.lower() in (".csv", ".txt") else []
    return [path / name for name in TABLES if (path / name).is_file()]


def _columns(line: str) -> list[str]:
    """The columns of a line; quotes belong to the text, unless they are around the id."""
    text = line.rstrip("\n")
    row = text.split("|")
    if text.startswith('"'):
        row = next(csv.reader([text], delimiter="|"))
    return [column.strip() for column in row]


def _header(row: Sequence[str]) -> list[str]:
    """What each column means, where a row is names of columns; else empty."""
    meaning = [
        next((name for name, words in NAMES.items() if column.lower() in words), "")
        for column in row
    ]
    is_header = {"file", "text"} <= set(meaning) and "" not in meaning
    return meaning if is_header else []


def _usual_columns(rows: Sequence[Row]) -> int:
    return Counter(len(row) for _, row in rows).most_common(1)[0][0]


def _meaning(table: Path, rows: Sequence[Row], columns: int) -> list[str]:
    """What each column means, by its content. Raises BadInput for other than 2 or 3."""
    if columns == 2:
        return ["file", "text"]
    if columns != 3:
        raise Problem(
            table,
            rows[0][0],
            say(
                f"the lines have {columns} columns; what they mean cannot be told.",
                f"每行有 {columns} 列，无法判断各列的含义。",
            ),
            say(
                'Write their names in the first line, such as "file|speaker|text".',
                "请在首行写明列名，例如 “file|speaker|text”。",
            ),
        ).error()
    second = [row[1] for _, row in rows]
    third = [row[2] for _, row in rows]
    pairs = list(zip(second, third))[:COMPARED]
    likeness = mean(difflib.SequenceMatcher(None, *pair).ratio() for pair in pairs)
    if likeness >= ALIKE:
        return ["file", "text", "spoken"]
    if _as_speakers(second) <= _as_speakers(third):
        return ["file", "speaker", "text"]
    return ["file", "text", "speaker"]


def _as_speakers(column: Sequence[str]) -> tuple[int, float]:
    """The smaller, the likelier a column names speakers: few, and short."""
    return len(set(column)), mean(map(len, column))
