"""Real engines behind the server: a model that was trained here and an adapter of it,
each under its own name.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from fastapi.testclient import TestClient
from tests.engines.small import small_bundle
from tests.serve.test_embeddings import served
from tests.tune import encoders
from tests.tune.tuned import tuned, tuned_task

from miaobi.core import bundle
from miaobi.core.store import Store
from miaobi.models.weights import find
from miaobi.serve.app import create_app
from miaobi.serve.opening import estimate
from miaobi.tune.tasks import tasks


def test_a_trained_model_and_an_adapter_of_it_answer_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    services = served(tmp_path / "home")
    (tmp_path / "home" / "converted").unlink()  # what is made of toys stays here
    base = Store().add(small_bundle(tmp_path / "poet", chat=True), "poet")
    Store().add(tuned(tmp_path / "bard", base.path, 1, 0.3), "bard")
    fields = {"prompt": "春江潮水", "max_tokens": 12, "temperature": 0}
    with TestClient(create_app(services)) as client:
        poet, bard = (
            client.post("/v1/completions", json={"model": name, **fields}).json()
            for name in ("poet", "bard")
        )
        assert (
            poet["choices"][0]["text"] != bard["choices"][0]["text"]
            and bard["miaobi"]["model"] == "bard@1"
        )
        assert (
            poet["usage"]["prompt_tokens"] >= 4
            and poet["usage"]["completion_tokens"] == 12
        )
        assert "llamacpp" in bard["miaobi"]["engine"], (
            "merged, as that is quicker than beside its base"
        )
        chat = client.post(
            "/v1/chat/completions",
            json={
                "model": "poet",
                "messages": [{"role": "user", "content": "江"}],
                "max_tokens": 5,
                "logprobs": True,
            },
        ).json()
        assert (
            len(chat["choices"][0]["logprobs"]["content"]) <= 5
            and chat["choices"][0]["message"]["content"]
        )
        model_object = client.get("/v1/models/bard").json()
        assert model_object["owned_by"] == "local" and {
            item["id"] for item in client.get("/v1/models").json()["data"]
        } >= {"poet", "bard"}
        for name in ("poet", "bard"):
            answers = client.post(
                "/v1/completions",
                json={
                    "model": name,
                    **fields,
                    "prompt": ["春江", "江畔"],
                    "n": 2,
                    "temperature": 1,
                    "seed": 1,
                },
            ).json()
            assert len({choice["text"] for choice in answers["choices"]}) > 1


TOOLS = (
    "{% for tool in tools or [] %}[{{ tool.function.name }}]{% endfor %}{% for "
    "message in messages %}{{ message.content }}{% endfor %}"
)


def test_a_call_that_is_demanded_of_a_real_model(tmp_path: Path) -> None:
    services = served(tmp_path / "home")
    (tmp_path / "home" / "converted").unlink()
    folder = small_bundle(tmp_path / "caller", chat=True)
    manifest = bundle.read(folder)
    (folder / "chat_template.jinja").write_text(TOOLS)
    Store().add(
        bundle.write(
            tmp_path / "told",
            manifest,
            lambda draft: shutil.copytree(folder, draft, dirs_exist_ok=True) and None,
        ),
        "caller",
    )
    tool = {
        "type": "function",
        "function": {
            "name": "moon",
            "parameters": {
                "type": "object",
                "properties": {
                    "phase": {"enum": ["full", "new"]},
                    "day": {"type": "integer"},
                },
                "required": ["phase"],
            },
        },
    }
    fields = {
        "model": "caller",
        "messages": [{"role": "user", "content": "春江"}],
        "tools": [tool, {"type": "function", "function": {"name": "sun"}}],
        "max_tokens": 150,
    }
    with TestClient(create_app(services)) as client:
        for seed in range(3):
            choice = client.post(
                "/v1/chat/completions",
                json={
                    **fields,
                    "tool_choice": {"type": "function", "function": {"name": "moon"}},
                    "seed": seed,
                },
            ).json()["choices"][0]
            call = choice["message"]["tool_calls"][0]["function"]
            assert (
                call["name"] == "moon"
                and json.loads(call["arguments"])["phase"] in ("full", "new")
                and choice["finish_reason"] == "tool_calls"
            )
        either = client.post(
            "/v1/chat/completions",
            json={**fields, "tool_choice": "required", "seed": 1},
        ).json()["choices"][0]
        assert either["message"]["tool_calls"][0]["function"]["name"] in ("moon", "sun")
        free = client.post(
            "/v1/chat/completions", json={**fields, "max_tokens": 8}
        ).json()
        without = client.post(
            "/v1/chat/completions",
            json={**fields, "max_tokens": 8, "tool_choice": "none"},
        ).json()
        assert free["usage"]["prompt_tokens"] == without["usage"][
            "prompt_tokens"
        ] + len("[moon][sun]"), (
            "the template told the model of them, a character a token"
        )


def test_a_tuned_classifier_answers_with_its_label(tmp_path: Path) -> None:
    task = tasks.get("text-classification")
    records = [
        {"text": "good room", "label": "fine"},
        {"text": "awful staff", "label": "poor"},
    ]
    folder, learner = tuned_task(
        tmp_path / "tuned",
        encoders.base(tmp_path / "base", "bert"),
        "text-classification",
        encoders.examples(task, task.Config(), records),
        head={},
        method="full",
    )
    services = served(tmp_path / "home")
    Store().add(folder, "mood")
    with TestClient(create_app(services)) as client:
        answer = client.post(
            "/v1/completions",
            json={"model": "mood", "prompt": ["good food", "awful room"]},
        ).json()
        assert [
            json.loads(choice["text"])["label"] for choice in answer["choices"]
        ] == [
            learner.answer({"text": text})["label"]
            for text in ("good food", "awful room")
        ]
        assert (
            answer["usage"]["prompt_tokens"] == 4
            and answer["choices"][0]["finish_reason"] == "stop"
        )
        for more, named in (
            ({"temperature": 0.5}, "temperature"),
            ({"max_tokens": 5}, "max_tokens"),
            ({"n": 2}, "n"),
        ):
            refused = client.post(
                "/v1/completions", json={"model": "mood", "prompt": "x", **more}
            )
            assert (
                refused.status_code == 400 and refused.json()["error"]["param"] == named
            )
        chat = client.post(
            "/v1/chat/completions",
            json={"model": "mood", "messages": [{"role": "user", "content": "x"}]},
        )
        assert (
            chat.status_code == 400
            and "completions.create(prompt" in chat.json()["error"]["message"]
        )


def test_estimates_follow_the_files(
    tmp_path: Path, pack: Callable[[str], Path], smollm2: Path
) -> None:
    small = estimate(find(str(small_bundle(tmp_path / "poet"))))
    large = estimate(find(str(smollm2)))
    assert (256 << 20) < small < large < 1 << 30
