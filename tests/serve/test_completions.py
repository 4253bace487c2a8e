"""/v1/completions with OpenAI's own client over a real socket, on a model that says
everything again.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import openai
import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from tests.serve.conftest import Echo
from tests.serve.live import live


@pytest.fixture
def client(app: FastAPI) -> Iterator[openai.OpenAI]:
    with (
        live(app) as url,
        openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client,
    ):
        yield client


def test_several_prompts_with_several_answers_each(client: openai.OpenAI) -> None:
    answer = client.completions.create(
        model="echo", prompt=["a b", "c d e"], n=2, seed=1
    )
    assert [(choice.index, choice.text) for choice in answer.choices] == [
        (0, "a b"),
        (1, "a b"),
        (2, "c d e"),
        (3, "c d e"),
    ]
    assert answer.usage and (
        answer.usage.prompt_tokens,
        answer.usage.completion_tokens,
    ) == (5, 10)
    assert answer.object == "text_completion" and answer.id.startswith("cmpl-")
    pieces = list(
        client.completions.create(
            model="echo",
            prompt=["a b", "c d e"],
            n=2,
            seed=1,
            stream=True,
            stream_options={"include_usage": True},
        )
    )
    texts = [
        "".join(
            piece.choices[0].text
            for piece in pieces
            if piece.choices and piece.choices[0].index == index
        )
        for index in range(4)
    ]
    assert (
        texts == ["a b", "a b", "c d e", "c d e"] and pieces[-1].usage == answer.usage
    )


def test_an_answer_has_sixteen_tokens_by_default(
    client: openai.OpenAI, echo: Echo
) -> None:
    answer = client.completions.create(
        model="echo", prompt=" ".join("abcdefghijklmnopqrstuvwxyz")
    )
    assert (
        len(answer.choices[0].text.split()) == 16
        and answer.choices[0].finish_reason == "length"
    )
    assert echo.requests[-1].messages is None, (
        "a text to go on with is not asked as a message"
    )


def test_echo(client: openai.OpenAI) -> None:
    assert (
        client.completions.create(model="echo", prompt="a b", echo=True).choices[0].text
        == "a ba b"
    )
    assert (
        "".join(
            piece.choices[0].text
            for piece in client.completions.create(
                model="echo", prompt="a b", echo=True, stream=True
            )
        )
        == "a ba b"
    )


def test_logprobs(client: openai.OpenAI) -> None:
    logprobs = (
        client.completions.create(model="echo", prompt="ab c", logprobs=1)
        .choices[0]
        .logprobs
    )
    assert logprobs and (
        logprobs.tokens,
        logprobs.token_logprobs,
        logprobs.text_offset,
    ) == (
        ["ab", " c"],
        [-0.5, -0.5],
        [0, 2],
    )
    assert logprobs.top_logprobs == [
        {"z": -1.0, "ab": -0.5},
        {"z": -1.0, " c": -0.5},
    ]
    pieces = [
        piece.choices[0].logprobs
        for piece in client.completions.create(
            model="echo", prompt="ab c", logprobs=1, stream=True
        )
    ]
    assert [piece.text_offset for piece in pieces if piece] == [[0], [2]]


@pytest.mark.parametrize(
    ("more", "named"),
    [
        ({"prompt": ["a"] * 17}, "prompt"),
        ({"prompt": []}, "prompt"),
        ({"prompt": [1, "a"]}, "prompt"),
        ({"prompt": [-1]}, "prompt"),
        ({"best_of": 2}, "best_of"),
        ({"suffix": "x", "echo": True}, "suffix"),
        ({"messages": []}, "messages"),
        ({"model": "grey"}, "grey"),
    ],
)
def test_what_cannot_be_is_refused_by_name(
    app: FastAPI, more: dict[str, Any], named: str
) -> None:
    with TestClient(app) as client:
        answer = client.post(
            "/v1/completions", json={"model": "echo", "prompt": "x", **more}
        )
    assert answer.status_code == 400 and named in answer.json()["error"]["message"]
