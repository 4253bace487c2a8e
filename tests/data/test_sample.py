"""`miaobi data sample`: files that every command of the guides can be tried with."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from miaobi.core.config import read_yaml
from miaobi.data.audio.sample import sounds
from miaobi.data.text.sample import files
from miaobi.verbs import data
from miaobi.verbs.finetune.settings import settle
from miaobi.verbs.importing import import_recipe


def digests(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of samples, in which the text was there before."""
    folder = tmp_path_factory.mktemp("samples")
    (folder / "my.txt").write_text("mine")
    written = data.sample(folder)
    assert "my.txt" not in written.files
    return folder


def test_files_that_are_there_are_left(folder: Path) -> None:
    assert (folder / "my.txt").read_text() == "mine"
    before = digests(folder)
    assert data.sample(folder).files == ()
    assert digests(folder) == before


def test_the_files_are_the_same_every_time(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "my.txt").write_text("mine")
    data.sample(tmp_path)
    assert digests(folder) == digests(tmp_path)


def test_the_mask_has_the_size_of_the_photo(folder: Path) -> None:
    with Image.open(folder / "photo.jpg") as photo:
        size = photo.size
    with Image.open(folder / "mask.png") as mask:
        assert mask.size == size


def test_without_pillow_the_texts_are_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(data, "find_spec", lambda name: None)
    written = data.sample(tmp_path)
    assert set(written.files) == {*files(), *dict(sounds())}
    assert "miaobi[images]" in str(written)


def test_test_chats_are_no_training_chats() -> None:
    content = files()
    names = ("chats.jsonl", "new_chats.jsonl", "test.jsonl")
    questions = [
        [json.loads(line)["messages"][0]["content"] for line in lines.splitlines()]
        for lines in (content[name] for name in names)
    ]
    every = [question for group in questions for question in group]
    assert len(every) == len(set(every)) == 200


@pytest.mark.parametrize(
    "name",
    ["my.jsonl", "my.txt", "chats.jsonl", "notes.jsonl", "questions.jsonl", "photos"],
)
def test_a_survey_finds_no_problem(folder: Path, name: str) -> None:
    survey = str(data.inspect(folder / name, strict=True))
    assert "problems       0" in survey


def test_the_files_of_llama_factory_are_imported(folder: Path, tmp_path: Path) -> None:
    done = import_recipe(folder / "llama_factory.yaml", out=tmp_path / "run.yaml")
    assert not [note for note in done.notes.values() if "no such setting" in note]
    settled = settle(read_yaml(done.recipe))
    assert Path(settled.data.path) == folder / "chats.jsonl"
    assert settled.task.NAME == "chat"
