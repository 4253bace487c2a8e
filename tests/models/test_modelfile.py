"""A Modelfile for Ollama writes dialogues as the model's own chat template does."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from tests.engines.small import small_bundle

from miaobi.data.text.tokenizer import CHAT_TEMPLATE
from miaobi.models.chat import ChatTemplate
from miaobi.models.convert import to_gguf
from miaobi.models.convert.modelfile import frame_of, modelfile
from miaobi.tune.text.turns import BUILT_IN

SMOLLM = (
    "{% for message in messages %}"
    "{% if loop.first and messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\nYou are a helpful AI assistant<|im_end|>\n' }}{% endif %}"
    "{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n'}}"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
LLAMA3 = (
    "{% for message in messages %}{% if loop.first %}{{ bos_token }}{% endif %}"
    "<|start_header_id|>{{ message['role'] }}<|end_header_id|>\n\n"
    "{{ message['content'] | trim }}<|eot_id|>{% endfor %}"
    "{% if add_generation_prompt %}"
    "<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)
COUNTED = "{% for message in messages %}{{ loop.index }}: {{ message['content'] }}{% endfor %}"
ONLY_USER = (
    "{% for message in messages %}{% if message['role'] == 'system' %}"
    "{{ raise_exception('no system') }}{% endif %}{{ message['content'] }}{% endfor %}"
)
SIMPLE = {"own": CHAT_TEMPLATE, "smollm": SMOLLM, "llama3": LLAMA3}
SIMPLE |= {name: BUILT_IN[name] for name in ("chatml", "phi3", "alpaca", "plain")}
DIALOGUE = [
    {"role": "system", "content": "Answer briefly."},
    {"role": "user", "content": "你好！"},
    {"role": "assistant", "content": "Hello."},
    {"role": "user", "content": "Tell me\nmore {{ of it }}."},
]


def go(template: str, messages: list[dict[str, str]]) -> str:
    """What Go's text/template makes of the few actions that are written here."""
    begin, _, rest = template.partition("{{ range .Messages }}")
    body, _, prompt = rest.rpartition("{{ end }}{{ end }}")
    branches = dict(
        re.findall(r'{{ (?:else )?if eq \.Role "(\w+)" }}(.*?)(?={{ else|$)', body)
    )

    def written(text: str, content: str = "") -> str:
        actions = re.findall(r'{{ ("(?:[^"\\]|\\.)*"|\.Content) }}', text)
        parts = [content if it == ".Content" else json.loads(it) for it in actions]
        return "".join(parts)

    turns = [written(branches[item["role"]], item["content"]) for item in messages]
    return written(begin) + "".join(turns) + written(prompt)


@pytest.mark.parametrize("name", SIMPLE)
def test_a_template_is_written_in_go(name: str, tmp_path: Path) -> None:
    template = ChatTemplate(SIMPLE[name], "<|endoftext|>", "<|endoftext|>")
    folder = small_bundle(tmp_path / "model", chat=True)
    (folder / "chat_template.jinja").write_text(template.source)
    path = to_gguf(folder, tmp_path / "model.gguf")
    text = modelfile(path)
    written = re.search(r'TEMPLATE """(.*)"""', text)
    assert written is not None
    assert "FROM ./model.gguf\n" in text
    assert "PARAMETER num_ctx 256\n" in text
    for messages in (DIALOGUE, DIALOGUE[:2]):
        assert go(written[1], messages) == template.render(messages).text
    assert ("SYSTEM " in text) == (name == "smollm")


@pytest.mark.parametrize("source", [COUNTED, ONLY_USER])
def test_what_is_not_so_simple_is_left_to_ollama(source: str) -> None:
    assert frame_of(ChatTemplate(source)) is None


def test_a_model_without_dialogues_gets_the_bare_prompt(tmp_path: Path) -> None:
    path = to_gguf(small_bundle(tmp_path / "model"), tmp_path / "model.gguf")
    assert 'TEMPLATE """{{ .Prompt }}"""' in modelfile(path)
