"""VCTK: a folder of recordings and one of texts, with a folder for each speaker in both.

    wav48_silence_trimmed/p225/p225_001_mic1.flac    (0.92; wav48/p225/p225_001.wav in 0.80)
    txt/p225/p225_001.txt

Of several microphones the first is read.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from miaobi.core.language import say
from miaobi.data.audio.clips import Clip, Clips, Recordings, sounds_in
from miaobi.data.encoding import Problem, Report, numbered_lines

MICROPHONE = re.compile(r"_mic(\d+)$")
SOUNDS = re.compile(r"(wav|flac)\d*(_silence_trimmed)?", re.IGNORECASE)


def holds(path: Path) -> bool:
    if not path.is_dir() or not (path / "txt").is_dir():
        return False
    return any(SOUNDS.fullmatch(item.name) for item in path.iterdir() if item.is_dir())


def read(path: Path, report: Report) -> Iterator[Clip]:
    """Yield the recordings that have a text; each without one is reported."""
    speakers = _speakers(path / "speaker-info.txt", report)
    clips = Clips(Recordings(path, ()), report)
    for file in sounds_in(path):
        microphone = MICROPHONE.search(file.stem)
        if microphone and microphone[1] != "1":
            continue
        name = MICROPHONE.sub("", file.stem)
        speaker = file.parent.name
        table = path / "txt" / speaker / f"{name}.txt"
        if not table.is_file():
            report(
                Problem(
                    file,
                    0,
                    say(
                        f"there is no text {table.relative_to(path)}.",
                        f"缺少文本 {table.relative_to(path)}。",
                    ),
                    say(
                        "Put it there, or take the recording away.",
                        "请放入该文本，或移走录音。",
                    ),
                )
            )
            continue
        lines = [line.strip() for _, line in numbered_lines(table, report)]
        text = " ".join(line for line in lines if line)
        if clips.has_text(text, table, 0, name):
            meta = speakers.get(speaker, {})
            yield Clip(name, file, text, speaker=speaker, meta=meta, source=table)


def _speakers(table: Path, report: Report) -> dict[str, dict[str, str]]:
    """Age, gender and accent by speaker."""
    speakers = dict[str, dict[str, str]]()
    if not table.is_file():
        return speakers
    for _, line in numbered_lines(table, report):
        columns = line.split()
        if len(columns) < 4 or columns[0] == "ID":
            continue
        name, age, gender, accent = columns[:4]
        speaker = name if name.startswith(("p", "s")) else f"p{name}"
        speakers[speaker] = {"age": age, "gender": gender, "accent": accent}
    return speakers
