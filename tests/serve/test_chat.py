"""/v1/chat/completions with OpenAI's own client over a real socket, on a model that
says everything again.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import httpx
import numpy as np
import openai
import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from tests.serve.conftest import Echo
from tests.serve.live import live

from miaobi.core.engine import Abilities


@pytest.fixture
def url(app: FastAPI) -> Iterator[str]:
    with live(app) as url:
        yield url


@pytest.fixture
def client(url: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client:
        yield client


def said(text: str, **more: Any) -> dict[str, Any]:
    return {"model": "echo", "messages": [{"role": "user", "content": text}], **more}


def test_an_answer_in_openais_shape(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(**said("one two three", n=2, seed=5))
    assert [choice.message.content for choice in answer.choices] == [
        "one two three"
    ] * 2
    assert [
        (choice.index, choice.finish_reason, choice.message.role)
        for choice in answer.choices
    ] == [(0, "stop", "assistant"), (1, "stop", "assistant")]
    assert answer.usage and (
        answer.usage.prompt_tokens,
        answer.usage.completion_tokens,
        answer.usage.total_tokens,
    ) == (3, 6, 9)
    assert (
        answer.id.startswith("chatcmpl-")
        and answer.object == "chat.completion"
        and answer.model == "echo"
    )
    assert answer.model_extra == {
        "miaobi": {
            "notice": "AI-generated / 由AI生成",
            "model": "echo",
            "engine": "toy",
            "seed": 5,
        }
    }


def test_a_stream_in_openais_shape(client: openai.OpenAI) -> None:
    pieces = list(
        client.chat.completions.create(
            **said('a "quoted" 词 \n and more', n=2),
            stream=True,
            stream_options={"include_usage": True},
        )
    )
    for index in (0, 1):
        mine = [
            piece.choices[0]
            for piece in pieces
            if piece.choices and piece.choices[0].index == index
        ]
        assert mine[0].delta.role == "assistant"
        assert (
            "".join(piece.delta.content or "" for piece in mine)
            == 'a "quoted" 词 \n and more'
        )
        assert [piece.finish_reason for piece in mine][-1] == "stop" and not any(
            piece.finish_reason for piece in mine[:-1]
        )
    assert (
        pieces[-1].choices == []
        and pieces[-1].usage
        and pieces[-1].usage.completion_tokens == 12
    )
    assert all(piece.usage is None for piece in pieces[:-1])
    assert len({piece.id for piece in pieces}) == 1 and {
        piece.object for piece in pieces
    } == {"chat.completion.chunk"}
    assert (pieces[0].model_extra or {})["miaobi"][
        "notice"
    ] == "AI-generated / 由AI生成"


def test_events_of_a_stream(url: str) -> None:
    answer = httpx.post(
        f"{url}/v1/chat/completions", json=said("hi there", stream=True)
    )
    assert (
        answer.headers["content-type"].startswith("text/event-stream")
        and answer.headers["x-request-id"]
    )
    events = answer.text.split("\n\n")
    assert events[-2:] == ["data: [DONE]", ""]
    assert all(
        json.loads(event.removeprefix("data: "))["choices"] for event in events[:-2]
    )


def test_characters_that_some_clients_take_for_newlines(url: str) -> None:
    """U+0085, U+2028 and U+2029 leave escaped, so that whoever reads an event as a line
    reads it whole.
    """
    said = "a\x85b \u2028c \u2029d"
    body = {
        "model": "echo",
        "messages": [{"role": "user", "content": said}],
        "stream": True,
    }
    with httpx.stream("POST", f"{url}/v1/chat/completions", json=body) as answer:
        events = [
            json.loads(line.removeprefix("data: "))
            for line in answer.iter_lines()
            if line.startswith("data: {")
        ]
    assert (
        "".join(event["choices"][0]["delta"].get("content") or "" for event in events)
        == said
    )


def test_asynchronous_clients(url: str) -> None:
    async def scenario() -> list[str]:
        async with openai.AsyncOpenAI(
            base_url=f"{url}/v1", api_key="none", max_retries=0
        ) as client:

            async def one(number: int) -> str:
                stream = await client.chat.completions.create(
                    **said(f"number {number}"), stream=True
                )
                return "".join(
                    [piece.choices[0].delta.content or "" async for piece in stream]
                )

            return await asyncio.gather(*(one(number) for number in range(40)))

    assert asyncio.run(scenario()) == [f"number {number}" for number in range(40)]


def test_settings_reach_the_model_under_the_houses_names(
    app: FastAPI, echo: Echo
) -> None:
    with TestClient(app) as client:
        fields = said(
            "x",
            temperature=0.5,
            top_p=0,
            top_k=3,
            min_p=0.1,
            typical_p=0.9,
            repetition_penalty=1.1,
            presence_penalty=1,
            frequency_penalty=-1,
            min_tokens=1,
            max_completion_tokens=7,
            seed=-1,
            stop="end",
            logit_bias={"5": -100},
            logprobs=True,
            top_logprobs=2,
            response_format={"type": "json_object"},
            user="me",
        )
        assert client.post("/v1/chat/completions", json=fields).status_code == 200
    request = echo.requests[-1]
    assert (
        request.temperature,
        request.top_p,
        request.top_k,
        request.min_p,
        request.typical_p,
    ) == (0.5, 1e-9, 3, 0.1, 0.9)
    assert (
        request.repetition_penalty,
        request.presence_penalty,
        request.frequency_penalty,
    ) == (1.1, 1, -1)
    assert (
        request.min_new_tokens,
        request.max_new_tokens,
        request.seed,
        request.stop,
    ) == (1, 7, 2**63 - 1, ("end",))
    assert (request.logit_bias, request.logprobs, request.json_schema) == (
        {5: -100},
        2,
        {"type": "object", "additionalProperties": True},
    )


def test_null_means_left_out(app: FastAPI, echo: Echo) -> None:
    from miaobi.serve.text.fields import Chat

    empty = {
        name: None for name in Chat.model_fields if name not in ("model", "messages")
    }
    empty |= {"functions": None, "function_call": None, "web_search_options": None}
    with TestClient(app) as client:
        assert (
            client.post("/v1/chat/completions", json=said("x", **empty)).status_code
            == 200
        )
    assert set(echo.requests[-1].changed()) == {"messages", "max_new_tokens", "seed"}


WITHOUT_EFFECT = {
    "metadata": {"team": "support"},
    "store": True,
    "user": "ada",
    "safety_identifier": "hash",
    "prompt_cache_key": "key",
    "prompt_cache_retention": "24h",
    "service_tier": "priority",
    "verbosity": "low",
    "reasoning_effort": "minimal",
    "prediction": {"type": "content", "content": "x"},
    "modalities": ["text"],
}


def test_what_changes_no_answer_is_accepted(app: FastAPI, echo: Echo) -> None:
    with TestClient(app) as client:
        plain = client.post("/v1/chat/completions", json=said("x", seed=1))
        more = client.post(
            "/v1/chat/completions", json=said("x", seed=1, **WITHOUT_EFFECT)
        )
    assert more.status_code == 200
    assert more.json()["choices"] == plain.json()["choices"]
    assert echo.requests[-1] == echo.requests[-2]


@pytest.mark.parametrize(
    ("more", "named"),
    [
        ({"temprature": 1}, "temprature"),
        ({"chat_template": "{{ 1 }}"}, "chat_template"),
        ({"chat_template_kwargs": {}}, "chat_template_kwargs"),
        ({"tokenizer": "x"}, "tokenizer"),
        ({"add_generation_prompt": False}, "add_generation_prompt"),
        ({"temperature": 3}, "temperature"),
        ({"temperature": "1"}, "temperature"),
        ({"n": 0}, "n"),
        ({"n": 17}, "n"),
        ({"max_tokens": 40_000}, "max_tokens"),
        ({"stop": ["a"] * 17}, "stop"),
        ({"stop": ""}, "stop"),
        ({"top_logprobs": 2}, "logprobs"),
        ({"stream_options": {"include_usage": True}}, "stream_options"),
        ({"logit_bias": {"x": 1}}, "logit_bias"),
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "king", "content": "x"}]}, "messages.0.role"),
        ({"max_tokens": 1, "max_completion_tokens": 2}, "max_completion_tokens"),
        ({"functions": []}, "functions"),
        ({"web_search_options": {}}, "web_search_options"),
        ({"reasoning_effort": "great"}, "reasoning_effort"),
        (
            {
                "response_format": {
                    "type": "json_schema",
                    "json_schema": {"name": "a", "schema": {"x": "y" * 9000}},
                }
            },
            "response_format",
        ),
        ({"min_tokens": 9, "max_tokens": 2}, "min_new_tokens"),
        ({"model": "../../etc/passwd"}, "passwd"),
        ({"model": ""}, "model"),
    ],
)
def test_what_cannot_be_is_refused_by_name(
    app: FastAPI, more: dict[str, Any], named: str
) -> None:
    with TestClient(app) as client:
        answer = client.post("/v1/chat/completions", json=said("x", **more))
    assert answer.status_code in (400, 404)
    assert named in answer.json()["error"]["message"] and answer.headers["x-request-id"]


@pytest.mark.parametrize(
    "content", ['"half \\ud800 a character"', '[{"type": "text", "text": "\\udc00"}]']
)
@pytest.mark.parametrize("stream", ["true", "false"])
def test_half_a_character_is_refused(
    app: FastAPI, echo: Echo, content: str, stream: str
) -> None:
    body = f'{{"model": "echo", "stream": {stream}, "messages": [{{"role": "user", "content": {content}}}]}}'
    with TestClient(app) as client:
        answer = client.post(
            "/v1/chat/completions",
            content=body,
            headers={"content-type": "application/json"},
        )
    assert (
        answer.status_code == 400
        and "half a character" in answer.json()["error"]["message"]
        and not echo.requests
    )


def test_what_the_model_does_not_offer_is_refused_by_the_clients_own_name(
    app: FastAPI, echo: Echo
) -> None:
    echo.abilities = Abilities(
        echo.abilities.controls - {"min_new_tokens", "json_schema"}
    )
    with TestClient(app) as client:
        for more, param in (
            ({"min_tokens": 3}, "min_tokens"),
            ({"response_format": {"type": "json_object"}}, "response_format"),
        ):
            error = client.post("/v1/chat/completions", json=said("x", **more)).json()[
                "error"
            ]
            assert error["param"] == param
            assert f"does not offer {param}" in error["message"]


@pytest.mark.parametrize(
    "address",
    [
        "http://169.254.169.254/latest",
        "https://example.com/a.png",
        "file:///etc/passwd",
        "data:text/plain;base64,AAAA",
        "http://127.0.0.1\\@evil/",
        "http://2130706433/",
        "data:image/png;base64,%%%",
    ],
)
def test_pictures_are_never_fetched(app: FastAPI, echo: Echo, address: str) -> None:
    echo.chats = False
    with TestClient(app) as client:
        answer = client.post(
            "/v1/chat/completions",
            json={
                "model": "echo",
                "messages": [
                    {
                        "role": "user",
                        "content": [
                            {"type": "text", "text": "what"},
                            {"type": "image_url", "image_url": {"url": address}},
                        ],
                    }
                ],
            },
        )
    assert answer.status_code == 400 and not echo.requests


def test_a_picture_as_data_reaches_a_model_that_reads_pictures(
    app: FastAPI, echo: Echo
) -> None:
    import base64
    import io

    from PIL import Image

    file = io.BytesIO()
    Image.new("RGB", (4, 4), "red").save(file, "PNG")
    url = "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()
    with TestClient(app) as client:
        answer = client.post(
            "/v1/chat/completions",
            json={
                "model": "echo",
                "messages": [
                    {
                        "role": "user",
                        "content": [
                            {"type": "text", "text": "what is it"},
                            {"type": "image_url", "image_url": {"url": url}},
                        ],
                    }
                ],
            },
        )
    assert answer.status_code == 200, answer.text
    pixels = np.asarray(echo.requests[-1].image)
    assert pixels.shape == (4, 4, 3)
    assert (pixels == (255, 0, 0)).all()


def test_errors_in_a_stream_before_and_after_its_beginning(
    url: str, client: openai.OpenAI, echo: Echo
) -> None:
    echo.breaks_after = 0
    with pytest.raises(openai.InternalServerError) as caught:
        list(client.chat.completions.create(**said("a b c"), stream=True))
    assert "toy" not in str(caught.value)
    echo.breaks_after = 2
    with pytest.raises(openai.APIError, match="Something went wrong"):
        list(client.chat.completions.create(**said("a b c"), stream=True))


def test_texts_of_several_parts_are_joined(client: openai.OpenAI) -> None:
    parts: Any = [{"type": "text", "text": "one "}, {"type": "text", "text": "two"}]
    answer = client.chat.completions.create(
        model="echo", messages=[{"role": "user", "content": parts}]
    )
    assert answer.choices[0].message.content == "one two"


def test_our_own_answer_may_be_sent_back(client: openai.OpenAI) -> None:
    first = client.chat.completions.create(**said("hello"))
    again = client.chat.completions.create(
        model="echo",
        messages=[first.choices[0].message, {"role": "developer", "content": "again"}],
    )  # type: ignore[list-item]
    assert again.choices[0].message.content == "again"


def test_logprobs(client: openai.OpenAI, echo: Echo) -> None:
    answer = client.chat.completions.create(
        **said("a b"), logprobs=True, top_logprobs=1
    )
    logprobs = answer.choices[0].logprobs
    assert (
        logprobs
        and logprobs.content
        and [item.token for item in logprobs.content] == ["a", " b"]
    )
    assert (
        logprobs.content[0].bytes == [97]
        and logprobs.content[0].top_logprobs[0].token == "z"
    )
    pieces = [
        piece
        for piece in client.chat.completions.create(
            **said("a b"), logprobs=True, stream=True
        )
        if piece.choices[0].logprobs
    ]
    assert [piece.choices[0].logprobs.content[0].token for piece in pieces] == [
        "a",
        " b",
    ]  # type: ignore[index, union-attr]
