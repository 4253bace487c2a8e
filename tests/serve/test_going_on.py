"""Answers that go on with what was written, and what is used while they are made: vLLM's
fields of /v1/chat/completions.
"""

from __future__ import annotations

import json
import re

import pytest
from fastapi.testclient import TestClient
from tests.serve.conftest import Echo


def test_an_answer_is_gone_on_with(client: TestClient, echo: Echo) -> None:
    said = [
        {"role": "user", "content": "count"},
        {"role": "assistant", "content": "one two"},
    ]
    body = {"model": "echo", "messages": said, "continue_final_message": True}
    for begins in ({}, {"add_generation_prompt": False}):
        answer = client.post("/v1/chat/completions", json={**body, **begins})
        assert answer.status_code == 200, answer.text
        assert echo.requests[-1].continue_final_message


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        (
            {"continue_final_message": True, "add_generation_prompt": True},
            "add_generation_prompt",
        ),
        ({"add_generation_prompt": False}, "add_generation_prompt"),
        ({"continue_final_message": True}, "continue_final_message"),
    ],
)
def test_what_cannot_be_gone_on_with_is_refused(
    client: TestClient, fields: dict[str, bool], param: str
) -> None:
    said = [{"role": "user", "content": "count"}]
    answer = client.post(
        "/v1/chat/completions", json={"model": "echo", "messages": said, **fields}
    )
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == param


def test_each_event_says_what_was_used_so_far(client: TestClient) -> None:
    usage = {"include_usage": True, "continuous_usage_stats": True}
    body = {
        "model": "echo",
        "messages": [{"role": "user", "content": "one two three"}],
        "stream": True,
        "stream_options": usage,
    }
    text = client.post("/v1/chat/completions", json=body).text
    data = re.findall(r"^data: (\{.*)$", text, re.MULTILINE)
    events = [json.loads(part) for part in data]
    counts = [event["usage"]["completion_tokens"] for event in events]
    assert counts == sorted(counts) and counts[-1] == 3
    assert all(event["usage"]["prompt_tokens"] == 3 for event in events)
