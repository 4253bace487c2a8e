"""Distillation: the divergence against its formula, answers asked for once and kept, a
student made of some of the layers.
"""

from __future__ import annotations

import json
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from tests.tune.bases import base
from tests.tune.metric_values import metric_values
from torch.nn import functional as F
from transformers import AutoModelForCausalLM

from miaobi.core import config
from miaobi.core.errors import BadInput, Unsupported
from miaobi.data.text.shapes import Unusable
from miaobi.nn.objective import prepared
from miaobi.tune import methods
from miaobi.tune.config import TuneConfig
from miaobi.tune.learner import Example
from miaobi.tune.tasks.distillation import (
    Config,
    Student,
    columns,
    keep_layers,
    learner,
    survey,
)
from miaobi.tune.text import teacher

RECORDS = [
    {"prompt": "Say hello.", "completion": "hello there"},
    {"prompt": "", "completion": "A text of its own."},
    {"prompt": "Bye", "completion": "see you"},
]


def batch_of(task: Student, records: list[dict[str, Any]] = RECORDS) -> Any:
    return prepared(task, task.collate([task.encode(record, 64) for record in records]))


@pytest.mark.parametrize("chats", [False, True])
def test_the_divergence_is_its_formula(tmp_path: Path, chats: bool) -> None:
    base(tmp_path / "teacher", chats=chats, seed=1, layers=3)
    task = learner(
        base(tmp_path / "student", chats=chats),
        {},
        Config(teacher=str(tmp_path / "teacher"), temperature=3.0, alpha=0.7),
    )
    large = AutoModelForCausalLM.from_pretrained(tmp_path / "teacher").eval()
    expected = tokens = 0.0
    with torch.no_grad():
        for record in RECORDS:
            read, learned = task.parts(record)
            ids = torch.tensor([read + learned])
            p, q = (
                net(input_ids=ids).logits[0, len(read) - 1 : -1]
                for net in (large, task.net)
            )
            soft_p, soft_q = (logits.double().div(3).softmax(-1) for logits in (p, q))
            expected += float(0.7 * 9 * (soft_p * (soft_p.log() - soft_q.log())).sum())
            expected += float(
                0.3 * F.cross_entropy(q, torch.tensor(learned), reduction="sum")
            )
            tokens += len(learned)
        loss = task.loss(batch_of(task))
    assert loss.count == tokens
    assert float(loss.total) == pytest.approx(expected, rel=1e-4)


def test_a_student_comes_to_say_what_its_teacher_does(tmp_path: Path) -> None:
    base(tmp_path / "teacher", seed=1)
    task = learner(
        base(tmp_path / "student"),
        {},
        Config(teacher=str(tmp_path / "teacher"), temperature=1.0, alpha=1.0),
    )
    names = {name for name, _ in task.named_parameters()}
    batch = batch_of(task)
    optimizer = torch.optim.Adam(task.net.parameters(), lr=1e-2)
    for _ in range(150):
        loss = task.loss(batch)
        optimizer.zero_grad()
        (loss.total / loss.count).backward()
        optimizer.step()
    task.eval()
    with torch.no_grad():
        evaluations = task.evaluate(batch_of(task))
    values = metric_values(task, evaluations)
    assert values["divergence"] < 0.01 and values["agreement"] > 0.9
    assert not any("_model" in name for name in names) and len(names) == len(
        list(task.net.parameters())
    )


def test_a_teacher_is_its_own_perfect_student(tmp_path: Path) -> None:
    folder = base(tmp_path / "teacher")
    task = learner(folder, {}, Config(teacher=str(tmp_path / "teacher"), alpha=1.0))
    with torch.no_grad():
        assert float(task.loss(batch_of(task)).total) == pytest.approx(0, abs=1e-4)


def test_another_vocabulary_is_refused(tmp_path: Path) -> None:
    other = base(tmp_path / "teacher")
    other.tokenizer.add_tokens(["<new>"])
    other.tokenizer.save_pretrained(tmp_path / "teacher")
    with pytest.raises(Unsupported, match="another vocabulary") as caught:
        learner(
            base(tmp_path / "student"), {}, Config(teacher=str(tmp_path / "teacher"))
        )
    assert "--head.loss answers" in caught.value.remedy
    with pytest.raises(Unsupported, match="is a server"):
        learner(base(tmp_path / "student"), {}, Config(teacher="http://127.0.0.1:9/v1"))


class Answers:
    """Stands for an opened model: counts what it is asked, and may fall silent."""

    def __init__(self, silent_after: int = 10**6) -> None:
        self.questions, self.silent_after, self.closed, self._lock = (
            list[Any](),
            silent_after,
            False,
            threading.Lock(),
        )

    def generate(self, question: Any, **controls: Any) -> list[Any]:
        assert controls == {"temperature": 0, "max_new_tokens": 16, "seed": 0}
        with self._lock:
            self.questions.append(question)
            if len(self.questions) > self.silent_after:
                raise ConnectionError("the server is gone")
        return [
            SimpleNamespace(
                text=f" about {question if isinstance(question, str) else question[-1]['content']} "
            )
        ]

    def close(self) -> None:
        self.closed = True


def opener(model: Answers) -> teacher.Opener:
    return lambda name, *, streams, **options: model


QUESTIONS = [
    Example({"prompt": f"question {number}", "completion": ""}, f"x:{number}")
    for number in range(6)
]


def test_answers_are_asked_for_once_and_saved(tmp_path: Path) -> None:
    folder = base(tmp_path / "student")
    config = Config(
        teacher=str(tmp_path / "student"), loss="answers", max_new_tokens=16, streams=1
    )
    first = Answers(silent_after=4)
    with teacher.opened_by(opener(first)), pytest.raises(ConnectionError):
        survey(QUESTIONS, config)
    again = Answers()
    # As after a power loss in the middle of a line.
    answers = teacher.Teacher(config.teacher, None, "", 16).path
    with answers.open("a", encoding="utf-8") as file:
        file.write('{"prompt": "question 4", "ans')
    with teacher.opened_by(opener(again)):
        spec = survey([*QUESTIONS, QUESTIONS[0]], config)
    assert spec == {"examples": 7, "answered": 7}
    assert sorted(again.questions) == ["question 4", "question 5"] and again.closed
    survey(QUESTIONS, config)  # all is learned: nothing is opened
    assert len(again.questions) == 2
    lines = [
        line
        for line in answers.read_text(encoding="utf-8").splitlines()
        if line.endswith("}")
    ]
    assert sorted(json.loads(line)["prompt"] for line in lines) == [
        f"question {number}" for number in range(6)
    ]
    # The learner reads the same answers, and asks for those of validation and test when
    # they come.
    with teacher.opened_by(opener(again)):
        task = learner(folder, {}, config)
    assert (
        task.completion(QUESTIONS[3].columns) == "about question 3"
        and len(again.questions) == 2
    )
    assert (
        task.completion(
            {"prompt": [{"role": "user", "content": "new"}], "completion": "mine"}
        )
        == "about new"
    )
    ids = task.encode(QUESTIONS[3].columns, 64)
    assert task.tokenizer.decode(ids["ids"][ids["learned"]]) == "about question 3</s>"
    assert (
        task.loss(batch_of(task, [QUESTIONS[3].columns])).count
        == len("about question 3") + 1
    )


def test_many_questions_at_a_time(tmp_path: Path) -> None:
    base(tmp_path / "student")
    model = Answers()
    reading = teacher.Teacher(
        str(tmp_path / "student"), opener(model), "", 16, streams=4
    )
    reading.ask([f"q{number}" for number in range(40)])
    read = teacher.Teacher(str(tmp_path / "student"), None, "", 16)
    assert [read[f"q{number}"] for number in range(40)] == [
        f"about q{number}" for number in range(40)
    ]
    assert len(model.questions) == 40


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_a_student_of_some_layers(tmp_path: Path, kind: str) -> None:
    whole, cut = (
        base(tmp_path / kind, kind, layers=5).model(AutoModelForCausalLM).eval()
        for _ in range(2)
    )
    keep_layers(cut, 3)
    name = "model.layers" if kind == "llama" else "transformer.h"
    for index, original in enumerate((0, 2, 4)):
        for mine, theirs in zip(
            cut.get_submodule(f"{name}.{index}").parameters(),
            whole.get_submodule(f"{name}.{original}").parameters(),
        ):
            assert mine.equal(theirs)
    ids = torch.arange(5, 25)[None]
    with torch.no_grad():
        at_once = cut(input_ids=ids).logits
        past = cut(input_ids=ids[:, :12], use_cache=True).past_key_values
        assert cut(input_ids=ids[:, 12:], past_key_values=past).logits.allclose(
            at_once[:, 12:], atol=1e-5
        )
        cut.save_pretrained(tmp_path / "cut")
        assert (
            AutoModelForCausalLM.from_pretrained(tmp_path / "cut")
            .eval()(input_ids=ids)
            .logits.allclose(at_once, atol=1e-6)
        )
    with pytest.raises(BadInput, match=r"head\.layers is 9; the base has 5"):
        keep_layers(whole, 9)


def test_layers_do_not_go_with_an_adapter(tmp_path: Path) -> None:
    for method in ("lora", "full"):
        task = learner(
            base(tmp_path / "student", layers=4),
            {},
            Config(teacher=str(tmp_path / "student"), layers=2),
        )
        methods.apply(task, TuneConfig(method=method))
        if method == "full":
            assert task.phases()[0].module is task.net
        else:
            with pytest.raises(Unsupported, match="an adapter alone"):
                task.phases()


def test_columns_and_settings() -> None:
    assert columns({"prompt": "a"}, Config()) == {"prompt": "a", "completion": ""}
    assert columns({"prompt": "a", "completion": " b"}, Config()) == {
        "prompt": "a",
        "completion": "b",
    }
    assert columns({"text": "whole"}, Config()) == {"prompt": "", "completion": "whole"}
    turns = [
        {"role": "user", "content": "hi"},
        {"role": "assistant", "content": "hello"},
    ]
    assert columns({"messages": turns}, Config()) == {
        "prompt": turns[:1],
        "completion": "hello",
    }
    assert columns({"messages": turns[:1]}, Config()) == {
        "prompt": turns[:1],
        "completion": "",
    }
    with pytest.raises(Unusable, match="no question"):
        columns({"text": "whole"}, Config(loss="answers"))
    with pytest.raises(BadInput, match="There is no teacher"):
        survey(QUESTIONS, Config())
    with pytest.raises(BadInput, match=r"head\.temperature is 0"):
        config.make(Config, {"head.temperature": 0}, "head.")
