"""Examples that are too long lose the beginning of their prompt, not their answer;
examples of which nothing would be learned are dropped; both are counted before the run.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.tune.talkers import base

from miaobi.core.errors import BadInput
from miaobi.models.base import Base
from miaobi.tune.tasks import causal, chat, preference, seq2seq
from miaobi.tune.text.prompts import fit
from miaobi.verbs.finetune import plan
from miaobi.verbs.finetune.settings import settle
from miaobi.verbs.finetune.work import Work

LONG = "The quick brown fox jumps over the lazy dog. " * 20
ANSWER = "it's what we'll jump over."
LENGTH = 96


@pytest.fixture(scope="module")
def talker(tmp_path_factory: pytest.TempPathFactory) -> Base:
    return base(tmp_path_factory.mktemp("talker"))


def dialogue(*contents: str) -> dict[str, Any]:
    roles = ("user", "assistant") * len(contents)
    turns = zip(roles, contents, strict=False)
    return {"messages": [{"role": role, "content": text} for role, text in turns]}


def learned_text(learner: Any, features: Mapping[str, Any]) -> str:
    ids = features["ids"][features["learned"]]
    return str(learner.tokenizer.decode(ids))


@pytest.mark.parametrize(
    ("task", "columns"),
    [
        (causal, {"prompt": LONG + "Now? ", "text": ANSWER}),
        (chat, dialogue(LONG + "Now?", ANSWER)),
        (chat, dialogue(LONG, "no", LONG + "Now?", ANSWER)),
    ],
    ids=["prompt and completion", "dialogue", "dialogue of two exchanges"],
)
def test_the_prompt_loses_its_beginning_and_the_answer_stays(
    talker: Base, task: Any, columns: Mapping[str, Any]
) -> None:
    learner = task.learner(talker, {}, task.Config())
    whole = learner.encode(columns, 0)
    features = learner.encode(columns, LENGTH)
    assert len(features["ids"]) <= LENGTH < len(whole["ids"])
    text = learned_text(learner, features)
    assert text.startswith(ANSWER)
    assert learned_text(learner, whole).endswith(text)
    shown = learner.tokenizer.decode(features["ids"])
    assert "Now?" in shown
    assert shown.count("<|im_start|>") == (2 if task is chat else 0)
    assert not learner.loses_answer(columns, LENGTH)
    assert learner.loses_answer(columns, 8)


def test_a_system_prompt_stays_before_a_message_that_is_cut(talker: Base) -> None:
    learner = chat.learner(talker, {}, chat.Config())
    turns = [{"role": "system", "content": "Be brief."}]
    turns += dialogue(LONG + "Now?", ANSWER)["messages"]
    shown = learner.tokenizer.decode(learner.encode({"messages": turns}, LENGTH)["ids"])
    assert shown.startswith("<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user")


def test_a_text_without_a_prompt_keeps_its_beginning(talker: Base) -> None:
    learner = causal.learner(talker, {}, causal.Config())
    features = learner.encode({"prompt": "", "text": LONG}, LENGTH)
    assert learned_text(learner, features).startswith("The quick brown fox")
    assert learner.loses_answer({"prompt": "", "text": LONG}, LENGTH)


def test_pairs_and_translations_keep_their_answers(talker: Base) -> None:
    pairs = preference.learner(talker, {"up": 0, "down": 0}, preference.Config())
    columns = {"prompt": LONG, "chosen": ANSWER, "rejected": ANSWER * 2}
    features = pairs.encode(columns, LENGTH)
    whole = pairs.encode(columns, 0)
    for name in ("chosen", "rejected"):
        assert features[name].tolist() == whole[name].tolist()
    translator = seq2seq.learner(talker, {}, seq2seq.Config())
    row = {"source": LONG, "target": ANSWER * 2}
    assert (
        translator.encode(row, LENGTH)["target"].tolist()
        == translator.encode(row, 0)["target"].tolist()
    )


@settings(max_examples=300, deadline=None)
@given(
    question=st.lists(st.integers(0, 9), max_size=40),
    answer=st.lists(st.integers(10, 19), min_size=1, max_size=40),
    max_length=st.integers(2, 50),
)
def test_whatever_is_cut_leaves_the_answer_whole_that_fits(
    question: Sequence[int], answer: Sequence[int], max_length: int
) -> None:
    read, learned = fit(question, answer, max_length)
    fits = len(answer) + min(len(question), 1) <= max_length
    half = max(max_length // 2, max_length - len(question))
    assert learned.tolist() == (list(answer) if fits else list(answer)[:half])
    size = min(len(question), max_length - len(learned))
    assert read.tolist() == list(question)[len(question) - size :]
    assert len(read) + len(learned) <= max_length


def rows_of(path: Path, rows: Sequence[Mapping[str, Any]]) -> Path:
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return path


def work_of(talker: Base, path: Path, **options: Any) -> Work:
    recipe = {
        "task": "chat",
        "base": str(talker.folder),
        "data": {"path": str(path), "validation": 0.0, "test": 0.0, **options},
        "train": {"max_steps": 1, "batch_size": 2, "trackers": []},
    }
    return Work.open(settle(recipe), None, 1.0, True)


def test_counts_stand_beside_the_preview_before_the_run(
    talker: Base, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [dialogue(f"{number}?", ANSWER) for number in range(6)]
    rows += [dialogue(LONG + str(number), ANSWER) for number in range(3)]
    rows += [dialogue("Recite it.", LONG)]
    path = rows_of(tmp_path / "chats.jsonl", rows)
    cut = work_of(talker, path, max_length=LENGTH)
    cut.show_preview()
    shown = capsys.readouterr().err
    assert "4 of 10 training examples have more than 96 tokens" in shown
    assert "3 lose the beginning of their prompt and keep their answer" in shown
    assert "1 lose their end" in shown
    # The base's 512 tokens are less than the longest example has.
    assert "--data.max_length 512 is all the base can hold" in shown
    most = work_of(talker, path, max_length=512)
    assert "That is all the base can hold" in most.notes_on_lengths()[0]
    short = rows_of(tmp_path / "short.jsonl", [*rows[:6], dialogue(ANSWER * 9, "so")])
    cut = work_of(talker, short, max_length=LENGTH)
    longest = cut.lengths.longest
    assert f"--data.max_length {longest} keeps them whole" in cut.notes_on_lengths()[0]
    assert work_of(talker, short, max_length=longest).notes_on_lengths() == []
    dropped = work_of(talker, path, max_length=LENGTH, too_long="drop")
    assert dropped.data.count("train") == 6
    assert "they are left out" in dropped.notes_on_lengths()[0]


def test_what_is_split_keeps_all_exchanges(talker: Base, tmp_path: Path) -> None:
    exchanges = [text for number in range(8) for text in (f"{number}?", ANSWER)]
    path = rows_of(tmp_path / "chats.jsonl", [dialogue(*exchanges), dialogue("a", "b")])
    work = work_of(talker, path, max_length=LENGTH, too_long="split")
    said = [
        message["content"]
        for example in work.data.examples("train")
        for message in example.columns["messages"]
    ]
    assert sorted(said) == sorted([*exchanges, "a", "b"])
    assert "they are split" in work.notes_on_lengths()[0]


SILENT = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' }}"
    "{% if message['content'] != 'nothing' and message['role'] == 'assistant' %}"
    "{% generation %}{{ message['content'] + '<|im_end|>' }}{% endgeneration %}"
    "{% else %}{{ message['content'] }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
"""Marks what is to be learned, and nothing of some answers."""


def test_examples_that_teach_nothing_are_dropped_from_every_split(
    tmp_path: Path,
) -> None:
    silent = base(tmp_path / "silent", template=SILENT)
    rows = [dialogue(f"{number}?", ANSWER) for number in range(4)]
    rows += [dialogue(f"{number}?", "nothing") for number in range(4, 7)]
    path = rows_of(tmp_path / "chats.jsonl", rows)
    held = rows_of(
        tmp_path / "held.jsonl", [dialogue("x", "nothing"), dialogue("y", "z")]
    )
    work = work_of(silent, path, validation_path=str(held))
    assert [work.data.count(split) for split in ("train", "validation")] == [4, 1]
    assert all(
        work.data.features("train", number)["learned"].any() for number in range(4)
    )
    assert "train 3, validation 1" in work.notes_on_lengths()[0]
    only = rows_of(tmp_path / "only.jsonl", rows[4:])
    with pytest.raises(BadInput, match="nothing of the training examples"):
        work_of(silent, only)


def test_a_dry_run_ends_with_what_matters(talker: Base, tmp_path: Path) -> None:
    rows = [dialogue(LONG + str(number), ANSWER) for number in range(4)]
    path = rows_of(tmp_path / "chats.jsonl", rows)
    planned = plan(
        {"task": "chat", "data": {"validation": 0.0, "test": 0.0}},
        base=str(talker.folder),
        data=path,
        settings={"train.max_steps": 1, "train.batch_size": 2, "data.max_length": 96},
        quiet=True,
    )
    cost, too_long, few, validation, start = str(planned).splitlines()[-5:]
    assert "Expected:" in cost
    assert "4 of 4 training examples have more than 96 tokens" in too_long
    assert few.startswith("Only 4 to train on, 0 for validation")
    assert validation.startswith("No validation")
    assert "without --dry-run" in start
    assert np.isfinite(planned.estimate.seconds)
