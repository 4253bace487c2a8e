"""A bundle is read once on opening: its manifest travels with the weights."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.engines.small import small_bundle
from tests.tune.tuned import tuned, tuned_task

import miaobi
from miaobi.core import bundle
from miaobi.core.store import Store
from miaobi.models.base import open_base
from miaobi.tune.learner import Example


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often the miaobi.json of each folder was read, by the folder's name."""
    counts = Counter[str]()
    read_text, read_bytes = Path.read_text, Path.read_bytes

    def count(path: Path) -> None:
        if path.name == bundle.MANIFEST:
            counts[path.parent.name] += 1

    def counted_text(path: Path, *args: Any, **options: Any) -> str:
        count(path)
        return read_text(path, *args, **options)

    def counted_bytes(path: Path) -> bytes:
        count(path)
        return read_bytes(path)

    monkeypatch.setattr(Path, "read_text", counted_text)
    monkeypatch.setattr(Path, "read_bytes", counted_bytes)
    return counts


def answer(name: str | Path, engine: str = "auto") -> None:
    with miaobi.load(name, engine=engine) as model:
        assert model.generate("good", seed=1)


def test_a_bundle(tmp_path: Path, reads: Counter[str]) -> None:
    folder = small_bundle(tmp_path / "poet")
    answer(folder)
    assert reads == {"poet": 1}


def test_a_version_in_the_store(tmp_path: Path, reads: Counter[str]) -> None:
    Store().add(small_bundle(tmp_path / "poet"), "poet")
    reads.clear()
    answer("poet")
    assert reads == {"1": 1}


def test_an_adapter_and_its_base(tmp_path: Path, reads: Counter[str]) -> None:
    base = small_bundle(tmp_path / "poet", chat=True)
    folder = tuned(tmp_path / "helpdesk", base)
    reads.clear()
    answer(folder, "native")
    assert reads == {"helpdesk": 1, "poet": 1}


def test_a_classifier_chosen_by_itself(tmp_path: Path, reads: Counter[str]) -> None:
    base = small_bundle(tmp_path / "poet")
    columns = [
        {"text": "good food", "label": "good"},
        {"text": "bad food", "label": "bad"},
    ]
    examples = [Example(item, str(number), item) for number, item in enumerate(columns)]
    folder, _ = tuned_task(
        tmp_path / "sentiment",
        open_base(str(base)),
        "text-classification",
        examples,
        method="lora",
    )
    reads.clear()
    answer(folder)
    assert reads == {"sentiment": 1, "poet": 1}


def test_a_packaged_model(
    pack: Callable[[str], Path], smollm2: Path, reads: Counter[str]
) -> None:
    answer("smollm2")
    assert not reads
