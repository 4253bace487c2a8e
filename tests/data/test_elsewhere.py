"""Data at a URL reads as the same data here does, and has the same identity."""

from __future__ import annotations

import json
import uuid
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from miaobi import cli
from miaobi.core import storage
from miaobi.core.errors import BadInput, NotFound
from miaobi.core.storage import Location, Url
from miaobi.data.image import prepared
from miaobi.data.labelled.texts import texts
from miaobi.data.text import files, tokens
from miaobi.verbs.data import inspect


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MIAOBI_HOME", str(tmp_path / "home"))


@pytest.fixture
def elsewhere() -> Url:
    return Url(f"memory://{uuid.uuid4().hex}/data")


def write_texts(folder: Location) -> None:
    rows = [json.dumps({"text": f"sentence number {n}. " * 20}) for n in range(30)]
    storage.write(folder / "b.jsonl", "\n".join(rows[:20]).encode())
    storage.write(folder / "b" / "c.jsonl", "\n".join(rows[20:]).encode())
    storage.write(folder / "a.txt", b"a plain text. " * 50)
    storage.write(folder / ".hidden.txt", b"not read")
    storage.write(folder / "notes.bin", b"not text")


def read_texts(path: str | Location) -> Sequence[str]:
    return [document.training_text() for document in files.read(path)]


def test_texts_elsewhere_are_those_here(elsewhere: Url, tmp_path: Path) -> None:
    write_texts(tmp_path / "data")
    write_texts(elsewhere)
    here = read_texts(tmp_path / "data")
    assert len(here) == 31
    assert read_texts(str(elsewhere)) == here
    assert read_texts(f"file://{tmp_path}/data") == here
    assert len(read_texts(elsewhere / "*.jsonl")) == 20
    assert len(read_texts(elsewhere / "**/*.jsonl")) == 30


def test_a_problem_elsewhere_is_located(elsewhere: Url) -> None:
    storage.write(elsewhere / "a.jsonl", b'{"text": "good"}\n{"text": \n')
    with pytest.raises(BadInput, match=rf"{elsewhere}/a\.jsonl:2"):
        read_texts(elsewhere)


def test_texts_that_are_not_there_are_named(elsewhere: Url) -> None:
    storage.write(elsewhere / "poems.txt", b"x")
    with pytest.raises(NotFound, match=r"poem\.txt") as missing:
        read_texts(elsewhere / "poem.txt")
    assert "poems.txt" in missing.value.remedy


def test_records_elsewhere_carry_their_location(elsewhere: Url) -> None:
    storage.write(elsewhere / "chats.jsonl", b'{"prompt": "a", "completion": "b"}\n')
    [(where, record)] = texts(str(elsewhere / "chats.jsonl"), "")
    assert where == f"{elsewhere}/chats.jsonl:1"
    assert record == {"prompt": "a", "completion": "b"}


def test_prepared_texts_do_not_depend_on_where_they_lie(
    elsewhere: Url, tmp_path: Path
) -> None:
    write_texts(tmp_path / "data")
    write_texts(elsewhere)
    here = tokens.prepare(tokens.Config(path=str(tmp_path / "data"), context_length=8))
    there = tokens.prepare(tokens.Config(path=str(elsewhere), context_length=8))
    assert there.folder == here.folder
    storage.write(elsewhere / "a.txt", b"another plain text. " * 50)
    changed = tokens.prepare(tokens.Config(path=str(elsewhere), context_length=8))
    assert changed.folder != here.folder


def write_pictures(folder: Path) -> None:
    generator = np.random.default_rng(0)
    for name in ("cat", "dog"):
        for number in range(6):
            pixels = generator.integers(0, 256, (8, 8, 3), dtype=np.uint8)
            target = folder / name / f"{number}.png"
            target.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(target)


def test_prepared_pictures_do_not_depend_on_where_they_lie(
    elsewhere: Url, tmp_path: Path
) -> None:
    write_pictures(tmp_path / "data")
    storage.copy_tree(tmp_path / "data", elsewhere)
    here = prepared.prepare(prepared.Config(path=str(tmp_path / "data")))
    there = prepared.prepare(prepared.Config(path=str(elsewhere)))
    assert there.folder == here.folder


def test_inspect_reads_elsewhere(elsewhere: Url, tmp_path: Path) -> None:
    write_texts(elsewhere)
    assert "31" in str(inspect(str(elsewhere)))
    write_pictures(tmp_path / "data")
    storage.copy_tree(tmp_path / "data", elsewhere / "pictures")
    assert "cat" in str(inspect(str(elsewhere / "pictures")))
    with pytest.raises(NotFound, match="nothing at"):
        inspect(str(elsewhere / "nowhere"))


def test_the_command_takes_urls(
    elsewhere: Url, capsys: pytest.CaptureFixture[str]
) -> None:
    write_texts(elsewhere)
    assert cli.main(["data", "inspect", str(elsewhere), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["documents"] == 31
