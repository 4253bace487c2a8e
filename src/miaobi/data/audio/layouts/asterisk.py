"""Asterisk's prompts: core-sounds-LANGUAGE.txt (also gzip) with a line for each, and the
recordings below a folder of their speaker (en_US_f_Allison).

    digits/1: one
    beep: [this is a simple beep tone]

What stands in brackets is heard and not said: it is the clip's label.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from miaobi.data.audio.clips import Clip, Clips, Recordings
from miaobi.data.encoding import Report, numbered_lines
from miaobi.data.image.listing import visible

TABLE = re.compile(r"(core|extra)-sounds-\w+\.txt(\.gz)?")
HEARD = re.compile(r"[\[<]([^\]>]*)[\]>]")
SPEAKER = re.compile(r"[a-z]{2}_[A-Z]{2}_[a-z]_\w+")


def holds(path: Path) -> bool:
    return path.is_dir() and any(map(_is_table, visible(path)))


def read(path: Path, report: Report) -> Iterator[Clip]:
    clips = Clips(Recordings(path), report)
    for table in filter(_is_table, visible(path)):
        for number, line in numbered_lines(table, report):
            name, separator, rest = line.strip().partition(": ")
            if not separator or name.startswith(";"):
                continue
            heard = [sound.strip() for sound in HEARD.findall(rest)]
            text = " ".join(HEARD.sub(" ", rest).split())
            file = clips.file_of(name, table, number)
            if file is None:
                continue
            if not text and not heard:
                clips.has_text(text, table, number, name)
                continue
            yield Clip(
                name,
                file,
                text,
                speaker=_speaker(file),
                label=None if text else heard[0],
                source=table,
                line=number,
            )


def _is_table(file: Path) -> bool:
    return TABLE.fullmatch(file.name) is not None


def _speaker(file: Path) -> str:
    """The folder that names language, country, sex and name; else none."""
    folders = (folder.name for folder in file.parents)
    return next((name for name in folders if SPEAKER.fullmatch(name)), "")
