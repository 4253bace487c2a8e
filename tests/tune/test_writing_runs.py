"""Translation, preferences and distillation from data to the store, and the recipes
that show them.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tests.tune.bases import base

from miaobi.core import config
from miaobi.core.store import Store
from miaobi.models.tuned import open_tuned
from miaobi.models.weights import find
from miaobi.tune.guess import guess
from miaobi.tune.saved import learner_of
from miaobi.verbs.finetune import finetune
from miaobi.verbs.finetune.settings import settle

ROOT = Path(__file__).parents[2]
QUICK = {
    "train.max_steps": 4,
    "train.batch_size": 4,
    "train.microbatches": 1,
    "train.learning_rate": 0.01,
    "train.trackers": [],
    "train.patience": 0,
    "train.validate_every": 2,
    "data.test": 0.2,
    "data.max_length": 96,
}


def written(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text(
        "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows),
        encoding="utf-8",
    )
    return path


PAIRS = [{"source": f"number {at}", "target": f"第{at}"} for at in range(30)]
PREFERENCES = [
    {"prompt": f"say {at}", "chosen": f"yes {at}", "rejected": "no"} for at in range(30)
]
THUMBS = [
    {
        "prompt": f"say {at}",
        "completion": "yes" if at % 2 else "no",
        "label": bool(at % 2),
    }
    for at in range(30)
]
TEXTS = [{"text": f"A text about number {at}."} for at in range(30)]


@pytest.mark.parametrize(
    ("task", "kind", "rows", "head", "method", "figure"),
    [
        ("seq2seq", "t5", PAIRS, {"max_new_tokens": 4}, "full", "chrf"),
        ("seq2seq", "llama", PAIRS, {"max_new_tokens": 4}, "lora", "chrf"),
        ("preference", "llama", PREFERENCES, {}, "lora", "preference_accuracy"),
        ("preference", "llama", THUMBS, {"loss": "kto"}, "full", "reward_accuracy"),
        ("distillation", "llama", TEXTS, {"layers": 1}, "full", "divergence"),
    ],
)
def test_from_data_to_the_store(
    tmp_path: Path,
    task: str,
    kind: str,
    rows: list[dict[str, Any]],
    head: dict[str, Any],
    method: str,
    figure: str,
) -> None:
    base(tmp_path / "base", kind)
    base(tmp_path / "teacher", kind, seed=1)
    head = {
        **head,
        **({"teacher": str(tmp_path / "teacher")} if task == "distillation" else {}),
    }
    done = finetune(
        {"task": task, "head": {"max_new_tokens": 4, **head}},
        base=str(tmp_path / "base"),
        data=written(tmp_path / "data.jsonl", rows),
        method=method,
        name="made",
        settings={**QUICK, "report.forgetting": False},
        runs=tmp_path / "runs",
        quiet=True,
    )
    assert done.differences[0].name == figure
    report = json.loads((done.run / "report.json").read_text(encoding="utf-8"))
    assert report["finished"] and report["5 test"]["tuned"][0]["n"] == 6
    opened = open_tuned(find("made"))
    question = {"source": "number 3"} if task == "seq2seq" else {"prompt": "say 3"}
    assert isinstance(learner_of(opened).answer(question), str)
    assert Store().names() == ["made"]


@pytest.mark.parametrize(
    ("rows", "task"), [(PAIRS, "seq2seq"), (PREFERENCES, "preference")]
)
def test_the_task_follows_from_the_data(
    tmp_path: Path, rows: list[dict[str, Any]], task: str
) -> None:
    assert guess(str(written(tmp_path / "data.jsonl", rows)), "").task == task


@pytest.mark.parametrize(
    "name", ["zh_en_translation", "summaries", "preferences_dpo", "distillation"]
)
def test_recipes_resolve(name: str) -> None:
    path = ROOT / "recipes" / "tune" / f"{name}.yaml"
    settings = settle(config.read_yaml(path), origin=str(path))
    assert settings.base == "smollm2" and settings.data.pack
