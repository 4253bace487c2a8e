"""Kaldi's data folders: wav.scp (an utterance or recording, and its file), and beside it
text, utt2spk and segments, each line beginning with an id.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from miaobi.core.language import say
from miaobi.data.audio.clips import Clip, Clips, Recordings
from miaobi.data.encoding import Problem, Report, numbered_lines

Lines = dict[str, tuple[int, str]]
"""Number and rest of each line, by its id."""


def holds(path: Path) -> bool:
    return path.is_dir() and (path / "wav.scp").is_file()


def read(path: Path, report: Report) -> Iterator[Clip]:
    """Yield the utterances; a command in wav.scp is reported, never run."""
    wav_scp = path / "wav.scp"
    clips = Clips(Recordings(path), report)
    files = dict[str, Path]()
    for name, (line, written) in _lines(wav_scp, report).items():
        if written.endswith("|"):
            report(_command(wav_scp, line, written))
            continue
        file = _near(path, written)
        if file is None:
            file = clips.file_of(name, wav_scp, line, written)
        if file:
            files[name] = file
    texts = _lines(path / "text", report)
    speakers = _lines(path / "utt2spk", report)
    has_texts = (path / "text").is_file()
    for name, recording, begin, end, line in _utterances(path, files, report):
        text_line, text = texts.get(name, (0, ""))
        table = path / "text"
        if has_texts and not clips.has_text(text, table, text_line, name):
            continue
        yield Clip(
            name,
            files[recording],
            text,
            speaker=speakers.get(name, (0, ""))[1],
            begin=begin,
            end=end,
            source=wav_scp,
            line=line,
        )


def _near(folder: Path, written: str) -> Path | None:
    """The file of a path relative to the folder or, as Kaldi has it, to where the recipe
    ran: one of the folders above.
    """
    relative = Path(written)
    if relative.is_absolute() or ".." in relative.parts:
        return None
    for base in (folder, *folder.absolute().parents[:3]):
        if (base / relative).is_file():
            return base / relative
    return None


def _utterances(
    path: Path, files: dict[str, Path], report: Report
) -> Iterator[tuple[str, str, float, float | None, int]]:
    """(utterance, recording, begin, end, line), of segments where that file is there."""
    segments = path / "segments"
    if not segments.is_file():
        for name, (line, _) in _lines(path / "wav.scp", report).items():
            if name in files:
                yield name, name, 0.0, None, line
        return
    for name, (line, rest) in _lines(segments, report).items():
        try:
            recording, begin, end = rest.split()
            times = float(begin), float(end)
            if not 0 <= times[0] < times[1]:
                raise ValueError(rest)
        except ValueError:
            report(_no_segment(segments, line, rest))
            continue
        if recording in files:
            yield name, recording, *times, line


def _lines(table: Path, report: Report) -> Lines:
    """The lines of a table by their ids; empty where there is no such file."""
    lines: Lines = {}
    if not table.is_file():
        return lines
    for number, line in numbered_lines(table, report):
        name, _, rest = line.strip().partition(" ")
        name, _, after_tab = name.partition("\t")
        if not name:
            continue
        if name in lines:
            report(
                Problem(
                    table,
                    number,
                    say(
                        f"{name!r} is there twice, first in line {lines[name][0]}.",
                        f"{name!r} 出现两次，首次在第 {lines[name][0]} 行。",
                    ),
                    say("Keep one of the lines.", "请只保留一行。"),
                )
            )
            continue
        lines[name] = number, f"{after_tab} {rest}".strip()
    return lines


def _command(table: Path, line: int, written: str) -> Problem:
    return Problem(
        table,
        line,
        say(
            f"{written[:60]!r} is a command, which is not run.",
            f"{written[:60]!r} 是命令，不会执行。",
        ),
        say(
            "Run it once, and name the file that it makes.",
            "请先执行一次，再写入所得文件的路径。",
        ),
    )


def _no_segment(table: Path, line: int, rest: str) -> Problem:
    return Problem(
        table,
        line,
        say(
            f"{rest!r} is no segment.",
            f"{rest!r} 不是有效的片段。",
        ),
        say(
            "Write: utterance recording begin end, in seconds.",
            "格式：语句 录音 起点 终点（秒）。",
        ),
    )
