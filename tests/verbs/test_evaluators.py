"""Which evaluator a model gets, and one of another package."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.metadata import EntryPoint
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from miaobi.core import bundle
from miaobi.core.engine import Weights
from miaobi.core.errors import BadInput, Unsupported
from miaobi.core.store import Store
from miaobi.evaluate.evaluation import ModelReport, Options, Progress, Results
from miaobi.evaluate.score import Score
from miaobi.verbs.evaluate import evaluate, evaluators


@pytest.fixture
def models(tmp_path: Path) -> None:
    """Models without weights: of tones, of texts."""
    for name, modality in (("piano", "beep"), ("flute", "beep"), ("poet", "text")):
        manifest = bundle.Manifest("toy", modality)
        Store().add(bundle.write(tmp_path / name, manifest, lambda draft: None), name)


@pytest.fixture
def beeps(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """An evaluator of models that make "beep"; the references it was handed."""
    references = list[Any]()

    def evaluates(models: Sequence[Weights]) -> bool:
        return all(weights.modality == "beep" for weights in models)

    def evaluate_model(
        name: str,
        weights: Weights,
        options: Options,
        reference: Any,
        progress: Progress,
    ) -> ModelReport:
        references.append(reference)
        score = Score("pitch", 1.0, 0.5, 1.5, 3)
        results = Results(weights.label, "toy", (score,), (), (), 3, "toy", 0.0)
        return ModelReport(results, (), reference=name)

    module = ModuleType("toy_beeps")
    module.LEAD = ("How well it is in tune.", "音准如何。")  # type: ignore[attr-defined]
    module.evaluates = evaluates  # type: ignore[attr-defined]
    module.evaluate_model = evaluate_model  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "toy_beeps", module)
    entry = EntryPoint("beep", "toy_beeps", evaluators.group)
    monkeypatch.setitem(evaluators._entries, "beep", entry)
    return references


@pytest.mark.usefixtures("models")
def test_an_evaluator_of_another_package(beeps: list[Any], tmp_path: Path) -> None:
    evaluation = evaluate("piano", against="flute", out=tmp_path / "report")
    assert [results.model for results in evaluation.judged] == ["piano@1", "flute@1"]
    assert beeps == [None, "piano"]
    page = evaluation.page.read_text(encoding="utf-8")
    assert "How well it is in tune." in page
    assert "pitch" in str(evaluation)


@pytest.mark.usefixtures("models")
def test_models_without_an_evaluator() -> None:
    with pytest.raises(Unsupported, match="piano makes beep, which cannot be eval"):
        evaluate("piano")
    with pytest.raises(BadInput, match="piano makes beep, poet makes text"):
        evaluate("piano", against="poet")
