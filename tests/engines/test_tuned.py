"""The tuned engine: a task's question becomes its learner's own answer, from
whole weights as from an adapter.
"""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from tests.tune import encoders
from tests.tune.tuned import tuned_task

import miaobi
from miaobi.core.artifacts import Text
from miaobi.core.errors import BadInput, NotFound, Unsupported
from miaobi.core.store import Store
from miaobi.engines import auto, engines
from miaobi.models.weights import find
from miaobi.tune.learner import Example, Learner
from miaobi.tune.tasks import tasks

REVIEWS = [
    {"text": "good room", "label": "fine"},
    {"text": "awful staff", "label": "poor"},
    {"text": "nice food", "label": "fine"},
]
NAMES = [
    {
        "text": "Ada lives in Paris",
        "entities": [
            {"start": 0, "end": 3, "label": "person"},
            {"start": 13, "end": 18, "label": "place"},
        ],
    },
    {
        "text": "Bob works in Rome",
        "entities": [{"start": 0, "end": 3, "label": "person"}],
    },
]
QUESTIONS = [
    {
        "question": "where lives Ada ?",
        "context": "Ada lives in Paris .",
        "answer": "Paris",
    }
]


def examples(
    name: str, records: Sequence[Mapping[str, Any]], **head: Any
) -> list[Example]:
    task = tasks.get(name)
    return encoders.examples(task, task.Config(**head), records)


def tuned_model(
    folder: Path,
    name: str,
    records: Sequence[Mapping[str, Any]],
    kind: str = "bert",
    method: str = "full",
    **head: Any,
) -> tuple[Path, Learner]:
    origin = encoders.base(folder / "base", kind)
    return tuned_task(
        folder / "tuned",
        origin,
        name,
        examples(name, records, **head),
        head=head,
        method=method,
    )


@pytest.mark.parametrize(
    ("kind", "method"),
    [
        ("bert", "full"),
        ("bert", "lora"),
        ("llama", "lora"),
        ("llama", "bottleneck"),
        ("bert", "prompt"),
    ],
)
def test_a_text_gets_its_label(tmp_path: Path, kind: str, method: str) -> None:
    folder, learner = tuned_model(
        tmp_path, "text-classification", REVIEWS, kind, method
    )
    if method == "full":
        shutil.rmtree(tmp_path / "base")
    with miaobi.load(folder) as model:
        assert (model.engine_name, model.chats) == ("tuned", False)
        for text in ("good food", "awful room , bad price"):
            answer = model.generate(text)[0]
            assert isinstance(answer, Text)
            assert answer.finish == "stop"
            assert answer.facts.engine == "tuned"
            answer_json = json.loads(answer.text)
            want = learner.answer({"text": text})
            assert answer_json["label"] == want["label"]
            assert answer_json["scores"] == pytest.approx(want["scores"], abs=2e-5)
        assert (
            len({model.generate(text)[0].text for text in ("good food", "awful room")})
            == 2
        )


def test_tokens_of_question_and_answer_are_counted(tmp_path: Path) -> None:
    async def chunks(model: Any) -> list[Any]:
        return [
            chunk async for chunk in model.engine.generate(model.request("good food"))
        ]

    folder, _ = tuned_model(tmp_path, "text-classification", REVIEWS)
    with miaobi.load(folder) as model:
        first, last = asyncio.run(chunks(model))
    assert first.prompt_tokens == 2
    assert last.tokens > 0
    assert last.finish == "stop"


@pytest.mark.parametrize(
    ("problem", "labels", "key"),
    [
        ("regression", [1.5, -2.0, 0.5], "value"),
        ("multi", [["fine"], ["poor", "loud"], ["fine"]], "labels"),
    ],
)
def test_numbers_and_several_labels_are_answered_too(
    tmp_path: Path, problem: str, labels: list[Any], key: str
) -> None:
    records = [
        {"text": record["text"], "label": label}
        for record, label in zip(REVIEWS, labels)
    ]
    folder, learner = tuned_model(
        tmp_path, "text-classification", records, problem=problem
    )
    with miaobi.load(folder) as model:
        answer_json = json.loads(model.generate("good food")[0].text)
    want = learner.answer({"text": "good food"})
    assert answer_json.keys() == want.keys()
    assert key in answer_json
    assert answer_json[key] == (
        pytest.approx(want[key], abs=2e-5) if problem == "regression" else want[key]
    )


def test_pairs_come_as_json(tmp_path: Path) -> None:
    folder, learner = tuned_model(
        tmp_path,
        "text-classification",
        [{**REVIEWS[0], "text_pair": "not good"}, {**REVIEWS[1], "text_pair": "bad"}],
    )
    pair = {"text": "good room", "text_pair": "bad room"}
    with miaobi.load(folder) as model:
        answer_json = json.loads(model.generate(json.dumps(pair))[0].text)
    assert answer_json["scores"] == pytest.approx(
        learner.answer(pair)["scores"], abs=2e-5
    )
    assert answer_json["scores"] != pytest.approx(
        learner.answer({"text": json.dumps(pair)})["scores"], abs=2e-5
    )


def test_names_keep_their_positions(tmp_path: Path) -> None:
    folder, learner = tuned_model(tmp_path, "token-classification", NAMES)
    text = "Eve of Oslo works in Rome"
    with miaobi.load(folder) as model:
        answer_json = json.loads(model.generate(text)[0].text)
    assert answer_json == json.loads(json.dumps(learner.answer({"text": text})))
    assert all(
        text[item["start"] : item["end"]] == item["text"] for item in answer_json
    )


def test_questions_need_their_context(tmp_path: Path) -> None:
    folder, learner = tuned_model(tmp_path, "extractive-questions", QUESTIONS * 3)
    question = {"question": "where is Bob ?", "context": "Bob is in Rome ."}
    with miaobi.load(folder) as model:
        answer = model.generate(json.dumps(question))[0].text
        want = learner.answer(question)
        if not isinstance(want, str):
            want = json.dumps(want, ensure_ascii=False)
        assert answer == want
        for prompt in ("where is Bob ?", '{"question": "where ?"}'):
            with pytest.raises(BadInput, match="question, context") as caught:
                model.generate(prompt)
            assert '{"question": "...", "context": "..."}' in caught.value.remedy


def test_requests_at_the_same_time(tmp_path: Path) -> None:
    folder, _ = tuned_model(tmp_path, "text-classification", REVIEWS)
    texts = [f"good {word}" for word in ("room", "price", "food", "staff")]
    with miaobi.load(folder) as model:

        async def together() -> list[str]:
            answers = await asyncio.gather(*(model.agenerate(text) for text in texts))
            return [answer.text for (answer,) in answers]

        alone = [model.generate(text)[0].text for text in texts]
        assert asyncio.run(together()) == alone


def test_what_does_not_apply_is_refused(tmp_path: Path) -> None:
    folder, _ = tuned_model(tmp_path, "text-classification", REVIEWS)
    with miaobi.load(folder) as model:
        for controls in (
            {"n": 2},
            {"temperature": 0.5},
            {"max_new_tokens": 4},
            {"image": Path("a.png")},
        ):
            with pytest.raises(
                Unsupported, match=f"does not offer {next(iter(controls))}"
            ):
                model.generate("good", **controls)
        with pytest.raises(Unsupported, match="messages"):
            model.generate([{"role": "user", "content": "good"}])
        assert model.generate("good")[0].text, "and it goes on"
    for engine in ("native", "llamacpp", "openvino", "pictures", "diffusers"):
        assert not engines.get(engine).reads(find(str(folder)))


def test_its_name_on_the_command_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from miaobi import cli

    folder, learner = tuned_model(
        tmp_path, "text-classification", REVIEWS, method="lora"
    )
    Store().add(folder, "review-sentiment")
    assert auto.choose(find("review-sentiment")) == "tuned"
    assert (
        cli.main(
            ["generate", "text", "--model", "review-sentiment", "--prompt", "good food"]
        )
        == 0
    )
    assert (
        json.loads(capsys.readouterr().out)["label"]
        == learner.answer({"text": "good food"})["label"]
    )
    shutil.rmtree(tmp_path / "base")
    with pytest.raises(NotFound, match="adapter for base, which is not here"):
        miaobi.load("review-sentiment")
