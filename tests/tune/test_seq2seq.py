"""Text to text: the loss against the model's own, only the target learned, values that
are sums, a task that is learned.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tests.tune.bases import base
from tests.tune.metric_values import metric_values
from torch.nn import functional as F

from miaobi.core import config
from miaobi.core.errors import BadInput
from miaobi.data.text.shapes import Unusable
from miaobi.tune.tasks import seq2seq
from miaobi.tune.tasks.seq2seq import Config, columns, learner

PAIRS = [
    {"source": "cat", "target": "猫"},
    {"source": "a large dog", "target": "一只大狗"},
    {"source": "tea", "target": "茶"},
]


def batch_of(
    task: Any, pairs: list[dict[str, str]] = PAIRS, max_length: int = 64
) -> Any:
    return task.collate([task.encode(pair, max_length) for pair in pairs])


@pytest.mark.parametrize("kind", ["t5", "bart"])
def test_the_loss_is_the_models_own_over_the_targets(tmp_path: Path, kind: str) -> None:
    task = learner(base(tmp_path / kind, kind), {}, Config())
    batch = batch_of(task)
    loss = task.loss(batch)
    own = task.net(
        input_ids=batch["ids"], attention_mask=batch["mask"], labels=batch["target"]
    ).loss
    assert loss.count == sum(len(pair["target"].encode()) + 1 for pair in PAIRS)
    assert torch.allclose(loss.total / loss.count, own, rtol=1e-5)


@pytest.mark.parametrize(
    ("kind", "chats"), [("llama", True), ("llama", False), ("gpt2", False)]
)
def test_a_causal_base_learns_the_target_alone(
    tmp_path: Path, kind: str, chats: bool
) -> None:
    task = learner(
        base(tmp_path / kind, kind, chats), {}, Config(prompt="Translate: {source}\n")
    )
    loss = task.loss(batch_of(task))
    total, count = 0.0, 0
    for pair in PAIRS:
        question = f"Translate: {pair['source']}\n"
        before = (
            f"<|im_start|>user\n{question}<|im_end|>\n<|im_start|>assistant\n"
            if chats
            else question
        )
        question, answer = (
            task.prompt_format.tokenizer(text, add_special_tokens=False).input_ids
            for text in (before, pair["target"] + ("<|im_end|>" if chats else "</s>"))
        )
        labels = torch.tensor([[-100] * len(question) + answer])
        total += float(
            task.net(
                input_ids=torch.tensor([question + answer]), labels=labels
            ).loss.detach()
        ) * len(answer)
        count += len(answer)
    assert loss.count == count
    assert float(loss.total.detach()) == pytest.approx(total, rel=1e-5)


def test_smoothed_labels_are_pytorchs(tmp_path: Path) -> None:
    folder = base(tmp_path / "t5", "t5")
    task, plain = (
        learner(folder, {}, Config(label_smoothing=0.1)),
        learner(folder, {}, Config()),
    )
    batch = batch_of(task)
    for one in (task, plain):
        one.requires_grad_(False)
    logits, tokens = task.logits(batch)
    # (1 - ε) of the certainty on the right token, ε shared by all of the vocabulary.
    expected = (
        0.9 * F.cross_entropy(logits, tokens, reduction="sum")
        - 0.1 * F.log_softmax(logits, -1).mean(-1).sum()
    )
    assert float(task.loss(batch).total) == pytest.approx(float(expected), rel=1e-5)
    assert float(plain.loss(batch).total) == pytest.approx(
        float(F.cross_entropy(logits, tokens, reduction="sum")), rel=1e-5
    )


@pytest.mark.parametrize("kind", ["t5", "llama"])
def test_a_pair_is_learned_and_written_again(tmp_path: Path, kind: str) -> None:
    task = learner(
        base(tmp_path / kind, kind), {}, Config(prompt="{source} = ", max_new_tokens=16)
    )
    batch = batch_of(task)
    optimizer = torch.optim.Adam(task.parameters(), lr=1e-2)
    for _ in range(150):
        loss = task.loss(batch)
        optimizer.zero_grad()
        (loss.total / loss.count).backward()
        optimizer.step()
    task.eval()
    with torch.no_grad():
        evaluations = task.evaluate(batch)
    task.requires_grad_(False)
    assert [item.answer for item in evaluations] == [pair["target"] for pair in PAIRS]
    assert [task.answer({"source": pair["source"]}) for pair in PAIRS] == [
        pair["target"] for pair in PAIRS
    ]
    values = metric_values(task, evaluations)
    assert values["chrf"] == pytest.approx(100) and values["rouge_l"] == pytest.approx(
        100
    )
    assert (
        values["loss"]
        == pytest.approx(
            float(task.loss(batch).total) / task.loss(batch).count, rel=1e-4
        )
        and values["loss"] < 0.1
    )


def test_rows_of_a_batch_do_not_touch_each_other(tmp_path: Path) -> None:
    task = learner(base(tmp_path / "llama"), {}, Config())
    task.eval().requires_grad_(False)
    alone = [task.evaluate(batch_of(task, [pair]))[0] for pair in PAIRS]
    together = task.evaluate(batch_of(task))
    assert [item.answer for item in alone] == [item.answer for item in together]
    assert [item.loss for item in alone] == pytest.approx(
        [item.loss for item in together], rel=1e-5
    )


@pytest.mark.parametrize("kind", ["t5", "llama"])
def test_long_sources_are_cut_and_the_prompt_stays(tmp_path: Path, kind: str) -> None:
    task = learner(
        base(tmp_path / kind, kind), {}, Config(prompt="Say: {source} In short:")
    )
    pair = {"source": "word " * 100, "target": "words"}
    features = task.encode(pair, 48)
    text = task.prompt_format.tokenizer.decode(
        features["source"], skip_special_tokens=True
    )
    assert text.startswith("Say: word word") and text.endswith("In short:")
    assert (
        len(features["source"]) + (len(features["target"]) if kind == "llama" else 0)
        <= 48
    )
    assert task.prompt_format.tokenizer.decode(features["target"]) == "words</s>"
    assert task.length(pair) > 500
    assert len(task.encode({"source": "a", "target": "b" * 100}, 48)["target"]) <= 48


def test_the_first_metric_is_the_configured_one(tmp_path: Path) -> None:
    folder = base(tmp_path / "t5", "t5")
    assert [
        metric.name
        for metric in learner(folder, {}, Config(metric="rouge_l")).metrics()
    ] == ["rouge_l", "chrf", "bleu", "loss"]
    assert learner(folder, {}, Config(metric="loss")).metrics()[0].better == "lower"


def test_columns_are_read_by_name() -> None:
    config = Config(source="zh", target="en")
    assert columns({"zh": " 猫 ", "en": "cat", "text": "x"}, config) == {
        "source": "猫",
        "target": "cat",
    }
    assert columns({"source": "猫", "target": "cat"}, config) == {
        "source": "猫",
        "target": "cat",
    }
    with pytest.raises(Unusable, match="'en'; there are: zh, note") as caught:
        columns({"zh": "猫", "note": "x"}, config)
    assert "head.target" in caught.value.remedy
    with pytest.raises(Unusable, match="'zh'"):
        columns({"zh": "  ", "en": "cat"}, config)


def test_settings_that_make_no_sense_are_refused() -> None:
    with pytest.raises(BadInput, match="the source would not be in it"):
        Config(prompt="Translate this")
    with pytest.raises(BadInput, match="label_smoothing is 1.5"):
        config.make(Config, {"head.label_smoothing": 1.5}, "head.")


def test_the_preview_shows_what_is_learned(tmp_path: Path) -> None:
    task = learner(base(tmp_path / "llama", chats=True), {}, Config())
    pieces = task.preview(task.encode(PAIRS[0], 64))
    assert [(piece.text, piece.learned) for piece in pieces] == [
        ("<|im_start|>user\ncat<|im_end|>\n<|im_start|>assistant\n", False),
        ("猫<|im_end|>", True),
    ]
    assert seq2seq.question(columns(PAIRS[0], Config())) == {"source": "cat"}
