"""`base: new`: the heads of fine-tuning, trained from scratch on two kinds of body."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import miaobi
from miaobi.core.errors import BadInput
from miaobi.models.fresh import NewConfig, fresh_base
from miaobi.verbs.finetune import Tuned, again, finetune
from miaobi.verbs.finetune.settings import settle

BODIES = ("transformer", "lstm")
SMALL = {
    "new.hidden_size": 32,
    "new.num_layers": 1,
    "new.vocab_size": 300,
    "train.max_steps": 30,
    "train.batch_size": 16,
    "train.learning_rate": 1e-2,
    "train.trackers": [],
    "train.patience": 0,
}


def written(path: Path, rows: list[dict[str, Any]]) -> Path:
    lines = [json.dumps(row, ensure_ascii=False) for row in rows]
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


def opinions(folder: Path, count: int = 60) -> Path:
    rows = [
        {
            "text": f"number {at} was {'fine and good' if at % 2 else 'bad and poor'}",
            "label": "good" if at % 2 else "bad",
        }
        for at in range(count)
    ]
    return written(folder / "opinions.jsonl", rows)


def entities(folder: Path) -> Path:
    rows = [
        {
            "tokens": ["we", "met", name, "in", "the", "hall", str(at)],
            "tags": ["O", "O", "B-PER", "O", "O", "O", "O"],
        }
        for at, name in enumerate(["Anna", "Emma", "Jane"] * 20)
    ]
    return written(folder / "entities.jsonl", rows)


def questions(folder: Path) -> Path:
    rows = [
        {
            "context": f"In the year {at} they lived in {place} by the sea.",
            "question": "Where did they live?",
            "answers": [place],
        }
        for at, place in enumerate(["Bath", "Lyme", "York"] * 20)
    ]
    return written(folder / "questions.jsonl", rows)


DATA = {
    "text-classification": opinions,
    "token-classification": entities,
    "extractive-questions": questions,
}


def tuned(task: str, body: str, folder: Path, **more: Any) -> Tuned:
    return finetune(
        {"task": task},
        base="new",
        data=DATA[task](folder),
        name="scratch",
        settings={**SMALL, "new.body": body, **more},
        runs=folder / "runs",
        quiet=True,
    )


@pytest.mark.parametrize("body", BODIES)
@pytest.mark.parametrize("task", DATA)
def test_a_head_learns_from_scratch(task: str, body: str, tmp_path: Path) -> None:
    done = tuned(task, body, tmp_path)
    report = json.loads((done.run / "report.json").read_text(encoding="utf-8"))
    how = report["3 how it is changed"]
    assert how["trainable"] == report["1 base and data"]["parameters"], "all of it"
    rows = (done.run / "log.jsonl").read_text(encoding="utf-8").splitlines()
    losses = [json.loads(row)["loss"] for row in rows if '"loss"' in row]
    assert losses[-1] < losses[0]


@pytest.mark.parametrize("body", BODIES)
def test_the_model_answers_and_is_trained_on(body: str, tmp_path: Path) -> None:
    done = tuned("text-classification", body, tmp_path)
    with miaobi.load(done.model) as model:
        [answer] = model.generate("number 7 was fine and good")
    assert json.loads(answer.text)["label"] == "good"
    data = {"data.path": str(opinions(tmp_path, 40))}
    more = again("scratch", settings=data, runs=tmp_path / "runs", quiet=True)
    assert more.model == "scratch@2"


def test_a_new_base_is_the_same_again() -> None:
    first = fresh_base(NewConfig(hidden_size=32), ["one two", "three"])
    assert fresh_base(NewConfig(hidden_size=32), ["one two", "three"]) == first
    other = fresh_base(NewConfig(hidden_size=32, seed=1), ["one two", "three"])
    assert first.identity != other.identity


def test_padding_is_never_read() -> None:
    from miaobi.models.recurrent import RecurrentConfig, RecurrentModel

    torch.manual_seed(0)
    net = RecurrentModel(RecurrentConfig(vocab_size=20, hidden_size=8)).eval()
    ids = torch.tensor([[3, 4, 5, 0, 0], [6, 7, 8, 9, 10]])
    mask = torch.tensor([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]])
    both = net(ids, mask)
    alone = net(ids[:1, :3])
    torch.testing.assert_close(both.pooler_output[:1], alone.pooler_output)
    torch.testing.assert_close(both.last_hidden_state[:1, :3], alone.last_hidden_state)


@pytest.mark.parametrize(
    ("base", "settings", "message"),
    [
        ("new", {"tune.method": "lora"}, "random weights, which lora leaves"),
        ("smollm2", {"new.body": "lstm"}, "new.body describes a new base"),
    ],
)
def test_contradictions_are_named(
    base: str, settings: dict[str, Any], message: str
) -> None:
    recipe = {"task": "text-classification", "data": {"path": "x.jsonl"}}
    with pytest.raises(BadInput, match=message):
        settle(recipe, {"base": base, **settings})


def test_what_follows_from_a_new_base() -> None:
    recipe = {"task": "text-classification", "data": {"path": "x.jsonl"}}
    settings = settle(recipe, {"base": "new"})
    assert settings.tune.method == "full"
    assert settings.train.learning_rate == 1e-3
    rate = {"base": "new", "train.learning_rate": 0.1}
    assert settle(recipe, rate).train.learning_rate == 0.1


def test_texts_that_are_empty_are_refused() -> None:
    with pytest.raises(BadInput, match="there are none"):
        fresh_base(NewConfig(), ["", "  "])


@pytest.mark.parametrize("task", ["causal", "chat", "image-classification"])
def test_other_tasks_are_refused(task: str) -> None:
    recipe = {"task": task, "base": "new", "data": {"path": "x.jsonl"}}
    with pytest.raises(BadInput, match=f"the task {task} needs another model"):
        settle(recipe)
