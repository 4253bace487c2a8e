"""Calls of tools: read out of what a model writes, streamed or not, and demanded of it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import jsonschema
import openai
import pytest
from fastapi import FastAPI
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.serve.conftest import Echo
from tests.serve.live import live

from miaobi.core.engine import Abilities
from miaobi.engines.text import constraint, grammar
from miaobi.models.chat import ChatTemplate
from miaobi.serve.text.tools import Kit, Reader

WEATHER: Any = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "of a city",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}},
            "required": ["city"],
        },
    },
}
CLOCK: Any = {"type": "function", "function": {"name": "clock"}}
KIT = Kit((WEATHER, CLOCK))
CALL = '<tool_call>\n{"name": "weather", "arguments": {"city": "Wien"}}\n</tool_call>'


@pytest.fixture
def client(app: FastAPI) -> Iterator[openai.OpenAI]:
    with (
        live(app) as url,
        openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client,
    ):
        yield client


def fields_of(text: str, **more: Any) -> dict[str, Any]:
    return {
        "model": "echo",
        "messages": [{"role": "user", "content": text}],
        "tools": [WEATHER, CLOCK],
        **more,
    }


def test_a_call_in_openais_shape(client: openai.OpenAI, echo: Echo) -> None:
    answer = client.chat.completions.create(**fields_of(CALL)).choices[0]
    assert answer.finish_reason == "tool_calls" and answer.message.content is None
    (call,) = answer.message.tool_calls or []
    assert (
        call.type == "function"
        and call.function.name == "weather"
        and json.loads(call.function.arguments) == {"city": "Wien"}
    )
    assert echo.requests[-1].tools == (WEATHER, CLOCK), "the template gets them"


def test_a_call_is_streamed_after_the_text_before_it(client: openai.OpenAI) -> None:
    pieces = [
        piece.choices[0]
        for piece in client.chat.completions.create(
            **fields_of(f"Let me see. {CALL}"), stream=True
        )
    ]
    assert "".join(piece.delta.content or "" for piece in pieces) == "Let me see."
    (calls,) = [piece.delta.tool_calls for piece in pieces if piece.delta.tool_calls]
    assert [(call.index, call.function.name) for call in calls if call.function] == [
        (0, "weather")
    ]
    assert pieces[-1].finish_reason == "tool_calls"


def test_the_whole_turn_goes_back_and_forth(client: openai.OpenAI) -> None:
    first = client.chat.completions.create(**fields_of(CALL)).choices[0].message
    messages: Any = [
        {"role": "user", "content": "weather?"},
        first,
        {"role": "tool", "tool_call_id": first.tool_calls[0].id, "content": "rain"},
    ]  # type: ignore[index]
    assert (
        client.chat.completions.create(model="echo", messages=messages, tools=[WEATHER])
        .choices[0]
        .message.content
        == "rain"
    )


def test_none_leaves_the_tools_out_and_the_text_as_it_is(
    client: openai.OpenAI, echo: Echo
) -> None:
    assert (
        client.chat.completions.create(**fields_of(CALL), tool_choice="none")
        .choices[0]
        .message.content
        == CALL
    )
    assert not echo.requests[-1].tools


@pytest.mark.parametrize(
    ("choice", "schema"),
    [
        ("required", {"anyOf", "$defs"}),
        (
            {"type": "function", "function": {"name": "weather"}},
            {"type", "required", "properties", "$defs"},
        ),
    ],
)
def test_a_demanded_call_is_held_to_a_schema(
    client: openai.OpenAI, echo: Echo, choice: Any, schema: set[str]
) -> None:
    for stream in (False, True):
        body = fields_of(
            '{"name": "weather", "arguments": {"city": "Bonn"}}', tool_choice=choice
        )
        if stream:
            pieces = [
                piece.choices[0]
                for piece in client.chat.completions.create(**body, stream=True)
            ]
            names = [
                call.function.name
                for piece in pieces
                for call in piece.delta.tool_calls or ()
                if call.function
            ]
        else:
            names = [
                call.function.name
                for call in client.chat.completions.create(**body)
                .choices[0]
                .message.tool_calls
                or ()
            ]  # type: ignore[union-attr]
        assert (
            names == ["weather"] and set(echo.requests[-1].json_schema or ()) == schema
        )


def test_one_call_at_a_time(client: openai.OpenAI) -> None:
    for only_one in (True, False):
        answer = client.chat.completions.create(
            **fields_of(CALL + CALL), parallel_tool_calls=not only_one
        )
        assert len(answer.choices[0].message.tool_calls or ()) == (1 if only_one else 2)


def test_what_cannot_be(client: openai.OpenAI, echo: Echo) -> None:
    with pytest.raises(openai.BadRequestError, match="'sing'"):
        client.chat.completions.create(
            **fields_of("x"),
            tool_choice={"type": "function", "function": {"name": "sing"}},
        )
    echo.abilities = Abilities(echo.abilities.controls - {"tools"})
    with pytest.raises(openai.BadRequestError, match="not trained to use tools"):
        client.chat.completions.create(**fields_of("x"))


PERSON = {
    "type": "object",
    "properties": {"who": {"$ref": "#/$defs/Name"}},
    "required": ["who"],
    "$defs": {"Name": {"type": "string", "maxLength": 9}},
}


def with_parameters(parameters: dict[str, Any]) -> Any:
    return {"type": "function", "function": {"name": "save", "parameters": parameters}}


def test_references_of_a_tool_lead_where_they_did(
    client: openai.OpenAI, echo: Echo
) -> None:
    client.chat.completions.create(
        **{**fields_of("x"), "tools": [WEATHER, with_parameters(PERSON)]},
        tool_choice="required",
    )
    schema = dict(echo.requests[-1].json_schema or {})
    valid = jsonschema.Draft202012Validator(schema).is_valid
    assert valid({"name": "save", "arguments": {"who": "Li Bai"}})
    assert valid({"name": "weather", "arguments": {"city": "Wien"}})
    assert not valid({"name": "save", "arguments": {"who": "far too long a name"}})
    constraint.check(schema)
    grammar.check(schema)


def test_what_cannot_be_enforced_is_named_as_it_was_written(
    client: openai.OpenAI, echo: Echo
) -> None:
    echo.abilities = Abilities(
        echo.abilities.controls, checks={"json_schema": grammar.check}
    )
    unheld = {"type": "object", "properties": {"v": {"not": {}}}}
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(
            **{**fields_of("x"), "tools": [WEATHER, with_parameters(unheld)]},
            tool_choice="required",
        )
    assert "tools.1.function.parameters#/properties/v/not" in caught.value.message
    assert caught.value.param == "tools"
    answer = client.chat.completions.create(
        **{**fields_of("free"), "tools": [with_parameters(unheld)]}
    )
    assert answer.choices[0].message.content == "free", "nothing was enforced"


def test_a_format_beside_tools_is_for_what_is_no_call(
    client: openai.OpenAI, echo: Echo
) -> None:
    form: Any = {
        "type": "json_schema",
        "json_schema": {"name": "person", "schema": PERSON, "strict": True},
    }
    body = fields_of('{"who": "Li"}', response_format=form)
    answer = client.chat.completions.create(**body).choices[0]
    assert (answer.message.content, answer.finish_reason) == ('{"who": "Li"}', "stop")
    valid = jsonschema.Draft202012Validator(
        dict(echo.requests[-1].json_schema or {})
    ).is_valid
    assert valid({"who": "Li"})
    assert valid({"name": "weather", "arguments": {"city": "Wien"}})
    assert not valid({"who": 3})
    call = '{"name": "weather", "arguments": {"city": "Wien"}}'
    called = client.chat.completions.create(
        **fields_of(call, response_format=form)
    ).choices[0]
    assert called.finish_reason == "tool_calls"
    for kind in ({"type": "json_object"}, form):
        client.chat.completions.create(
            **fields_of("{}", response_format=kind, tool_choice="none")
        )
        assert not echo.requests[-1].tools


def test_only_some_tools_are_allowed(client: openai.OpenAI, echo: Echo) -> None:
    def allowed(mode: str, *names: str) -> Any:
        tools = [{"type": "function", "function": {"name": name}} for name in names]
        choice = {"mode": mode, "tools": tools}
        return {"type": "allowed_tools", "allowed_tools": choice}

    client.chat.completions.create(
        **fields_of("x", tool_choice=allowed("auto", "clock"))
    )
    assert echo.requests[-1].tools == (CLOCK,)
    assert echo.requests[-1].json_schema is None
    client.chat.completions.create(
        **fields_of("x", tool_choice=allowed("required", "clock"))
    )
    assert "weather" not in json.dumps(echo.requests[-1].json_schema)
    with pytest.raises(openai.BadRequestError, match="'sing'"):
        client.chat.completions.create(
            **fields_of("x", tool_choice=allowed("auto", "sing"))
        )


def test_a_call_can_be_demanded_of_a_model_that_knows_no_tools(
    client: openai.OpenAI, echo: Echo
) -> None:
    echo.abilities = Abilities(echo.abilities.controls - {"tools"})
    call = '{"name": "weather", "arguments": {"city": "Bonn"}}'
    answer = client.chat.completions.create(
        **fields_of(call, tool_choice="required")
    ).choices[0]
    assert answer.finish_reason == "tool_calls"
    request = echo.requests[-1]
    assert not request.tools and request.json_schema
    system, question = request.messages or ()
    assert "weather" in system["content"] and question["content"] == call
    turns: Any = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "weather?"},
        answer.message,
        {
            "role": "tool",
            "tool_call_id": answer.message.tool_calls[0].id,  # type: ignore[index]
            "content": call,
        },
    ]
    client.chat.completions.create(
        model="echo", messages=turns, tools=[WEATHER], tool_choice="required"
    )
    system, _, said, result = echo.requests[-1].messages or ()
    assert system["content"].startswith("Be brief.\n\n")
    assert said == {"role": "assistant", "content": call}
    assert result == {"role": "user", "content": f"Result: {call}"}


def test_only_what_is_enforced_is_limited(client: openai.OpenAI) -> None:
    long = {"type": "object", "properties": {"p": {"description": "x" * 9000}}}
    large = {"type": "object", "properties": {"p": {"enum": ["x" * 9000]}}}
    for parameters in (long, large):
        tools = [with_parameters(parameters)]
        body = {**fields_of("x"), "tools": tools}
        client.chat.completions.create(**body)
    client.chat.completions.create(
        **{**fields_of("x"), "tools": [with_parameters(long)]}, tool_choice="required"
    )
    with pytest.raises(openai.BadRequestError, match=r"tools\.0\.function\.parameters"):
        client.chat.completions.create(
            **{**fields_of("x"), "tools": [with_parameters(large)]},
            tool_choice="required",
        )


def read(text: str, cuts: list[int], kit: Kit = KIT) -> tuple[str, list[str]]:
    """The text outside of calls and the names of the calls, of a text in pieces."""
    reader = Reader(kit)
    outside = ""
    names = list[str]()
    position = 0
    for cut in [*sorted(cut % (len(text) + 1) for cut in cuts), len(text)]:
        piece, calls = reader.push(text[position:cut])
        outside += piece
        names += [call.name for call in calls]
        position = cut
    rest, calls = reader.finish()
    return outside + rest, names + [call.name for call in calls]


@given(
    st.lists(
        st.sampled_from(
            [
                "one ",
                "<",
                "<tool",
                "<tool_call>",
                "</tool_call>",
                '{"name": "clock"}',
                "[",
                "]",
                '{"x": 1}',
                CALL,
                "\n",
            ]
        ),
        max_size=8,
    ).map("".join),
    st.lists(st.integers(0, 500), max_size=6),
)
@settings(max_examples=200)
def test_the_pieces_make_no_difference_and_no_word_is_lost(
    text: str, cuts: list[int]
) -> None:
    whole = read(text, [])
    assert (
        read(text, cuts)[1] == whole[1]
        and read(text, cuts)[0].split() == whole[0].split()
    )
    if not whole[1]:
        assert whole[0] == text


@pytest.mark.parametrize(
    ("text", "outside", "names"),
    [
        ('{"name": "weather", "parameters": {"city": "Ulm"}}', "", ["weather"]),
        (
            '{"name": "sing", "parameters": {}}',
            '{"name": "sing", "parameters": {}}',
            [],
        ),
        ('{"city": "Ulm"}', '{"city": "Ulm"}', []),
        (
            '<tool_call>[{"name": "clock", "arguments": {}}, {"name": "weather", "arguments": {}}]</tool_call>',
            "",
            ["clock", "weather"],
        ),
        ("<tool_call>no json</tool_call>", "<tool_call>no json</tool_call>", []),
        ('<tool_call>{"name": "clock", "arguments": {}}', "", ["clock"]),
        ("<tool_call>{cut", "<tool_call>{cut", []),
        ("a < b", "a < b", []),
    ],
)
def test_forms(text: str, outside: str, names: list[str]) -> None:
    assert read(text, []) == (outside, names)


def test_templates_get_tools_and_see_arguments_as_objects() -> None:
    template = ChatTemplate(
        "{% for tool in tools or [] %}[{{ tool.function.name }}]{% endfor %}"
        "{% for m in messages %}{{ m.content }}{% for c in m.tool_calls or [] "
        "%}{{ c.function.arguments.city }}{% endfor %}{% endfor %}"
    )
    call = {
        "id": "1",
        "type": "function",
        "function": {"name": "weather", "arguments": '{"city": "Wien"}'},
    }
    assert (
        template.supports_tools
        and not ChatTemplate("{{ messages[0].content }}").supports_tools
    )
    assert (
        template.render(
            [{"role": "assistant", "content": None, "tool_calls": [call]}],
            tools=[WEATHER],
        ).text
        == "[weather]Wien"
    )
