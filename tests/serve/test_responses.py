"""/v1/responses with OpenAI's own client over a real socket: its types check every
object and every event, whole and streamed.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx
import openai
import pytest
from fastapi.testclient import TestClient
from openai.types.responses import Response, ResponseStreamEvent
from openai.types.responses.response_item import ResponseItem
from pydantic import TypeAdapter
from tests.serve.conftest import Echo, toy_pool
from tests.serve.live import live
from tests.serve.test_tools import CALL

from miaobi.core.engine import Abilities
from miaobi.serve import keyring, keys
from miaobi.serve.admission import Admission
from miaobi.serve.app import create_app
from miaobi.serve.services import Services
from miaobi.serve.settings import Settings

EVENTS: TypeAdapter[Any] = TypeAdapter(ResponseStreamEvent)
ITEMS: TypeAdapter[Any] = TypeAdapter(list[ResponseItem])
WEATHER: Any = {
    "type": "function",
    "name": "weather",
    "description": "of a city",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    "strict": False,
}
CLOCK: Any = {"type": "function", "name": "clock", "parameters": None, "strict": None}
TEXT_EVENTS = [
    "response.created",
    "response.in_progress",
    "response.output_item.added",
    "response.content_part.added",
    "response.output_text.delta",
    "response.output_text.done",
    "response.content_part.done",
    "response.output_item.done",
    "response.completed",
]
CALL_EVENTS = [
    "response.output_item.added",
    "response.function_call_arguments.delta",
    "response.function_call_arguments.done",
    "response.output_item.done",
]


@pytest.fixture(scope="module")
def served(
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[tuple[str, Services, Echo]]:
    """One server for all of these tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MIAOBI_HOME", str(tmp_path_factory.mktemp("served")))
        settings = Settings(studio=False, workers=0)
        echo = Echo()
        services = Services(
            settings, toy_pool(settings, echo=echo), Admission(settings)
        )
        with live(create_app(services)) as url:
            yield url, services, echo


@pytest.fixture
def echo(served: tuple[str, Services, Echo]) -> Iterator[Echo]:
    """The engine, as it was at first."""
    echo = served[2]
    yield echo
    echo.breaks_after = None
    echo.abilities = Echo.abilities


@pytest.fixture
def services(served: tuple[str, Services, Echo]) -> Services:
    return served[1]


@pytest.fixture
def url(served: tuple[str, Services, Echo]) -> str:
    return served[0]


@pytest.fixture
def client(url: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client:
        yield client


def checked(body: dict[str, Any]) -> dict[str, Any]:
    """The object, if OpenAI's type has it so."""
    Response.model_validate(body, strict=True)
    return body


def streamed(url: str, **fields: Any) -> list[dict[str, Any]]:
    """The events of a response, each checked by OpenAI's type and numbered in order."""
    body = {"model": "echo", "stream": True, **fields}
    events = list[dict[str, Any]]()
    with httpx.stream("POST", f"{url}/v1/responses", json=body, timeout=30) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        lines = list(answer.iter_lines())
    for name, data, blank in zip(lines[::3], lines[1::3], lines[2::3], strict=True):
        event = json.loads(data.removeprefix("data: "))
        assert name == f"event: {event['type']}" and blank == ""
        EVENTS.validate_python(event, strict=True)
        events.append(event)
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    return events


def kinds(events: list[dict[str, Any]]) -> list[str]:
    """The types, one of each run of deltas."""
    names = [event["type"] for event in events]
    return [
        name
        for at, name in enumerate(names)
        if at == 0 or names[at - 1] != name or name != "response.output_text.delta"
    ]


def test_an_answer_in_openais_shape(client: openai.OpenAI, url: str) -> None:
    answer = client.responses.create(
        model="echo",
        input="one two three",
        instructions="Be brief.",
        temperature=0.5,
        metadata={"of": "me"},
        user="ada",
        reasoning={"effort": "low"},
        service_tier="auto",
        prompt_cache_key="k",
        safety_identifier="s",
    )
    checked(answer.model_dump(exclude={"miaobi"}))
    assert answer.output_text == "one two three" and answer.status == "completed"
    assert answer.usage and answer.usage.input_tokens == 3
    assert answer.usage.output_tokens == 3 and answer.usage.total_tokens == 6
    assert answer.id.startswith("resp_") and answer.completed_at is not None
    assert answer.metadata == {"of": "me"} and answer.instructions == "Be brief."
    assert answer.model_extra and answer.model_extra["miaobi"]["notice"]
    assert client.responses.retrieve(answer.id) == answer
    body = httpx.get(f"{url}/v1/responses/{answer.id}").json()
    assert body["store"] is True


def test_events_in_openais_order(url: str) -> None:
    events = streamed(url, input='a "quoted" 词 \u2028 word')
    assert kinds(events) == TEXT_EVENTS
    assert events[0]["response"]["status"] == "in_progress"
    assert events[0]["response"]["output"] == [] and not events[0]["response"]["usage"]
    assert events[2]["item"]["content"] == []
    text = "".join(event.get("delta", "") for event in events)
    assert text == 'a "quoted" 词 \u2028 word'
    done = next(event for event in events if event["type"].endswith("text.done"))
    last = events[-1]["response"]
    assert done["text"] == text == last["output"][0]["content"][0]["text"]
    assert last["usage"]["output_tokens"] == 5
    kept = httpx.get(f"{url}/v1/responses/{last['id']}").json()
    assert kept == last, "what the last event says is what is kept"


def test_the_clients_stream_helper(client: openai.OpenAI) -> None:
    with client.responses.stream(model="echo", input="one two") as stream:
        text = "".join(
            event.delta
            for event in stream
            if event.type == "response.output_text.delta"
        )
        final = stream.get_final_response()
    assert text == final.output_text == "one two"


def test_a_conversation_goes_on_and_branches(client: openai.OpenAI, echo: Echo) -> None:
    first = client.responses.create(
        model="echo", input="one", instructions="Only for this turn."
    )
    for text in ("two", "two again"):
        second = client.responses.create(
            model="echo", input=text, previous_response_id=first.id
        )
        assert second.previous_response_id == first.id
        messages = echo.requests[-1].messages or ()
        assert [message["content"] for message in messages] == ["one", "one", text]
        assert [message["role"] for message in messages] == [
            "user",
            "assistant",
            "user",
        ]
    with client.responses.stream(
        model="echo", input="three", previous_response_id=second.id
    ) as stream:
        third = stream.get_final_response()
    items = list(client.responses.input_items.list(third.id, order="asc", limit=2))
    ITEMS.validate_python([item.model_dump() for item in items], strict=True)
    texts = [item.content[0].text for item in items]  # type: ignore[union-attr]
    assert texts == ["one", "one", "two again", "two again", "three"]
    newest = client.responses.input_items.list(third.id, limit=2)
    assert newest.has_more and newest.data[0].id == items[-1].id


def test_a_response_that_is_deleted_is_gone(client: openai.OpenAI) -> None:
    first = client.responses.create(model="echo", input="one")
    second = client.responses.create(
        model="echo", input="two", previous_response_id=first.id
    )
    client.responses.delete(first.id)
    for call in (
        lambda: client.responses.retrieve(first.id),
        lambda: client.responses.delete(first.id),
        lambda: client.responses.input_items.list(first.id),
        lambda: client.responses.cancel(first.id),
    ):
        with pytest.raises(openai.NotFoundError):
            call()
    left = client.responses.retrieve(second.id)
    assert left.previous_response_id is None
    assert len(client.responses.input_items.list(second.id).data) == 1
    with pytest.raises(openai.BadRequestError, match="not stored") as caught:
        client.responses.create(model="echo", input="x", previous_response_id=first.id)
    assert caught.value.code == "previous_response_not_found"
    assert caught.value.param == "previous_response_id"


def test_storing_is_by_choice(client: openai.OpenAI) -> None:
    first = client.responses.create(model="echo", input="one")
    second = client.responses.create(
        model="echo", input="two", previous_response_id=first.id, store=False
    )
    assert second.output_text == "two"
    for id in (second.id, "resp_0", "../files"):
        with pytest.raises(openai.NotFoundError):
            client.responses.retrieve(id)


def test_an_operator_can_switch_it_off(echo: Echo) -> None:
    settings = Settings(hosts=("testserver",), workers=0, keep_conversations=False)
    pool = toy_pool(settings, echo=echo)
    with TestClient(create_app(Services(settings, pool, Admission(settings)))) as http:
        ask = {"model": "echo", "input": "one"}
        answer = http.post("/v1/responses", json=ask)
        assert answer.status_code == 200 and answer.json()["store"] is False
        assert http.get(f"/v1/responses/{answer.json()['id']}").status_code == 404
        refused = http.post("/v1/responses", json={**ask, "store": True})
        assert refused.status_code == 400
        assert refused.json()["error"]["param"] == "store"


def test_another_key_sees_and_changes_nothing(
    echo: Echo, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keys, "FRESH", 0.0)
    settings = Settings(hosts=("testserver",), workers=0, studio=False)
    pool = toy_pool(settings, echo=echo)
    with TestClient(create_app(Services(settings, pool, Admission(settings)))) as http:
        mine, other = (
            {"authorization": f"Bearer {keyring.create(name).key}"}
            for name in ("mine", "other")
        )
        ask = {"model": "echo", "input": "secret"}
        id = http.post("/v1/responses", json=ask, headers=mine).json()["id"]
        path = f"/v1/responses/{id}"
        for method, at in (
            ("GET", path),
            ("DELETE", path),
            ("GET", f"{path}/input_items"),
            ("POST", f"{path}/cancel"),
        ):
            assert http.request(method, at, headers=other).status_code == 404
        ask["previous_response_id"] = id
        assert http.post("/v1/responses", json=ask, headers=other).status_code == 400
        assert http.get(path, headers=mine).status_code == 200


def test_calls_are_items(client: openai.OpenAI, url: str, echo: Echo) -> None:
    answer = client.responses.create(
        model="echo", input=f"Let me see. {CALL}", tools=[WEATHER, CLOCK]
    )
    checked(answer.model_dump(exclude={"miaobi"}))
    message, call = answer.output
    assert message.type == "message" and answer.output_text == "Let me see."
    assert call.type == "function_call" and call.name == "weather"
    assert json.loads(call.arguments) == {"city": "Wien"}
    assert [tool["function"]["name"] for tool in echo.requests[-1].tools] == [
        "weather",
        "clock",
    ]
    result = {
        "type": "function_call_output",
        "call_id": call.call_id,
        "output": "rain",
    }
    after = client.responses.create(
        model="echo", input=[result], previous_response_id=answer.id, tools=[WEATHER]
    )
    assert after.output_text == "rain"
    messages = echo.requests[-1].messages or ()
    assert [message["role"] for message in messages] == ["user", "assistant", "tool"]
    assert messages[1]["content"] == "Let me see."
    assert messages[1]["tool_calls"][0]["id"] == messages[2]["tool_call_id"]
    events = streamed(url, input=f"Yes. {CALL}", tools=[WEATHER])
    assert kinds(events) == [*TEXT_EVENTS[:-1], *CALL_EVENTS, TEXT_EVENTS[-1]]
    opened = [event for event in events if event["type"].endswith("item.added")]
    assert opened[1]["item"]["arguments"] == "" and opened[1]["output_index"] == 1


def test_the_whole_conversation_may_be_sent_instead(
    client: openai.OpenAI, echo: Echo
) -> None:
    answer = client.responses.create(
        model="echo", input=CALL, tools=[WEATHER], store=False
    )
    assert [item.type for item in answer.output] == ["function_call"]
    call = answer.output[0]
    history: Any = [
        {"role": "developer", "content": "Be brief."},
        {"role": "user", "content": [{"type": "input_text", "text": "weather?"}]},
        {"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": "x"},
        *answer.output,
        {
            "type": "function_call_output",
            "call_id": call.call_id,  # type: ignore[union-attr]
            "output": [{"type": "input_text", "text": "rain"}],
        },
        {"role": "assistant", "content": "It rains."},
        {"role": "user", "content": "Thanks"},
    ]
    again = client.responses.create(model="echo", input=history, store=False)
    assert again.output_text == "Thanks"
    roles = [message["role"] for message in echo.requests[-1].messages or ()]
    assert roles == ["system", "user", "assistant", "tool", "assistant", "user"]
    kept = client.responses.create(model="echo", input=history)
    items = client.responses.input_items.list(kept.id, order="asc").data
    ITEMS.validate_python([item.model_dump() for item in items], strict=True)
    assert [item.type for item in items] == [
        "message",
        "message",
        "reasoning",
        "function_call",
        "function_call_output",
        "message",
        "message",
    ]


def test_a_call_says_the_group_of_its_tool(url: str, echo: Echo) -> None:
    """As Codex sends its tools."""
    group = {"type": "namespace", "name": "sky", "description": "", "tools": [WEATHER]}
    fields = {"tools": [CLOCK, group], "client_metadata": {"turn": "1"}}
    call = streamed(url, input=CALL, **fields)[-1]["response"]["output"][0]
    assert call["name"] == "weather" and call["namespace"] == "sky"
    names = [tool["function"]["name"] for tool in echo.requests[-1].tools]
    assert names == ["clock", "weather"]
    result = {"type": "function_call_output", "call_id": call["call_id"], "output": "x"}
    streamed(url, input=[call, result], **fields)
    body = {"model": "echo", "input": "x", "tools": [group, WEATHER]}
    error = httpx.post(f"{url}/v1/responses", json=body).json()["error"]
    assert error["param"] == "tools" and "'weather'" in error["message"]


@pytest.mark.parametrize(
    ("choice", "tools", "demands"),
    [
        ("required", ["weather", "clock"], True),
        ({"type": "function", "name": "clock"}, ["weather", "clock"], True),
        ("none", [], False),
        (
            {
                "type": "allowed_tools",
                "mode": "auto",
                "tools": [{"type": "function", "name": "clock"}],
            },
            ["clock"],
            False,
        ),
    ],
)
def test_the_choice_of_tools(
    client: openai.OpenAI, echo: Echo, choice: Any, tools: list[str], demands: bool
) -> None:
    answer = client.responses.create(
        model="echo", input="hm", tools=[WEATHER, CLOCK], tool_choice=choice
    )
    request = echo.requests[-1]
    assert [tool["function"]["name"] for tool in request.tools or ()] == tools
    assert (request.json_schema is not None) == demands
    checked(answer.model_dump(exclude={"miaobi"}))


def test_an_answer_held_to_a_schema(client: openai.OpenAI, echo: Echo) -> None:
    schema = {"type": "object", "properties": {"city": {"type": "string"}}}
    answer = client.responses.create(
        model="echo",
        input='{"city": "Wien"}',
        text={"format": {"type": "json_schema", "name": "city", "schema": schema}},
    )
    assert echo.requests[-1].json_schema == schema
    checked(answer.model_dump(exclude={"miaobi"}, by_alias=True))
    assert answer.text and answer.text.format.type == "json_schema"  # type: ignore[union-attr]


def test_an_answer_that_is_cut_is_incomplete(client: openai.OpenAI, url: str) -> None:
    answer = client.responses.create(
        model="echo", input="one two three", max_output_tokens=2
    )
    assert answer.status == "incomplete" and answer.incomplete_details
    assert answer.incomplete_details.reason == "max_output_tokens"
    events = streamed(url, input="one two three", max_output_tokens=2)
    assert events[-1]["type"] == "response.incomplete"
    assert events[-1]["response"]["output"][0]["status"] == "incomplete"


def test_log_probabilities(client: openai.OpenAI, url: str) -> None:
    fields: Any = {
        "input": "one two",
        "top_logprobs": 2,
        "include": ["message.output_text.logprobs"],
    }
    answer = client.responses.create(model="echo", **fields)
    part = answer.output[0].content[0]  # type: ignore[union-attr]
    assert [entry.token for entry in part.logprobs] == ["one", " two"]  # type: ignore[union-attr]
    events = streamed(url, **fields)
    deltas = [event for event in events if event["type"].endswith("text.delta")]
    assert [event["logprobs"][0]["token"] for event in deltas] == ["one", " two"]


def test_an_empty_answer_is_a_message(client: openai.OpenAI, url: str) -> None:
    assert (
        kinds(streamed(url, input=[{"role": "user", "content": ""}]))[:4]
        == (TEXT_EVENTS[:4])
    )


def test_a_stream_that_breaks_says_so(url: str, echo: Echo) -> None:
    echo.breaks_after = 1
    events = streamed(url, input="one two three")
    last = events[-1]
    assert last["type"] == "response.failed"
    assert last["response"]["status"] == "failed"
    assert last["response"]["error"]["code"] == "server_error"
    assert "toy" not in last["response"]["error"]["message"]
    assert httpx.get(f"{url}/v1/responses/{last['response']['id']}").status_code == 404


@pytest.mark.parametrize(
    ("fields", "param", "message"),
    [
        ({"input": []}, "input", "no message"),
        ({}, "input", "no message"),
        ({"input": "x", "max_output_tokens": 99999}, "max_output_tokens", "99999"),
        ({"input": "x", "background": True}, "background", "False"),
        ({"input": "x", "truncation": "auto"}, "truncation", "disabled"),
        ({"input": "x", "tools": [{"type": "web_search"}]}, "tools.0", "web_search"),
        ({"input": [{"role": "king", "content": "x"}]}, None, "role"),
        ({"input": [{"type": "item_reference", "id": "x"}]}, None, "message"),
        ({"input": "x", "tool_choice": "required"}, "tool_choice", "no tools"),
        (
            {"input": "x", "conversation": "conv_1"},
            "conversation",
            "not permitted",
        ),
    ],
)
def test_what_cannot_be_is_named(
    url: str, fields: dict[str, Any], param: str | None, message: str
) -> None:
    for stream in (False, True):
        body = {"model": "echo", "stream": stream, **fields}
        answer = httpx.post(f"{url}/v1/responses", json=body)
        assert answer.status_code == 400
        error = answer.json()["error"]
        assert message in error["message"]
        assert param is None or error["param"] == param


def test_errors_name_the_fields_of_this_dialect(url: str, echo: Echo) -> None:
    echo.abilities = Abilities(echo.abilities.controls - {"json_schema"})
    wanted = {"format": {"type": "json_schema", "name": "x", "schema": {}}}
    for stream in (False, True):
        body = {"model": "echo", "input": "x", "text": wanted, "stream": stream}
        error = httpx.post(f"{url}/v1/responses", json=body).json()["error"]
        assert error["param"] == "text.format"
        assert "response_format" not in error["message"]


def test_what_is_said_once_is_found_in_the_table(
    client: openai.OpenAI, services: Services
) -> None:
    """The studio reads the same table, without HTTP."""
    client.responses.create(model="echo", input="Wo liegt Wien?")
    (row,) = services.conversations.listed("local", query="WO LIEGT")
    assert row.title == "Wo liegt Wien?" and row.origin == "responses"
    assert "## Assistant (echo)" in services.conversations.as_markdown("local", row.id)
