"""The official Python clients of OpenAI and Anthropic, and the agents SDK, against a
running server: python flows_responses.py URL. Prints one line for each step that held.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from typing import Any, Literal

import anthropic
import openai
from agents import Agent, ModelSettings, OpenAIProvider, RunConfig, Runner
from flows import MODEL, SCHEMA, held
from pydantic import BaseModel

KEY = os.environ.get("MIAOBI_API_KEY", "none")
QUESTION = "What is the capital of France? One sentence."


class Place(BaseModel):
    city: Literal["Paris", "Rome", "Berlin"]


def responses(client: openai.OpenAI) -> None:
    # A prompt that llama.cpp has in its cache is computed in other pieces, and may
    # round to another greedy text: so it is there for both.
    client.responses.create(model=MODEL, input=QUESTION, max_output_tokens=1)
    settings: Any = {
        "model": MODEL,
        "input": QUESTION,
        "max_output_tokens": 24,
        "temperature": 0,
    }
    first = client.responses.create(**settings)
    held("create", first.output_text and first.usage and first.usage.input_tokens > 10)
    with client.responses.stream(**settings) as stream:
        text = "".join(
            event.delta
            for event in stream
            if event.type == "response.output_text.delta"
        )
        final = stream.get_final_response()
    held("stream", text == final.output_text == first.output_text)
    held("retrieve", client.responses.retrieve(first.id) == first)
    second = client.responses.create(
        model=MODEL,
        input="And of Italy?",
        previous_response_id=first.id,
        max_output_tokens=8,
    )
    items = client.responses.input_items.list(second.id, order="asc").data
    held("previous_response_id", [item.type for item in items] == ["message"] * 3)
    shaped = client.responses.create(
        model=MODEL,
        input=QUESTION,
        max_output_tokens=48,
        temperature=0,
        text={"format": {"type": "json_schema", "name": "city", "schema": SCHEMA}},
    )
    held("json_schema", isinstance(json.loads(shaped.output_text)["city"], str))
    client.responses.delete(second.id)
    try:
        client.responses.retrieve(second.id)
    except openai.NotFoundError as error:
        held("delete", second.id in str(error))


def messages(url: str) -> None:
    with anthropic.Anthropic(
        base_url=url.removesuffix("/v1"), api_key=KEY, max_retries=0
    ) as client:
        asked: Any = [{"role": "user", "content": QUESTION}]
        message = client.messages.create(
            model=MODEL, max_tokens=24, messages=asked, extra_body={"temperature": 0}
        )
        held("message", message.content[0].text and message.usage.input_tokens > 10)
        with client.messages.stream(
            model=MODEL, max_tokens=24, messages=asked, extra_body={"temperature": 0}
        ) as stream:
            text = "".join(stream.text_stream)
        held("message stream", text == message.content[0].text)


async def agents(url: str) -> None:
    async with openai.AsyncOpenAI(base_url=url, api_key=KEY, max_retries=0) as client:
        provider = OpenAIProvider(openai_client=client, use_responses=True)
        config = RunConfig(model_provider=provider, tracing_disabled=True)
        certain = ModelSettings(temperature=0)
        helper = Agent(name="Assistant", model=MODEL, model_settings=certain)
        result = await Runner.run(helper, QUESTION, run_config=config)
        held("agent", "Paris" in result.final_output)
        places = Agent(name="Places", output_type=Place, model=MODEL)
        result = await Runner.run(places, QUESTION, run_config=config)
        held("agent's output type", isinstance(result.final_output, Place))


def main() -> None:
    url = sys.argv[1]
    with openai.OpenAI(base_url=url, api_key=KEY, max_retries=0, timeout=600) as client:
        responses(client)
    messages(url)
    asyncio.run(agents(url))


if __name__ == "__main__":
    main()
