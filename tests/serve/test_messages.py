"""/v1/messages with Anthropic's own client over a real socket: its types check every
message and every event, whole and streamed.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from tests.serve.conftest import Echo, toy_pool
from tests.serve.live import live
from tests.serve.test_tools import CALL

from miaobi.core.engine import Abilities
from miaobi.serve.admission import Admission
from miaobi.serve.app import create_app
from miaobi.serve.services import Services
from miaobi.serve.settings import Settings

anthropic = pytest.importorskip("anthropic", reason="pip install anthropic")
KEY = "sk-of-the-test"
WEATHER: Any = {
    "name": "weather",
    "description": "of a city",
    "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}},
}


@pytest.fixture(scope="module")
def served(
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[tuple[str, Echo]]:
    """One server for all of these tests, which asks for a key."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MIAOBI_HOME", str(tmp_path_factory.mktemp("served")))
        settings = Settings(studio=False, workers=0, api_keys=(KEY,))
        echo = Echo()
        services = Services(
            settings, toy_pool(settings, echo=echo), Admission(settings)
        )
        with live(create_app(services)) as url:
            yield url, echo


@pytest.fixture
def echo(served: tuple[str, Echo]) -> Iterator[Echo]:
    """The engine, as it was at first."""
    echo = served[1]
    yield echo
    echo.breaks_after = None
    echo.abilities = Echo.abilities


@pytest.fixture
def client(served: tuple[str, Echo]) -> Iterator[Any]:
    with anthropic.Anthropic(base_url=served[0], api_key=KEY, max_retries=0) as client:
        yield client


def said(content: Any, **more: Any) -> dict[str, Any]:
    turn = {"role": "user", "content": content}
    return {"model": "echo", "max_tokens": 100, "messages": [turn], **more}


def post(url: str, fields: dict[str, Any]) -> httpx.Response:
    return httpx.post(f"{url}/v1/messages", json=fields, headers={"x-api-key": KEY})


def streamed(url: str, fields: dict[str, Any]) -> list[dict[str, Any]]:
    """The events of an answer, each checked by Anthropic's type."""
    from anthropic.types import RawMessageStreamEvent
    from pydantic import TypeAdapter

    checker: TypeAdapter[Any] = TypeAdapter(RawMessageStreamEvent)
    events = list[dict[str, Any]]()
    lines = post(url, {**fields, "stream": True}).text.split("\n")
    for name, data in zip(lines[::3], lines[1::3], strict=False):
        event = json.loads(data.removeprefix("data: "))
        assert name == f"event: {event['type']}"
        if event["type"] != "error":
            checker.validate_python(event, strict=True)
        events.append(event)
    return events


def test_a_message_in_anthropics_shape(client: Any, echo: Echo) -> None:
    from anthropic.types import Message

    message = client.messages.create(
        **said("one two three", system="Be brief."),
        extra_body={"temperature": 0.5, "top_k": 5},
        metadata={"user_id": "ada"},
        thinking={"type": "disabled"},
    )
    Message.model_validate(message.model_dump(), strict=True)
    assert message.content[0].text == "one two three"
    assert message.stop_reason == "end_turn" and message.stop_sequence is None
    assert (message.usage.input_tokens, message.usage.output_tokens) == (3, 3)
    assert message.id.startswith("msg_")
    assert message.model_extra["miaobi"]["notice"]
    messages = echo.requests[-1].messages or ()
    assert [turn["role"] for turn in messages] == ["system", "user"]


def test_events_in_anthropics_order(served: tuple[str, Echo]) -> None:
    events = streamed(served[0], said('a "quoted" 词'))
    kinds = [event["type"] for event in events]
    assert kinds == [
        "message_start",
        "content_block_start",
        *["content_block_delta"] * 3,
        "content_block_stop",
        "message_delta",
        "message_stop",
    ]
    assert events[0]["message"]["content"] == []
    assert events[0]["message"]["usage"]["input_tokens"] == 3
    assert events[-2]["delta"]["stop_reason"] == "end_turn"
    assert events[-2]["usage"]["output_tokens"] == 3


def test_the_clients_stream_helper(client: Any) -> None:
    with client.messages.stream(**said(f"Yes. {CALL}", tools=[WEATHER])) as stream:
        text = "".join(stream.text_stream)
        message = stream.get_final_message()
    assert text == "Yes." and message.stop_reason == "tool_use"
    assert [block.type for block in message.content] == ["text", "tool_use"]
    assert message.content[1].input == {"city": "Wien"}


def test_calls_and_their_results(client: Any, echo: Echo) -> None:
    first = client.messages.create(**said(CALL, tools=[WEATHER]))
    (call,) = first.content
    assert call.type == "tool_use" and call.input == {"city": "Wien"}
    assert first.stop_reason == "tool_use"
    result = {"type": "tool_result", "tool_use_id": call.id, "content": "rain"}
    failed = {
        "type": "tool_result",
        "tool_use_id": "other",
        "content": [{"type": "text", "text": "no signal"}],
        "is_error": True,
    }
    messages = [
        {"role": "user", "content": "weather?"},
        {"role": "assistant", "content": first.content},
        {"role": "user", "content": [result, failed, {"type": "text", "text": "So?"}]},
    ]
    answer = client.messages.create(
        model="echo", max_tokens=9, messages=messages, tools=[WEATHER]
    )
    assert answer.content[0].text == "So?"
    turns = echo.requests[-1].messages or ()
    assert [(turn["role"], turn["content"]) for turn in turns] == [
        ("user", "weather?"),
        ("assistant", ""),
        ("tool", "rain"),
        ("tool", "Error: no signal"),
        ("user", "So?"),
    ]
    assert turns[1]["tool_calls"][0]["id"] == turns[2]["tool_call_id"]


@pytest.mark.parametrize(
    ("choice", "demands", "tools"),
    [
        ({"type": "any"}, True, 1),
        ({"type": "tool", "name": "weather"}, True, 1),
        ({"type": "auto", "disable_parallel_tool_use": True}, False, 1),
        ({"type": "none"}, False, 0),
    ],
)
def test_the_choice_of_tools(
    client: Any, echo: Echo, choice: Any, demands: bool, tools: int
) -> None:
    answer = client.messages.create(
        **said(CALL + CALL, tools=[WEATHER], tool_choice=choice)
    )
    request = echo.requests[-1]
    assert (request.json_schema is not None) == demands
    assert len(request.tools or ()) == tools
    if choice["type"] == "auto":
        assert [block.type for block in answer.content] == ["tool_use"]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("fields", "text", "reason", "sequence"),
    [
        ({}, "one two three four", "end_turn", None),
        ({"max_tokens": 2}, "one two", "max_tokens", None),
        ({"stop_sequences": ["four", " thr"]}, "one two", "stop_sequence", " thr"),
        ({"stop_sequences": ["fourth"]}, "one two three four", "end_turn", None),
    ],
)
def test_why_an_answer_stops(
    client: Any, fields: Any, text: str, reason: str, sequence: str | None, stream: bool
) -> None:
    request = {**said("one two three four"), **fields}
    if stream:
        with client.messages.stream(**request) as events:
            message = events.get_final_message()
    else:
        message = client.messages.create(**request)
    assert message.content[0].text == text
    assert message.stop_reason == reason and message.stop_sequence == sequence


def test_a_stop_ends_the_work(served: tuple[str, Echo], client: Any) -> None:
    echo = served[1]
    before = echo.left_early
    client.messages.create(**said("a b c d e f", stop_sequences=["b"]))
    assert echo.left_early == before + 1 and echo.running == 0


def test_an_answer_held_to_a_schema(client: Any, echo: Echo) -> None:
    schema = {"type": "object", "properties": {"city": {"type": "string"}}}
    wanted = {"format": {"type": "json_schema", "schema": schema}}
    client.messages.create(**said('{"city": "Wien"}', output_config=wanted))
    assert echo.requests[-1].json_schema == schema


@pytest.mark.parametrize(
    ("fields", "kind", "message"),
    [
        ({"model": "nobody"}, "not_found_error", "nobody"),
        ({"max_tokens": 99999}, "invalid_request_error", "max_tokens"),
        ({"messages": []}, "invalid_request_error", "messages"),
        ({"cool": 1}, "invalid_request_error", "cool"),
        (
            {"messages": [{"role": "assistant", "content": "x"}]},
            "invalid_request_error",
            "begun",
        ),
        (
            {"messages": [{"role": "user", "content": [{"type": "document"}]}]},
            "invalid_request_error",
            "document",
        ),
        ({"stop_sequences": ["x"] * 99}, "invalid_request_error", "stop_sequences"),
    ],
)
def test_errors_in_anthropics_shape(
    served: tuple[str, Echo], client: Any, fields: Any, kind: str, message: str
) -> None:
    for stream in (False, True):
        answer = post(served[0], {**said("x"), "stream": stream, **fields})
        body = answer.json()
        assert body["type"] == "error" and body["error"]["type"] == kind
        assert message in body["error"]["message"]
    with pytest.raises(anthropic.APIStatusError, match=message):
        client.messages.create(**said("x"), extra_body=fields, timeout=30)


def test_errors_name_the_fields_of_this_dialect(
    served: tuple[str, Echo], echo: Echo
) -> None:
    echo.abilities = Abilities(echo.abilities.controls - {"json_schema"})
    wanted = {"format": {"type": "json_schema", "schema": {}}}
    for stream in (False, True):
        fields = said("x", output_config=wanted, stream=stream)
        error = post(served[0], fields).json()["error"]
        assert error["param"] == "output_config.format"


def test_a_stream_that_breaks_says_so(
    served: tuple[str, Echo], client: Any, echo: Echo
) -> None:
    echo.breaks_after = 1
    events = streamed(served[0], said("one two three"))
    assert events[-1]["type"] == "error"
    assert events[-1]["error"]["type"] == "api_error"
    with (
        pytest.raises(anthropic.APIError),
        client.messages.stream(**said("one two three")) as stream,
    ):
        stream.get_final_message()


def test_the_key_in_both_headers(served: tuple[str, Echo]) -> None:
    for given in ({"api_key": "wrong"}, {"auth_token": "wrong", "api_key": None}):
        with (
            anthropic.Anthropic(base_url=served[0], max_retries=0, **given) as client,
            pytest.raises(anthropic.AuthenticationError),
        ):
            client.messages.create(**said("x"))
    with anthropic.Anthropic(
        base_url=served[0], auth_token=KEY, api_key=None, max_retries=0
    ) as client:
        assert client.messages.create(**said("x")).content[0].text == "x"
    twice = [("x-api-key", KEY), ("x-api-key", "other")]
    answer = httpx.get(f"{served[0]}/v1/models", headers=twice)
    assert answer.status_code == 400
