"""One suite over every registered writer: each ending carries the facts, several
artifacts have a file or a folder, and what cannot be written leaves nothing.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image as Pillow

from miaobi.core.artifacts import (
    Artifact,
    Audio,
    Embedding,
    Facts,
    Image,
    Text,
    Video,
)
from miaobi.core.errors import Unsupported
from miaobi.core.requests import requests
from miaobi.data.audio import media
from miaobi.provenance import Writer, audio, writers
from miaobi.provenance.image import read_record
from miaobi.provenance.label import NOTICE
from miaobi.provenance.publish import check_ending, encode, publish

FACTS = Facts("画家", "2", "toy", "abc123", 7, {"prompt": "雪中的狐狸"})
TONE = np.sin(np.arange(4800) / 20, dtype=np.float32) / 2
PIXELS = np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)

CASES: dict[str, Callable[[Facts], Artifact]] = {
    "Text": lambda facts: Text("春江潮水", facts),
    "Image": lambda facts: Image(PIXELS, facts),
    "Audio": lambda facts: Audio(TONE, 24_000, facts),
    "Video": lambda facts: Video(np.stack([PIXELS, 255 - PIXELS]), 10, facts),
    "Embedding": lambda facts: Embedding(np.eye(2, 3, dtype=np.float32), facts),
}
"""An artifact of each class."""


def from_picture(content: bytes) -> list[Any]:
    Pillow.open(io.BytesIO(content)).verify()
    return [read_record(io.BytesIO(content))]


def from_sound(content: bytes) -> list[Any]:
    assert media.read(content).seconds == pytest.approx(0.2, abs=0.1)
    return [audio.read_record(content)]


def from_json(content: bytes) -> list[Any]:
    value = json.loads(content)
    return value if isinstance(value, list) else [value]


def from_lines(content: bytes) -> list[Any]:
    return [json.loads(line) for line in content.decode().splitlines()]


def from_front_matter(content: bytes) -> list[Any]:
    _, front, _ = content.decode().split("---\n", 2)
    rows = (line.split(": ", 1) for line in front.splitlines())
    return [{name: json.loads(value) for name, value in rows}]


def from_notice(content: bytes) -> list[Any]:
    """What a person reads at the end of a plain text: no seed, no parameters."""
    notice, model, created, request_id = (
        content.decode().strip().splitlines()[-1].rsplit(" · ", 3)
    )
    name, version = model.split("@")
    return [
        {
            "notice": notice,
            "model": name,
            "version": version,
            "created": created,
            "request_id": request_id,
        }
    ]


READERS: dict[str, Callable[[bytes], list[Any]]] = {
    "image/png": from_picture,
    "image/jpeg": from_picture,
    "image/webp": from_picture,
    "image/gif": from_picture,
    **{media_type: from_sound for media_type in audio.ENDINGS.values()},
    "application/json": from_json,
    "application/jsonl": from_lines,
    "text/markdown": from_front_matter,
    "text/plain": from_notice,
}
"""How others read the records out of a file, by its media type."""

ENDINGS = [
    (name, ending) for name in writers.names() for ending in writers.get(name).ENDINGS
]


def toy(name: str, **facts: Any) -> Artifact:
    if name not in CASES:
        pytest.fail(
            f"The writer {name} has no toy case: add a function that makes a small "
            f"{name} to CASES in tests/contracts/test_writers.py."
        )
    return CASES[name](replace(FACTS, **facts))


def records(name: str, ending: str, content: bytes) -> list[Any]:
    media_type = writers.get(name).ENDINGS[ending]
    if media_type not in READERS:
        pytest.fail(
            f"{name} is written as {media_type}, which this suite cannot read: add a "
            "reader to READERS in tests/contracts/test_writers.py."
        )
    return READERS[media_type](content)


@pytest.mark.parametrize("name", writers.names())
def test_declares_itself(name: str) -> None:
    writer: Writer = writers.get(name)
    assert writer.__doc__
    assert writer.ARTIFACT.__name__ == name, "it is registered by its artifact's class"
    assert writer.ENDINGS
    for ending, media_type in writer.ENDINGS.items():
        assert ending.startswith(".") and ending == ending.lower()
        assert "/" in media_type


@pytest.mark.parametrize("name", requests.names())
def test_every_answer_has_a_writer(name: str) -> None:
    assert requests.get(name).answer.__name__ in writers


@pytest.mark.parametrize(("name", "ending"), ENDINGS)
def test_every_ending_carries_the_facts(name: str, ending: str) -> None:
    (record,) = records(name, ending, encode([toy(name)], ending.upper()))
    assert record["notice"] == NOTICE
    expected = {
        "model": "画家",
        "version": "2",
        "request_id": "abc123",
        "created": FACTS.created,
    }
    assert {key: record[key] for key in expected} == expected
    if "seed" in record:
        assert record["seed"] == 7
        assert record["parameters"] == {"prompt": "雪中的狐狸"}


@pytest.mark.parametrize(("name", "ending"), ENDINGS)
def test_what_is_published_is_what_was_encoded(
    name: str, ending: str, tmp_path: Path
) -> None:
    artifact = toy(name)
    path = publish(artifact, tmp_path / f"a{ending}")
    assert path.read_bytes() == encode([artifact], ending)
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize(("name", "ending"), ENDINGS)
def test_several_are_one_file_or_are_refused(
    name: str, ending: str, tmp_path: Path
) -> None:
    """Each record of a file with several tells what they share; where the format has
    room, what differs too.
    """
    several = [toy(name, seed=seed) for seed in (7, 8)]
    path = tmp_path / f"a{ending}"
    try:
        publish(several, path)
    except Unsupported:
        assert not list(tmp_path.iterdir())
        return
    written = records(name, ending, path.read_bytes())
    assert {record["model"] for record in written} == {"画家"}


@pytest.mark.parametrize("name", writers.names())
def test_a_folder_is_numbered_or_refused(name: str, tmp_path: Path) -> None:
    several = [toy(name, seed=seed) for seed in (7, 8)]
    folder = tmp_path / "out"
    if not writers.get(name).NUMBERED:
        with pytest.raises(Unsupported, match="without an ending"):
            publish(several, folder)
        assert not list(tmp_path.iterdir())
        return
    publish(several, folder)
    publish(several[0], folder)
    usual = next(iter(writers.get(name).ENDINGS))
    files = [f"{number:03d}{usual}" for number in range(3)]
    sheets = [file.name for file in folder.glob("sheet-*")]
    assert sheets in ([], [f"sheet-000-001{usual}"])
    assert sorted(file.name for file in folder.iterdir()) == [
        *files,
        "index.jsonl",
        *sheets,
    ]
    rows = from_lines((folder / "index.jsonl").read_bytes())
    assert [row["file"] for row in rows] == files
    assert [row["seed"] for row in rows] == [7, 8, 7]
    for row, file in zip(rows, files, strict=True):
        (record,) = records(name, usual, (folder / file).read_bytes())
        assert record == {key: row[key] for key in row if key != "file"}


@pytest.mark.parametrize("name", writers.names())
def test_other_endings_are_refused_and_leave_nothing(name: str, tmp_path: Path) -> None:
    kind = writers.get(name).ARTIFACT
    for path in (tmp_path / "a.nothing", tmp_path / "a.v1"):
        with pytest.raises(Unsupported, match=path.suffix) as caught:
            check_ending(path, kind)
        assert all(
            ending in caught.value.remedy for ending in writers.get(name).ENDINGS
        )
        with pytest.raises(Unsupported, match=path.suffix):
            publish(toy(name), path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", writers.names())
def test_one_file_is_for_one_kind(name: str, tmp_path: Path) -> None:
    other = next(kind for kind in CASES if kind != name)
    usual = next(iter(writers.get(name).ENDINGS))
    with pytest.raises(Unsupported, match=name):
        publish([toy(name), toy(other)], tmp_path / f"a{usual}")
    assert not list(tmp_path.iterdir())
