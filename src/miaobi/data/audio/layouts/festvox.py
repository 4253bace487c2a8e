"""Festvox: etc/txt.done.data with the texts, wav/ with the recordings, lab/ with the times
at which the phones end.

    ( ru_0001 "Она завела прядь волос за ухо." )
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from miaobi.core.language import say
from miaobi.data.audio.clips import Clip, Clips, Recordings, Segment
from miaobi.data.encoding import Problem, Report, numbered_lines

TEXTS = Path("etc/txt.done.data")
UTTERANCE = re.compile(r'\(\s*(\S+)\s+"((?:[^"\\]|\\.)*)"\s*\)')
ESCAPE = re.compile(r"\\(.)")


def holds(path: Path) -> bool:
    return (path / TEXTS).is_file()


def read(path: Path, report: Report) -> Iterator[Clip]:
    table = path / TEXTS
    clips = Clips(Recordings(path), report)
    for number, line in numbered_lines(table, report):
        if not line.strip():
            continue
        utterance = UTTERANCE.fullmatch(line.strip())
        if utterance is None:
            report(
                Problem(
                    table,
                    number,
                    say(
                        f"{line.strip()[:60]!r} is no utterance.",
                        f"{line.strip()[:60]!r} 不是有效的语句。",
                    ),
                    say('Write: ( id "text" )', "格式：( 编号 “文本” )，引号用半角。"),
                )
            )
            continue
        name, text = utterance[1], ESCAPE.sub(r"\1", utterance[2])
        file = clips.file_of(name, table, number)
        if file and clips.has_text(text, table, number, name):
            segments = _segments(path / "lab" / f"{name}.lab", report)
            yield Clip(name, file, text, segments=segments, source=table, line=number)


def _segments(table: Path, report: Report) -> tuple[Segment, ...]:
    """The phones of a label file: lines of end, colour and name below a line "#"."""
    if not table.is_file():
        return ()
    segments = list[Segment]()
    begin = 0.0
    is_head = True
    for number, line in numbered_lines(table, report):
        if is_head:
            is_head = line.strip() != "#"
            continue
        columns = line.split()
        if not columns:
            continue
        try:
            end = float(columns[0])
            name = columns[2]
        except (ValueError, IndexError):
            report(
                Problem(
                    table,
                    number,
                    say(
                        f"{line.strip()!r} is no label.",
                        f"{line.strip()!r} 不是有效的标注。",
                    ),
                    say("Write: end colour phone", "格式：终点 颜色 音素"),
                )
            )
            return ()
        segments.append(Segment(name, begin, end))
        begin = end
    return tuple(segments)
