"""One conversation, rendered by us, Transformers, llama.cpp and OpenVINO: the same
text, to the character.
"""

from __future__ import annotations

import json
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from miaobi.core import gguf
from miaobi.data.text.tokenizer import CHAT_TEMPLATE
from miaobi.models.chat import ChatTemplate, from_gguf
from miaobi.models.control_tokens import Prompt

CONVERSATIONS = [
    [{"role": "user", "content": "Name three colours."}],
    [
        {"role": "system", "content": "Answer in Chinese."},
        {"role": "user", "content": "春天 <b>是什么</b>？\n\n第二行"},
        {"role": "assistant", "content": " 花开。 "},
        {"role": "user", "content": "还有呢？"},
    ],
]
HARDER = (
    "{%- if tools %}\n    {{- tools | tojson }}\n{%- endif %}\n{% for m in messages %}\n    {% if m.role == 'system' %}"
    "{% continue %}{% endif %}\n  <{{ m.role }}> {{ m.content | trim }}\n{% endfor %}\n{{ eos_token }}"
)


@pytest.fixture(scope="module")
def ours(smollm2: Path) -> ChatTemplate:
    template = from_gguf(gguf.read(smollm2).metadata)
    assert template is not None
    return template


@pytest.mark.parametrize("messages", CONVERSATIONS)
@pytest.mark.parametrize("source", ["smollm2", CHAT_TEMPLATE, HARDER])
@pytest.mark.parametrize("prompted", [True, False])
def test_as_transformers(
    ours: ChatTemplate, messages: list[dict[str, str]], source: str, prompted: bool
) -> None:
    from transformers.utils.chat_template_utils import render_jinja_template

    template = ours if source == "smollm2" else ChatTemplate(source, eos_token="</s>")
    theirs, _ = render_jinja_template(
        [messages],
        chat_template=template.source,
        add_generation_prompt=prompted,
        bos_token=template.bos_token,
        eos_token=template.eos_token,
    )
    rendered = template.render(messages, add_generation_prompt=prompted)
    assert rendered == Prompt(theirs[0])


@pytest.mark.parametrize("messages", CONVERSATIONS)
def test_as_llamacpp(
    ours: ChatTemplate, smollm2: Path, messages: list[dict[str, str]]
) -> None:
    assert apply(llamacpp(smollm2), messages) == ours.render(messages).text


def llamacpp(path: Path, cache: dict[Path, Any] = {}) -> Any:  # noqa: B006 - one server for the module
    import xllamacpp

    if path not in cache:
        params = xllamacpp.CommonParams()
        params.model.path, params.n_ctx, params.warmup, params.verbosity = (
            str(path),
            256,
            False,
            -1,
        )
        cache[path] = xllamacpp.Server(params)
    return cache[path]


def apply(server: Any, messages: list[dict[str, str]]) -> str:
    request = urllib.request.Request(
        f"{server.listening_address}/apply-template",
        json.dumps({"messages": messages}).encode(),
        {"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=30) as answer:
        return json.loads(answer.read())["prompt"]


@pytest.mark.parametrize("messages", CONVERSATIONS)
def test_as_openvino(
    ours: ChatTemplate, openvino_tokenizer: Any, messages: list[dict[str, str]]
) -> None:
    assert (
        openvino_tokenizer.apply_chat_template(messages, add_generation_prompt=True)
        == ours.render(messages).text
    )


@pytest.fixture(scope="module")
def openvino_tokenizer(smollm2: Path) -> Any:
    import openvino_genai

    return openvino_genai.Tokenizer(str(smollm2))
