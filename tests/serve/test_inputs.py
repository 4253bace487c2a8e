"""What models can be asked with, by their files alone."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from miaobi.core.engine import Weights
from miaobi.serve.inputs import PICTURE_TASKS, chats, inputs


def weights(
    folder: Path, form: str = "transformers", modality: str = "text"
) -> Weights:
    return Weights(form, str(folder), "m", modality=modality)


def test_a_template_makes_a_model_that_chats(tmp_path: Path) -> None:
    assert not chats(weights(tmp_path))
    config = tmp_path / "tokenizer_config.json"
    config.write_text(json.dumps({"chat_template": None}))
    assert not chats(weights(tmp_path))
    config.write_text(json.dumps({"chat_template": "{{ messages }}"}))
    assert chats(weights(tmp_path)) and inputs(weights(tmp_path)) == ["text"]
    config.unlink()
    (tmp_path / "chat_template.jinja").write_text("{{ messages }}")
    assert chats(weights(tmp_path))
    assert not chats(weights(tmp_path, modality="image"))


def test_files_that_cannot_be_read_do_not_chat(tmp_path: Path) -> None:
    (tmp_path / "model.gguf").write_bytes(b"GGUF" + b"\x00" * 30)
    assert not chats(weights(tmp_path / "model.gguf", "gguf"))
    (tmp_path / "tokenizer_config.json").write_text("{")
    assert not chats(weights(tmp_path))


def test_another_server_counts_as_one_that_chats() -> None:
    assert chats(Weights("url", "http://127.0.0.1:1", "m"))


@pytest.mark.slow
def test_picture_tasks_are_those_that_take_a_picture() -> None:
    from miaobi.tune.tasks import tasks

    with_picture = {
        name for name in tasks.built_in() if tasks.get(name).MODALITY == "image"
    }
    assert with_picture - {"diffusion"} == PICTURE_TASKS
