"""A run at a URL is copied there whole, and goes on from there on another machine as if
it had not been stopped.
"""

from __future__ import annotations

import shutil
import uuid
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file
from torch import equal

from miaobi.core import storage
from miaobi.core.errors import NotFound
from miaobi.core.storage import Url
from miaobi.core.store import Store
from miaobi.train import elsewhere
from miaobi.train.run import find_run, new_folder
from miaobi.train.tracking import read_log
from miaobi.verbs import train

LAST = "step-00000006/tensors.safetensors"


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "home"
    monkeypatch.setenv("MIAOBI_HOME", str(folder))
    monkeypatch.setenv("MIAOBI_STORAGE", f"memory://{uuid.uuid4().hex}/shared")
    return folder


@pytest.fixture
def runs() -> Url:
    return Url(f"memory://{uuid.uuid4().hex}/runs")


@pytest.fixture
def recipe(tmp_path: Path) -> dict[str, Any]:
    text = tmp_path / "text.txt"
    text.write_text("the cat sat on the mat. " * 200, encoding="utf-8")
    return {
        "family": "gpt",
        "name": "tiny",
        "data": {"path": str(text), "context_length": 16},
        "model": {"num_layers": 1, "hidden_size": 16, "num_heads": 2, "dropout": 0.1},
        "train": {
            "max_steps": 6,
            "schedule": "constant",
            "warmup": 0,
            "log_every": 1,
            "batch_size": 2,
            "checkpoint_every": 2,
            "validate_every": 2,
            "patience": 9,
            "keep": 2,
            "trackers": [],
            "device": "cpu",
        },
    }


def test_a_run_elsewhere_goes_on_after_its_machine_is_lost(
    recipe: dict[str, Any], runs: Url, home: Path, tmp_path: Path
) -> None:
    whole = train.train(recipe, runs=tmp_path / "runs", quiet=True)
    expected = load_file(whole.run / "checkpoints" / LAST)
    train.train(recipe, runs=runs, settings={"train.max_steps": 4}, quiet=True)
    [name] = elsewhere.names(runs)
    assert storage.names(runs / name / "checkpoints")[-2:] == [
        "step-00000002",
        "step-00000004",
    ]
    shutil.rmtree(home)
    again = train.resume(str(runs / name), settings={"train.max_steps": 6}, quiet=True)
    assert again.step == 6
    assert again.run.is_relative_to(home)
    tensors = load_file(again.run / "checkpoints" / LAST)
    assert tensors.keys() == expected.keys()
    assert all(equal(tensors[key], expected[key]) for key in tensors)
    assert read_log(again.run)[0]["step"] == 1
    shutil.rmtree(home)
    assert find_run("tiny", runs).name == name
    assert [version.number for version in Store().versions("tiny")] == [1, 2, 3]


def test_runs_that_begin_in_the_same_second_have_names_of_their_own(
    runs: Url, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("time.time", lambda: 1_800_000_000.0)
    folders = [new_folder(runs, "quick") for _ in range(3)]
    assert len(set(folders)) == 3
    assert all(elsewhere.origin(folder) == runs / folder.name for folder in folders)


def test_a_run_on_a_plain_path_is_not_copied(tmp_path: Path) -> None:
    folder = new_folder(tmp_path / "runs", "quick")
    (folder / "config.yaml").write_text("{}")
    elsewhere.push(folder)
    assert [path.name for path in folder.iterdir()] == ["config.yaml"]


def make_checkpoint(run: Path, name: str, step: int) -> None:
    folder = run / "checkpoints" / name
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "state.json").write_text(f'{{"step": {step}}}')
    (folder / "tensors.safetensors").write_bytes(bytes(step))


def test_what_changed_is_copied_and_what_went_is_deleted(runs: Url) -> None:
    run = new_folder(runs, "quick")
    there = runs / run.name
    (run / "config.yaml").write_text("{}")
    (run / "bundle").mkdir()
    (run / "bundle" / "weights").write_bytes(b"in the store")
    make_checkpoint(run, "step-00000002", 2)
    make_checkpoint(run, "best", 2)
    elsewhere.push(run)
    assert storage.names(there / "checkpoints") == ["best-00000002", "step-00000002"]
    assert not storage.exists(there / "bundle")
    shutil.rmtree(run / "checkpoints")
    make_checkpoint(run, "step-00000004", 4)
    make_checkpoint(run, "best", 4)
    (run / "log.jsonl").write_text("{}\n")
    elsewhere.push(run)
    assert storage.names(there / "checkpoints") == ["best-00000004", "step-00000004"]
    assert storage.read(there / "log.jsonl") == b"{}\n"


def test_half_a_checkpoint_is_never_chosen(runs: Url, home: Path) -> None:
    run = new_folder(runs, "quick")
    there = runs / run.name
    (run / "config.yaml").write_text("{}")
    make_checkpoint(run, "step-00000002", 2)
    elsewhere.push(run)
    storage.write(there / "checkpoints" / "step-00000004" / "state.json", b"{}")
    shutil.rmtree(home)
    folder = find_run(str(there), runs)
    assert [path.name for path in (folder / "checkpoints").iterdir()] == [
        "step-00000002"
    ]


def test_a_newer_checkpoint_here_is_used(runs: Url) -> None:
    run = new_folder(runs, "quick")
    (run / "config.yaml").write_text("{}")
    make_checkpoint(run, "step-00000002", 2)
    elsewhere.push(run)
    make_checkpoint(run, "step-00000004", 4)
    assert find_run("quick", runs) == run
    assert (run / "checkpoints" / "step-00000004").is_dir()


def test_a_run_that_is_not_there_is_named(runs: Url) -> None:
    (new_folder(runs, "quick") / "config.yaml").write_text("{}")
    with pytest.raises(NotFound, match="no run 'slow'"):
        find_run("slow", runs)
