"""A bert and a seq2seq from end to end: a recipe is trained, its model in the store
generates, is evaluated beside its baselines, and refuses what it cannot do.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from miaobi.core.errors import BadInput
from miaobi.engines.load import load
from miaobi.verbs.evaluate import evaluate
from miaobi.verbs.train import train

TRAIN = {"max_steps": 4, "batch_size": 8, "trackers": [], "sample_every": 4}


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def written(records: list[dict[str, str]]) -> str:
    lines = [json.dumps(record, ensure_ascii=False) for record in records]
    Path("data.jsonl").write_text("\n".join(lines), encoding="utf-8")
    return "data.jsonl"


@pytest.fixture
def bert() -> str:
    texts = [{"text": f"春江潮水{n}连海平，海上明月{n}共潮生。"} for n in range(60)]
    recipe = {
        "name": "fills",
        "family": "bert",
        "data": {"path": written(texts), "validation": 0.2, "sentences": "sop"},
        "model": {"num_layers": 1, "hidden_size": 32},
        "train": TRAIN,
        "sample": {"prompts": ["海上[MASK]月"]},
    }
    return train(recipe, quiet=True).model


@pytest.fixture
def translator() -> str:
    pairs = [{"zh": f"打开文件{n}", "en": f"Open file {n}"} for n in range(40)]
    recipe = {
        "name": "translator",
        "family": "seq2seq",
        "data": {
            "path": written(pairs),
            "languages": ["zh", "en"],
            "vocab_size": 300,
            "test": 0.2,
        },
        "model": {"num_layers": 1, "hidden_size": 32},
        "train": TRAIN,
        "sample": {"prompts": [">>zh<< Open file"], "max_new_tokens": 4},
    }
    return train(recipe, quiet=True).model


def test_bert(bert: str) -> None:
    evaluation = evaluate(bert, limit=5, out=Path("report"))
    scores = {score.name: score for score in evaluation.scores}
    assert set(scores) == {
        "masked_accuracy",
        "masked_top5",
        "masked_accuracy_trigram",
    }
    # Every text is the same but for its numbers.
    assert scores["masked_accuracy_trigram"].value > 0.5
    assert evaluation.page.exists()
    with load(bert) as model:
        assert model.engine_name == "fills"
        assert len(str(model.generate("海上[MASK]月")[0]).splitlines()) == 5
    with pytest.raises(BadInput, match="its own held-out data"):
        evaluate(bert, data=Path("data.jsonl"))


def test_translator(translator: str) -> None:
    evaluation = evaluate(translator, limit=4, out=Path("report"))
    scores = {score.name: score for score in evaluation.scores}
    assert {"chrf", "chrf_memory", "token_f1", "exact_match"} <= set(scores)
    assert not any(name.endswith("_lead") for name in scores)
    assert scores["chrf_memory"].value > scores["chrf"].value
    with load(translator) as model:
        assert model.engine_name == "native"
        settings = {"temperature": 0.0, "max_new_tokens": 5}
        default = str(model.generate("打开文件3", **settings)[0])
        assert default == str(model.generate(">>en<< 打开文件3", **settings)[0])
        with pytest.raises(BadInput, match="does not write 'fr'"):
            model.generate(">>fr<< 打开文件3")
        with pytest.raises(BadInput, match="empty"):
            model.generate("")
        with pytest.raises(BadInput, match="length_penalty"):
            model.generate("打开文件3", length_penalty=0.5)
