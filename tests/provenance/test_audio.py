"""Generated sound leaves labelled: the facts come back out of every format."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from miaobi.core.artifacts import Audio, Facts
from miaobi.core.errors import Unsupported
from miaobi.data.audio import media
from miaobi.provenance import audio
from miaobi.provenance.label import NOTICE, SOURCE_TYPE
from miaobi.provenance.publish import publish

FACTS = Facts(
    "kokoro", "1", "voices", "abc", 7, {"text": '"你好"; a=b\nc', "speed": 1.1}
)
SAMPLES = np.sin(np.arange(4800, dtype=np.float32) / 10) / 2


@pytest.mark.parametrize("ending", audio.ENDINGS)
def test_the_facts_come_back(tmp_path: Path, ending: str) -> None:
    sound = Audio(SAMPLES, 24_000, FACTS, "length")
    path = publish(sound, tmp_path / f"hello{ending}")
    facts = audio.read_record(path)
    assert facts == json.loads(json.dumps(audio.record(sound)))
    assert facts["notice"] == NOTICE
    assert facts["digitalSourceType"] == SOURCE_TYPE
    assert facts["finish"] == "length"
    assert NOTICE in media.probe(path).tags["title"]
    assert media.read(path).seconds == pytest.approx(0.2, abs=0.1)


def test_long_facts_come_back() -> None:
    """A text of many pages stands in the facts of its speech."""
    facts = Facts("kokoro", parameters={"text": "很长的文字。" * 20_000})
    for ending in audio.ENDINGS:
        file = audio.encode([Audio(SAMPLES, 24_000, facts)], ending)
        assert audio.read_record(file)["parameters"] == facts.parameters


def test_somebody_elses_comment_is_no_record() -> None:
    for comment in ("nice song", "[1, 2]", ""):
        file = media.encode(SAMPLES, 24_000, ".flac", {"comment": comment})
        assert audio.read_record(file) == {}


def test_several_sounds_become_numbered_files(tmp_path: Path) -> None:
    sounds = [Audio(SAMPLES, 24_000, FACTS)] * 2
    publish(sounds, tmp_path / "out")
    names = sorted(file.name for file in (tmp_path / "out").iterdir())
    assert names == ["000.wav", "001.wav", "index.jsonl"]
    with pytest.raises(Unsupported, match="2 sounds"):
        publish(sounds, tmp_path / "both.wav")


def test_pieces_of_a_sound_are_joined_in_order() -> None:
    pieces = [Audio(np.full(3, i, np.float32), 8_000, FACTS) for i in (1, 2)]
    whole = Audio.join(pieces)
    assert whole.samples.tolist() == [1, 1, 1, 2, 2, 2]
    assert whole.seconds == 6 / 8_000
