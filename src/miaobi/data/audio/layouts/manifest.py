"""Manifests: a JSON object a line for each recording, as audiocraft and NeMo write them
(also gzip).

    {"path": "a.wav", "duration": 3.2, "sample_rate": 16000}
    {"audio_filepath": "a.wav", "text": "hello", "offset": 1.5, "duration": 2.0}

audiocraft's description of a recording may stand in a JSON file of the same name.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from miaobi.core.language import say
from miaobi.data.audio.clips import (
    Clip,
    Clips,
    Recordings,
    attributes,
    first_lines,
    is_sound,
)
from miaobi.data.encoding import Problem, Report
from miaobi.data.text.files import json_lines

ENDINGS = (".jsonl", ".jsonl.gz", ".json", ".json.gz")
PATHS = ("path", "audio_filepath", "audio", "wav", "file_name", "audio_path")
TEXTS = ("text", "description", "caption", "transcription", "title")
SPEAKERS = ("speaker", "speaker_id", "speaker_name")
LABELS = ("label", "class", "category")
USED = {*PATHS, *TEXTS, *SPEAKERS, *LABELS, "offset"}


def holds(path: Path) -> bool:
    """Return whether the first line of a file, or of one in a folder, names a sound."""
    return any(map(_names_a_sound, _tables(path)))


def read(path: Path, report: Report) -> Iterator[Clip]:
    for table in filter(_names_a_sound, _tables(path)):
        clips = Clips(Recordings(table.parent), report)
        for number, record in json_lines(table, report):
            yield from _clip(clips, table, number, record)


def _clip(clips: Clips, table: Path, line: int, record: Any) -> Iterator[Clip]:
    name = _first(record, PATHS) if isinstance(record, dict) else ""
    if not name:
        clips.report(
            Problem(
                table,
                line,
                say("it names no recording.", "没有指明录音。"),
                say(
                    'Write {"path": "a.wav"} and what you know of it.',
                    '请写成 {"path": "a.wav"} 的形式。',
                ),
            )
        )
        return
    begin, length = record.get("offset") or 0, record.get("duration")
    times = [value for value in (begin, length) if value is not None]
    if not all(isinstance(value, int | float) and value >= 0 for value in times):
        clips.report(
            Problem(
                table,
                line,
                say(
                    f"offset {begin!r} and duration {length!r} are no times.",
                    f"offset {begin!r} 与 duration {length!r} 不是有效时间。",
                ),
                say("Write seconds, as numbers.", "请写成以秒为单位的数字。"),
            )
        )
        return
    key = f"{name}@{begin}" if begin else name
    file = clips.file_of(key, table, line, written=name)
    if file is None:
        return
    described = file.with_suffix(".json")
    values = dict(record)
    if described.is_file():
        values = {**attributes(described, clips.report), **record}
    is_part = "offset" in record and length is not None
    yield Clip(
        key,
        file,
        _first(values, TEXTS),
        speaker=_first(values, SPEAKERS),
        label=_first(values, LABELS) or None,
        begin=float(begin),
        end=begin + length if is_part else None,
        meta={
            other: str(value)
            for other, value in values.items()
            if other not in USED and value not in (None, "")
        },
        source=table,
        line=line,
    )


def _tables(path: Path) -> list[Path]:
    if path.is_file():
        return [path] if path.name.endswith(ENDINGS) else []
    files = (file for file in path.iterdir() if file.is_file())
    return sorted(file for file in files if file.name.endswith(ENDINGS[:2]))


def _names_a_sound(table: Path) -> bool:
    try:
        record = json.loads("".join(first_lines(table, 1)))
    except (ValueError, RecursionError):
        return False
    if not isinstance(record, dict) or "file_name" in record:
        return False
    return is_sound(Path(_first(record, PATHS)))


def _first(record: Mapping[str, Any], names: tuple[str, ...]) -> str:
    for name in names:
        value = record.get(name)
        if isinstance(value, str) and value.strip():
            return value.strip()
    return ""
