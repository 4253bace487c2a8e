"""The writer of sound: files that say where they came from.

Each file carries the notice as its title and its facts as JSON in its comment, in the
tags of its own format (RIFF INFO, ID3, Vorbis comments, MP4), and is read back before
it leaves.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO

from miaobi import __version__
from miaobi.core.artifacts import Audio
from miaobi.core.errors import Damaged, Unsupported
from miaobi.core.language import say
from miaobi.data.audio import media
from miaobi.provenance.label import NOTICE
from miaobi.provenance.label import record as record

ARTIFACT = Audio
ENDINGS = {
    ending: media.media_type(ending)
    for ending in (".wav", ".mp3", ".flac", ".opus", ".ogg", ".m4a", ".aac")
}
NUMBERED = True


def encode(sounds: Sequence[Audio], ending: str) -> bytes:
    """Return the file of one sound. Raises Unsupported for several."""
    if len(sounds) > 1:
        raise Unsupported(
            say(
                f"{len(sounds)} sounds do not fit into one file.",
                f"一个文件容纳不下 {len(sounds)} 段声音。",
            ),
            say(
                "Name a folder: each becomes a numbered file.",
                "请给出文件夹：每段各成一个编号文件。",
            ),
        )
    sound = sounds[0]
    facts = record(sound)
    file = media.encode(sound.samples, sound.rate, ending, tags(facts))
    if read_record(file) != json.loads(json.dumps(facts)):
        raise Damaged(
            say(
                "The sound was encoded, but reads back without its facts.",
                "声音编码后读不回其生成信息。",
            ),
            say("Try another ending, such as .flac.", "请换一种扩展名，例如 .flac。"),
        )
    return file


def tags(facts: dict[str, Any]) -> dict[str, str]:
    """Return the tags of a file that was made with these facts."""
    return {
        "title": f"{NOTICE} · {facts.get('model', '')}",
        "comment": json.dumps(facts, ensure_ascii=False),
        "encoded_by": f"miaobi {__version__}",
    }


def read_record(file: Path | bytes | BinaryIO) -> dict[str, Any]:
    """The record that a sound file carries; empty where there is none."""
    comment = media.probe(file).tags.get("comment", "")
    try:
        value = json.loads(comment or "{}")
    except ValueError:  # somebody else's comment
        return {}
    return value if isinstance(value, dict) else {}
