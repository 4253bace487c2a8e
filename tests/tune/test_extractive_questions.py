"""Extractive questions: answers are found in any window, the loss is the one of the
page, scores are SQuAD's.
"""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tests.engines.small import small_bundle
from tests.tune.encoders import base, fit, make, metrics_of, wordpiece
from torch.nn import functional as F

from miaobi.core.errors import Unsupported
from miaobi.data.labelled import squad
from miaobi.data.text.shapes import Unusable
from miaobi.models.base import Base, open_base
from miaobi.tune import examples as prepared
from miaobi.tune.tasks import extractive_questions as task

PEOPLE, CITIES = ("Ada", "Bob", "Eve"), ("Paris", "Rome", "Oslo")
RECORDS = [
    {
        "question": question,
        "context": f"{who} lives in {where} .",
        "answer": where if question.startswith("where") else who,
    }
    for who, where in zip(PEOPLE, CITIES)
    for question in ("where is the room ?", "who is in the room ?")
]
CONFIG = task.Config(overlap=4, longest_answer=8)


@pytest.fixture(params=["bert", "llama", "gpt"])
def origin(request: pytest.FixtureRequest, tmp_path: Path) -> Base:
    return (
        open_base(str(small_bundle(tmp_path / "gpt")))
        if request.param == "gpt"
        else base(tmp_path / request.param, request.param)
    )


def test_it_learns_on_any_base_and_answers(origin: Base) -> None:
    learner = make(task, CONFIG, origin, RECORDS)
    fit(learner, task, CONFIG, RECORDS, steps=120, rate=3e-3)
    assert metrics_of(learner, task, CONFIG, RECORDS) == {"f1": 1.0, "exact": 1.0}
    answer = learner.answer(task.question(task.columns(RECORDS[0], CONFIG)))
    assert (
        answer["answer"] == "Paris"
        and RECORDS[0]["context"][answer["start"] : answer["end"]] == "Paris"
        and 0 < answer["score"] <= 1
    )


def test_the_base_of_a_causal_model_is_not_replaced(tmp_path: Path) -> None:
    """Transformers names this model's body otherwise: its weights must arrive all the same."""
    origin = base(tmp_path / "l", "llama")
    learner = make(task, CONFIG, origin, RECORDS)
    stored = load_file(origin.folder / "model.safetensors")
    body = getattr(learner.net, learner.net.base_model_prefix).state_dict()
    assert len(body) > 15
    for name, weight in body.items():
        torch.testing.assert_close(weight, stored[f"model.{name}"])
    learner.net.save_pretrained(tmp_path / "whole")  # and again from what was tuned
    origin.tokenizer.save_pretrained(tmp_path / "whole")
    again = make(task, CONFIG, Base(origin.weights, tmp_path / "whole"), RECORDS)
    for name, weight in learner.net.state_dict().items():
        torch.testing.assert_close(again.net.state_dict()[name], weight)


def test_the_loss_is_the_mean_of_two_cross_entropies_where_one_window_does(
    tmp_path: Path,
) -> None:
    learner = make(task, CONFIG, base(tmp_path / "b"), RECORDS)
    batch = learner.collate(
        [learner.encode(task.columns(record, CONFIG), 0) for record in RECORDS]
    )
    logits, targets = learner.logits(batch), learner._targets(batch)
    assert targets.sum((1, 2)).tolist() == [2] * len(RECORDS)
    expected = sum(
        F.cross_entropy(
            logits[..., side], targets[..., side].int().argmax(1), reduction="sum"
        )
        for side in (0, 1)
    )
    assert learner.loss(batch).total.item() == pytest.approx(expected.item(), rel=1e-5)


def test_windows_are_read_together(tmp_path: Path) -> None:
    learner = make(task, CONFIG, base(tmp_path / "b"), RECORDS)
    far = {
        "question": "where is the room ?",
        "context": "the cat is red . " * 12 + "Ada lives in Rome .",
        "answer": "Rome",
    }
    features = learner.encode(task.columns(far, CONFIG), 24)
    assert len(features["sizes"]) > 3 and max(features["sizes"]) <= 24
    covered = {
        index
        for start, end in features["offsets"].tolist()
        if end > 0
        for index in range(start, end)
    }
    assert covered >= {
        index for index, letter in enumerate(far["context"]) if letter != " "
    }
    batch = learner.collate(
        [features, learner.encode(task.columns(RECORDS[0], CONFIG), 24)]
    )
    logits = learner.logits(batch)
    rows = batch["example"] == 0
    whole, right = (
        logits[rows][..., 0].flatten(),
        learner._targets(batch)[rows][..., 0].flatten(),
    )
    expected = torch.logsumexp(whole, 0) - torch.logsumexp(whole[right], 0)
    both = learner._losses(logits, batch)
    ends, right = (
        logits[rows][..., 1].flatten(),
        learner._targets(batch)[rows][..., 1].flatten(),
    )
    assert both[0].item() == pytest.approx(
        (expected + torch.logsumexp(ends, 0) - torch.logsumexp(ends[right], 0)).item(),
        rel=1e-4,
    )
    fit(learner, task, CONFIG, [*RECORDS, far], steps=120, rate=3e-3)
    assert learner.answer(far)["answer"] == "Rome" and learner.answer(far)[
        "start"
    ] == far["context"].index("Rome")


def test_the_best_stretch_is_the_best_of_all(tmp_path: Path) -> None:
    learner = make(task, task.Config(longest_answer=3), base(tmp_path / "b"), RECORDS)
    torch.manual_seed(0)
    offsets = torch.stack([torch.arange(6), torch.arange(1, 7)], -1).repeat(2, 1, 1)
    for _ in range(10):
        logits = torch.randn(2, 6, 2)
        options = [
            (logits[w, s, 0] + logits[w, e, 1], s, e + 1)
            for w, s, e in itertools.product(range(2), range(6), range(6))
            if s <= e < s + 3
        ]
        best = max(options, key=lambda item: item[0])
        assert learner._best_span(logits, offsets)[:2] == best[1:]


def test_scores_are_squads() -> None:
    assert task.words("The Cat's, a  room!") == ["cat", "s", "room"]
    assert task.words("在北京 2 天。") == ["在", "北", "京", "2", "天"]
    assert task.overlap("the red cat", "a red dog") == pytest.approx(0.5)
    assert task.overlap("北京市", "北京") == pytest.approx(0.8)
    assert task.overlap("", "cat") == 0.0 and task.overlap("The", "a") == 1.0


def test_shapes_of_squad(tmp_path: Path) -> None:
    nested = {
        "data": [
            {
                "paragraphs": [
                    {
                        "context": "Ada lives in Rome.",
                        "qas": [
                            {
                                "id": "7",
                                "question": "Where?",
                                "answers": [{"text": "Rome", "answer_start": 13}],
                            }
                        ],
                    }
                ]
            }
        ]
    }
    (tmp_path / "a.json").write_text(json.dumps(nested), encoding="utf-8")
    ((location, record),) = squad.read(str(tmp_path / "a.json"), "")
    assert location.endswith("a.json#7")
    expected = {
        "question": "Where?",
        "context": "Ada lives in Rome.",
        "answers": [{"text": "Rome", "start": 13}],
    }
    assert task.columns(record, CONFIG) == expected
    flat = {"question": "Where?", "context": "Ada lives in Rome."}
    for answer in (
        {"answers": {"text": ["Rome"], "answer_start": [13]}},
        {"answer": "Rome"},
        {"answers": ["Rome"]},
        {"answer": {"text": "Rome", "start": 13}},
    ):
        assert task.columns(flat | answer, CONFIG) == expected
    (tmp_path / "b.json").write_text(
        '{"data": [{"paragraphs": [{"qas": [{}]}]}]}', encoding="utf-8"
    )
    with pytest.raises(ValueError, match="not SQuAD's JSON"):
        list(squad.read(str(tmp_path / "b.json"), ""))


@pytest.mark.parametrize(
    ("record", "what"),
    [
        ({"context": "x", "answer": "x"}, "no question"),
        ({"question": "x", "answer": "x"}, "no context"),
        ({"question": "q", "context": "c"}, "no answer"),
        ({"question": "q", "context": "c", "answers": []}, "no answer"),
        (
            {"question": "q", "context": "c", "answer": "d"},
            "is not in the context",
        ),
        (
            {
                "question": "q",
                "context": "cdc",
                "answers": {"text": ["c"], "answer_start": [1]},
            },
            "at 1",
        ),
    ],
)
def test_records_that_cannot_be_used(record: dict[str, Any], what: str) -> None:
    with pytest.raises(Unusable, match=what):
        task.columns(record, CONFIG)


def test_questions_about_one_text_stay_together(tmp_path: Path) -> None:
    rows = [
        {
            "question": f"{number} {index}",
            "context": f"text {number} of the cat",
            "answer": "cat",
        }
        for number in range(100)
        for index in range(2)
    ]
    (tmp_path / "q.jsonl").write_text(
        "\n".join(map(json.dumps, rows)), encoding="utf-8"
    )
    folder = prepared.prepare(
        prepared.Config(path=str(tmp_path / "q.jsonl"), test=0.2),
        task,
        CONFIG,
        progress=False,
    )
    seen = {
        split: {
            example.columns["context"]
            for example in prepared.read_split(folder, split, task)
        }
        for split in prepared.SPLITS
    }
    assert (
        all(seen.values())
        and not seen["train"] & seen["test"]
        and not seen["train"] & seen["validation"]
        and not seen["validation"] & seen["test"]
    )


def test_the_sentence_encoder_reads_too(tmp_path: Path) -> None:
    """What is asked for stands in the question alone: each of these texts holds all the answers."""
    from miaobi.models import use

    torch.manual_seed(0)
    origin = base(tmp_path / "b")
    words = wordpiece(marks=("[UNK]", "<s>", "</s>"))
    use.UseModel(
        use.UseConfig(
            vocab_size=len(words), hidden_size=32, branch_size=16, inner_size=16
        )
    ).save_pretrained(tmp_path / "use")
    words.save_pretrained(tmp_path / "use")
    context = "Ada : red . Bob : blue . Eve : green ."
    records = [
        {"question": f"what is {who} ?", "context": context, "answer": colour}
        for who, colour in (("Ada", "red"), ("Bob", "blue"), ("Eve", "green"))
    ]
    learner = make(task, CONFIG, Base(origin.weights, tmp_path / "use"), records)
    assert learner.fresh == (
        "qa_outputs",
    ) and learner.net.qa_outputs.mark.tolist() == pytest.approx([0.1] * 32)
    fit(learner, task, CONFIG, records, steps=150, rate=5e-3)
    assert metrics_of(learner, task, CONFIG, records) == {"f1": 1.0, "exact": 1.0}


def test_a_base_without_such_a_head_is_named(tmp_path: Path) -> None:
    from transformers import ViTConfig, ViTModel

    origin = base(tmp_path / "b")
    ViTModel(
        ViTConfig(
            hidden_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            intermediate_size=16,
            image_size=16,
            patch_size=8,
        )
    ).save_pretrained(tmp_path / "v")
    origin.tokenizer.save_pretrained(tmp_path / "v")
    with pytest.raises(
        Unsupported,
        match="vit model, for which Transformers has no AutoModelForQuestionAnswering",
    ):
        make(task, CONFIG, Base(origin.weights, tmp_path / "v"), RECORDS)
