"""Plain text: every token is learned, by Transformers' own loss; windows; what is no text."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.tune.talkers import base

from miaobi.core.engine import Weights
from miaobi.core.errors import Unsupported
from miaobi.data.text.shapes import Unusable
from miaobi.models.base import Base
from miaobi.tune.tasks import causal
from miaobi.tune.tasks.causal import Config, Writer

TEXTS = ["The quick brown fox", "你好，世界！", "jumps over\n\nthe lazy dog."]


def writer(folder: Path, kind: str = "llama", **config: Any) -> Writer:
    return causal.learner(base(folder, kind), {}, Config(**config))


@pytest.mark.parametrize("kind", ["llama", "gemma2"])
def test_the_loss_is_transformers_own(tmp_path: Path, kind: str) -> None:
    learner = writer(tmp_path, kind)
    features = [
        learner.encode(causal.columns({"text": text}, Config()), 0) for text in TEXTS
    ]
    total = 0.0
    with torch.no_grad():
        for item in features:
            assert item["ids"][-1] == learner.tokenizer.eos_token_id
            assert item["learned"].all()
            ids = torch.from_numpy(item["ids"])[None]
            total += learner.net(input_ids=ids, labels=ids).loss.item() * (
                ids.shape[1] - 1
            )
        loss = learner.loss(learner.collate(features))
    assert loss.count == sum(len(item["ids"]) - 1 for item in features)
    assert loss.total.item() == pytest.approx(total, rel=1e-5)


def test_of_a_prompt_and_its_completion_the_completion_is_learned(
    tmp_path: Path,
) -> None:
    learner = writer(tmp_path)
    columns = causal.columns(
        {"prompt": "The quick", "completion": " brown fox"}, Config()
    )
    pieces = learner.preview(learner.encode(columns, 0))
    assert [(piece.text, piece.learned) for piece in pieces] == [
        ("The quick", False),
        (" brown fox<|endoftext|>", True),
    ]
    assert causal.question(columns) == {"prompt": "The quick"}
    assert causal.question(causal.columns({"text": "a"}, Config())) == {"text": "a"}


def test_windows_hold_every_character_once(tmp_path: Path) -> None:
    learner = writer(tmp_path)
    columns = {
        "prompt": "The lazy dog, ",
        "text": "你好，世界！ The quick brown fox jumps over it. " * 4,
    }
    windows = learner.split(columns, 12)
    assert "".join(window["text"] for window in windows) == columns["text"]
    assert all(learner.length(window) <= 12 for window in windows)
    assert all(learner.length(window) > 6 for window in windows[:-1])
    # Only the last one teaches that the text is over.
    ends = [
        learner.encode(window, 12)["ids"][-1] == learner.tokenizer.eos_token_id
        for window in windows
    ]
    assert ends == [False] * (len(windows) - 1) + [True]
    assert windows[0]["prompt"] and columns["prompt"].endswith(windows[0]["prompt"])


def test_cutting_keeps_the_beginning(tmp_path: Path) -> None:
    learner = writer(tmp_path)
    whole, cut = (
        learner.encode({"prompt": "", "text": TEXTS[2]}, length)["ids"]
        for length in (0, 5)
    )
    assert np.array_equal(cut, whole[:5])


@pytest.mark.parametrize(
    ("record", "problem"),
    [
        ({"text": "  "}, "empty"),
        ({"messages": [{"role": "user", "content": "q"}]}, "a dialogue"),
        ({"a": 1}, "no text found"),
    ],
)
def test_what_is_no_text(record: dict[str, Any], problem: str) -> None:
    with pytest.raises(Unusable, match=problem):
        causal.columns(record, Config())


def test_a_base_that_does_not_write(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "vit"}', encoding="utf-8")
    with pytest.raises(Unsupported, match="vit, which is no causal language model"):
        causal.writing_model(
            Base(Weights("transformers", str(tmp_path), "eyes"), tmp_path)
        )


def test_examples_are_evaluated_separately(tmp_path: Path) -> None:
    learner = writer(tmp_path)
    features = [learner.encode({"prompt": "", "text": text}, 0) for text in TEXTS]
    with torch.no_grad():
        together = learner.evaluate(learner.collate(features))
        for item, evaluation in zip(features, together):
            single = learner.evaluate(learner.collate([item]))[0]
            assert evaluation.loss == pytest.approx(single.loss, rel=1e-5)
            assert (
                evaluation.counts["token_accuracy"].tolist()
                == single.counts["token_accuracy"].tolist()
            )


def test_noise_and_dropout_keep_a_common_beginning_apart(tmp_path: Path) -> None:
    """What is computed once would get one noise."""
    learner = writer(tmp_path)
    features = [
        {
            "ids": np.array([1, 2, 3, last]),
            "learned": np.array([False, False, False, True]),
        }
        for last in (4, 5)
    ]
    learner.train()
    assert learner.collate(features)["bounds"][0] == 2
    learner.neftune_alpha = 5.0
    assert learner.collate(features)["bounds"][0] == 0
    learner.eval()
    assert learner.collate(features)["bounds"][0] == 2


def test_answers_go_on_from_the_prompt(tmp_path: Path) -> None:
    learner = writer(tmp_path, max_new_tokens=4)
    learner.net.generation_config.max_length = None
    columns = {"prompt": "The quick", "text": " fox"}
    ids = torch.tensor([learner.tokenizer("The quick").input_ids])
    for _ in range(4):
        with torch.no_grad():
            ids = torch.cat(
                [ids, learner.net(input_ids=ids).logits[:, -1:].argmax(-1)], 1
            )
    expected = learner.tokenizer.decode(ids[0, -4:], skip_special_tokens=True).strip()
    assert learner.answer(columns) == expected
