"""Clients that want typed answers and tools, each with what its own documentation shows,
against `miaobi serve` with a real model.

Each has a Python of its own, made by `make clients`; without it a test is skipped.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import jsonschema
import pytest
from tests.clients.server import serving
from tests.conftest import SHARED

CLIENTS = SHARED / "clients"
FLOWS = Path(__file__).with_name("structured.py")
TEMPLATE = """{%- if tools %}<|im_start|>system
You may call tools: {{ tools | tojson }}
Answer with <tool_call>{"name": ..., "arguments": {...}}</tool_call><|im_end|>
{% endif %}{%- for m in messages %}<|im_start|>{{ m.role }}
{{ m.content }}{% for call in m.tool_calls or [] %}
<tool_call>{{ call.function | tojson }}</tool_call>{% endfor %}<|im_end|>
{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant
{% endif %}"""
"""SmolLM2's own, with a place for tools as Hermes writes it."""


@pytest.fixture(scope="module")
def url(
    pack: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    """A server with SmolLM2 as `tools` (its template knows tools) and `plain`."""
    model = pack("smollm2")
    home = tmp_path_factory.mktemp("served")
    rewritten = home / "tools.gguf"
    subprocess.run(
        [
            sys.executable,
            "-m",
            "gguf.scripts.gguf_new_metadata",
            "--chat-template",
            TEMPLATE,
            "--force",
            str(model),
            str(rewritten),
        ],
        check=True,
        capture_output=True,
    )
    with serving(home, f"tools={rewritten}", f"plain={model}") as url:
        yield url


@pytest.mark.slow
@pytest.mark.parametrize("model", ["tools", "plain"])
@pytest.mark.parametrize(
    ("client", "steps"),
    [
        ("openai", 3),
        ("instructor", 2),
        ("pydantic_ai", 2),
        ("langchain_openai", 3),
        ("llama_index", 3),
        ("agents", 2),
        ("autogen_ext", 2),
    ],
)
def test_the_documented_examples(url: str, client: str, steps: int, model: str) -> None:
    python = CLIENTS / client / "bin" / "python"
    if client == "openai":
        python = Path(sys.executable)
    if not python.exists():
        pytest.skip(f"{client} is not installed: make clients")
    done = subprocess.run(
        [str(python), "-W", "ignore", str(FLOWS), client, url, model],
        capture_output=True,
        text=True,
        timeout=250,
    )
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
    assert len(done.stdout.splitlines()) == steps, done.stdout


def post(url: str, **fields: Any) -> httpx.Response:
    body = {
        "model": "plain",
        "messages": [{"role": "user", "content": "Say hi."}],
        "max_tokens": 80,
        "seed": 1,
        **fields,
    }
    return httpx.post(f"{url}/chat/completions", json=body, timeout=120)


def form(schema: Any) -> dict[str, Any]:
    """A response_format."""
    named = {"name": "a", "schema": schema}
    return {"type": "json_schema", "json_schema": named}


def of_property(value: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"type": "object", "properties": {"v": value}, "required": ["v"], **more}


@pytest.mark.slow
@pytest.mark.parametrize(
    "value",
    [
        {"type": "integer", "minimum": 0, "maximum": 99},
        {"type": "string", "format": "date-time"},
        {"allOf": [{"type": "string", "maxLength": 9}]},
        {
            "type": "array",
            "prefixItems": [{"enum": ["a", "b"]}, {"type": "null"}],
            "items": False,
            "minItems": 2,
        },
        {"type": "number", "exclusiveMinimum": 0},
        {"type": "string", "pattern": "^a{1,5}$"},
        {"type": "string", "pattern": "^hello there\\!$"},
        {"type": "object", "propertyNames": {"pattern": "^[a-z]{1,3}$"}},
        {"enum": ["红", '绿"\\', 3, None, True]},
    ],
)
def test_schemas_that_pydantic_and_tools_write(url: str, value: dict[str, Any]) -> None:
    schema = of_property(value)
    choice = post(url, response_format=form(schema)).json()["choices"][0]
    if choice["finish_reason"] == "stop":
        jsonschema.validate(json.loads(choice["message"]["content"]), schema)
    assert choice["message"]["content"].startswith('{"v": ')


@pytest.mark.slow
@pytest.mark.parametrize(
    ("value", "where"),
    [
        ({"$ref": "#/$defs/none"}, "#/properties/v/$ref"),
        ({"$ref": "#/properties/v"}, "#/properties/v/$ref"),
        ({"$ref": "http://127.0.0.1:9/x.json"}, "#/properties/v/$ref"),
        ({"type": "string", "pattern": "(?<=a)b["}, "#/properties/v"),
        ({"type": "banana"}, "#/properties/v"),
    ],
)
def test_what_cannot_be_enforced_is_refused(
    url: str, value: dict[str, Any], where: str
) -> None:
    answer = post(url, response_format=form(of_property(value)))
    error = answer.json()["error"]
    assert answer.status_code == 400
    assert error["param"] == "response_format"
    assert where in error["message"]


@pytest.mark.slow
def test_the_definitions_of_a_demanded_tool_resolve(url: str) -> None:
    person = of_property({"type": "string", "maxLength": 10})
    parameters = of_property({"$ref": "#/$defs/P"}, **{"$defs": {"P": person}})
    function = {"name": "save", "parameters": parameters}
    choice = post(
        url,
        tools=[{"type": "function", "function": function}],
        tool_choice="required",
    ).json()["choices"][0]
    (call,) = choice["message"]["tool_calls"]
    jsonschema.validate(json.loads(call["function"]["arguments"]), parameters)


@pytest.mark.slow
def test_what_is_not_enforced_is_not_limited(url: str) -> None:
    prompt = {"type": "string", "description": "x" * 9000}
    function = {"name": "Task", "parameters": of_property(prompt)}
    tools = [{"type": "function", "function": function}]
    answer = post(url, model="tools", tools=tools, max_tokens=4)
    assert answer.status_code == 200, answer.text
