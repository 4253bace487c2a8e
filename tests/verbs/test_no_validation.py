"""Runs whose data leaves nothing to validate on: they go to their end, keep the last
weights, and say so; no number stands for what was not measured.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors.torch import load_file
from tests.engines.small import small_bundle

from miaobi.core import bundle
from miaobi.core.errors import BadInput
from miaobi.verbs import train
from miaobi.verbs.finetune import finetune
from miaobi.verbs.search import search

STEPS = 20


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_bundle(tmp_path_factory.mktemp("base") / "small")


def three_texts(folder: Path) -> Path:
    path = folder / "three.jsonl"
    texts = ("春江花月夜", "海上明月生", "天涯共此时")
    rows = [json.dumps({"text": text}, ensure_ascii=False) for text in texts]
    path.write_text("\n".join(rows), encoding="utf-8")
    return path


def one_picture_twelve_times(folder: Path) -> Path:
    """Near-duplicates of one photograph: a person would call them the same."""
    draw = np.random.default_rng(0)
    small = Image.fromarray(draw.integers(0, 255, (6, 6, 3), dtype=np.uint8))
    pixels = np.asarray(small.resize((48, 48), Image.Resampling.BICUBIC), np.int16)
    (folder / "pictures").mkdir()
    for number in range(12):
        copy = (pixels + number).clip(0, 255).astype(np.uint8)
        Image.fromarray(copy).save(folder / "pictures" / f"{number}.png")
    return folder / "pictures"


def test_fine_tuning_goes_to_its_end_and_keeps_the_last_weights(
    base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """With patience, which once ended such a run after its first validations and kept
    the weights of the first.
    """
    done = finetune(
        {"task": "causal", "train": {"trackers": []}},
        base=str(base),
        data=three_texts(tmp_path),
        method="lora",
        name="three",
        settings={
            "train.max_steps": STEPS,
            "train.batch_size": 2,
            "train.learning_rate": 0.01,
            "train.patience": 3,
            "train.validate_every": 4,
            "data.validation": 0.0,
            "data.test": 0.0,
        },
        runs=tmp_path / "runs",
    )
    assert (done.step, done.validation_loss) == (STEPS, None)
    assert "no validation" in str(done)
    shown = capsys.readouterr().err
    assert shown.index("No validation") < shown.index(f"{STEPS}/{STEPS}")
    assert "validation 0" not in shown
    assert not (done.run / "checkpoints" / "best").exists()
    last = load_file(
        done.run / "checkpoints" / f"step-{STEPS:08d}" / "tensors.safetensors"
    )
    saved = load_file(done.bundle / "adapter_model.safetensors")
    trained = [value for name, value in last.items() if name.startswith("objective.")]
    assert all(any(value.equal(other) for other in trained) for value in saved.values())
    assert "validation_loss" not in bundle.read(done.bundle).metrics
    page = (done.run / "report.html").read_text(encoding="utf-8")
    assert "no validation" in page
    assert "validation" not in (done.run / "log.jsonl").read_text(encoding="utf-8")


def test_patience_that_is_left_open_is_none_without_validation(
    base: Path, tmp_path: Path
) -> None:
    done = finetune(
        {"task": "causal", "train": {"trackers": [], "max_steps": 2}},
        base=str(base),
        data=three_texts(tmp_path),
        name="three",
        settings={"data.validation": 0.0, "data.test": 0.0},
        runs=tmp_path / "runs",
        quiet=True,
    )
    report = json.loads((done.run / "report.json").read_text(encoding="utf-8"))
    derived = report["3 how it is changed"]["derived"]
    [patience] = [item for item in derived if item["key"] == "patience"]
    assert patience["value"] == 0
    assert "no validation" in patience["reason"]


def test_pictures_that_are_all_alike_leave_nothing_to_validate_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = {
        "family": "gan",
        "data": {
            "path": str(one_picture_twelve_times(tmp_path)),
            "image_size": 16,
        },
        "model": {"width": 8},
        "train": {
            "max_steps": 6,
            "batch_size": 4,
            "patience": 1,
            "validate_every": 1,
            "trackers": [],
        },
    }
    done = train.train(recipe, runs=tmp_path / "runs")
    assert (done.step, done.validation_loss) == (6, None)
    assert "no validation" in str(done)
    shown = capsys.readouterr().err
    assert shown.index("No validation") < shown.index("6/6")
    assert "validation_loss" not in bundle.read(done.bundle).metrics


def test_a_search_without_validation_is_refused(base: Path, tmp_path: Path) -> None:
    recipe = {
        "task": "causal",
        "base": str(base),
        "data": {"path": str(three_texts(tmp_path)), "validation": 0.0},
        "train": {"max_steps": 4},
        "search": {"space": {"train.learning_rate": [0.001, 0.01]}},
    }
    with pytest.raises(BadInput, match="no validation examples"):
        search(recipe, runs=tmp_path / "runs", quiet=True)
