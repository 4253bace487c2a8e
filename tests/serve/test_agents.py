"""The agents SDK of OpenAI, with examples of its own, over /v1/responses: it validates
every event that it gets. The model is scripted; tests/clients has a real one.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from typing import Any

import openai
import pytest
from pydantic import BaseModel
from tests.serve.conftest import Echo, toy_pool
from tests.serve.live import live

from miaobi.core.engine import Chunk
from miaobi.core.requests import Request, TextRequest
from miaobi.serve.admission import Admission
from miaobi.serve.app import create_app
from miaobi.serve.services import Services
from miaobi.serve.settings import Settings

pytest.importorskip("agents", reason="pip install openai-agents")

from agents import (
    Agent,
    ModelSettings,
    OpenAIProvider,
    RunConfig,
    Runner,
    SQLiteSession,
    function_tool,
)


class Scripted(Echo):
    """Calls its first tool once when a person speaks; then says what came of it. What
    it is held to by a schema it fills with the words that it was given.
    """

    async def generate(self, request: Request) -> AsyncIterator[Chunk]:
        assert isinstance(request, TextRequest) and request.messages is not None
        self.requests.append(request)
        last = request.messages[-1]
        text = f"I heard: {last['content']}"
        if request.json_schema is not None:
            names = request.json_schema["properties"]
            text = json.dumps(dict.fromkeys(names, last["content"]))
        elif request.tools and last["role"] == "user":
            function = request.tools[0]["function"]
            names = function["parameters"]["properties"]
            call = {"name": function["name"], "arguments": dict.fromkeys(names, "Oslo")}
            text = f"<tool_call>{json.dumps(call)}</tool_call>"
        yield Chunk(prompt_tokens=7)
        for word in text.split(" "):
            yield Chunk(0, f"{word} ", tokens=1)
        yield Chunk(finish="stop")


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Scripted]]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MIAOBI_HOME", str(tmp_path_factory.mktemp("served")))
        settings = Settings(studio=False, workers=0)
        engine = Scripted()
        services = Services(
            settings, toy_pool(settings, scripted=engine), Admission(settings)
        )
        with live(create_app(services)) as url:
            yield url, engine


@pytest.fixture
def engine(served: tuple[str, Scripted]) -> Scripted:
    served[1].requests.clear()
    return served[1]


Run = Callable[[Callable[[RunConfig], Coroutine[Any, Any, Any]]], Any]


@pytest.fixture
def run(served: tuple[str, Scripted]) -> Run:
    """Runs a coroutine function with the settings of a run at this server."""

    def run(example: Callable[[RunConfig], Coroutine[Any, Any, Any]]) -> Any:
        async def main() -> Any:
            async with openai.AsyncOpenAI(
                base_url=f"{served[0]}/v1", api_key="none", max_retries=0
            ) as client:
                provider = OpenAIProvider(openai_client=client, use_responses=True)
                config = RunConfig(model_provider=provider, tracing_disabled=True)
                return await example(config)

        return asyncio.run(main())

    return run


@function_tool
def get_weather(city: str) -> str:
    """Get the weather of a city.

    Args:
        city: its name
    """
    return f"{city}: 14-20C, sunny with wind."


def test_hello_world(run: Run, engine: Scripted) -> None:
    agent = Agent(
        name="Assistant", instructions="You only respond in haikus.", model="scripted"
    )
    result = run(
        lambda config: Runner.run(agent, "Tell me about recursion.", run_config=config)
    )
    assert result.final_output.strip() == "I heard: Tell me about recursion."
    messages = engine.requests[-1].messages or ()
    assert messages[0]["content"] == "You only respond in haikus."
    assert result.context_wrapper.usage.input_tokens == 7


def test_a_tool_is_called_and_its_result_read(run: Run, engine: Scripted) -> None:
    agent = Agent(name="Weather", tools=[get_weather], model="scripted")
    result = run(
        lambda config: Runner.run(agent, "Weather in Oslo?", run_config=config)
    )
    assert result.final_output.strip() == "I heard: Oslo: 14-20C, sunny with wind."
    assert [item.type for item in result.new_items] == [
        "tool_call_item",
        "tool_call_output_item",
        "message_output_item",
    ]


def test_streamed_items_and_text(run: Run, engine: Scripted) -> None:
    agent = Agent(name="Weather", tools=[get_weather], model="scripted")

    async def example(config: RunConfig) -> tuple[str, list[str], str]:
        result = Runner.run_streamed(agent, "Weather in Oslo?", run_config=config)
        text = ""
        names = list[str]()
        async for event in result.stream_events():
            if event.type == "raw_response_event":
                if event.data.type == "response.output_text.delta":
                    text += event.data.delta
            elif event.type == "run_item_stream_event":
                names.append(event.name)
        return text, names, str(result.final_output)

    text, names, final = run(example)
    assert text == final and "sunny" in text
    assert names == ["tool_called", "tool_output", "message_output_created"]


class Poem(BaseModel):
    title: str
    text: str


def test_an_output_type(run: Run, engine: Scripted) -> None:
    agent = Agent(name="Poet", output_type=Poem, model="scripted")
    result = run(lambda config: Runner.run(agent, "Moon", run_config=config))
    assert result.final_output == Poem(title="Moon", text="Moon")


def test_a_handoff(run: Run, engine: Scripted) -> None:
    french = Agent(
        name="french_agent", instructions="You only speak French", model="scripted"
    )
    triage = Agent(
        name="triage_agent",
        instructions="Handoff to the appropriate agent.",
        handoffs=[french],
        model="scripted",
    )
    result = run(lambda config: Runner.run(triage, "Bonjour", run_config=config))
    assert result.last_agent.name == "french_agent"
    messages = engine.requests[-1].messages or ()
    assert messages[0]["content"] == "You only speak French"


def test_previous_response_id(run: Run, engine: Scripted) -> None:
    agent = Agent(name="Assistant", instructions="Be concise.", model="scripted")

    async def example(config: RunConfig) -> Any:
        first = await Runner.run(agent, "Largest country?", run_config=config)
        return await Runner.run(
            agent,
            "Its capital?",
            previous_response_id=first.last_response_id,
            run_config=config,
        )

    run(example)
    texts = [message["content"] for message in engine.requests[-1].messages or ()]
    assert texts == [
        "Be concise.",
        "Largest country?",
        "I heard: Largest country? ",
        "Its capital?",
    ]


@pytest.mark.parametrize("store", [None, False])
def test_a_session_of_the_client(
    run: Run, engine: Scripted, store: bool | None
) -> None:
    """It sends everything again: our own items come back as input."""
    agent = Agent(
        name="Weather",
        tools=[get_weather],
        model="scripted",
        model_settings=ModelSettings(store=store),
    )

    async def example(config: RunConfig) -> Any:
        session = SQLiteSession("one")
        await Runner.run(agent, "Weather?", session=session, run_config=config)
        return await Runner.run(agent, "And now?", session=session, run_config=config)

    run(example)
    roles = [message["role"] for message in engine.requests[-1].messages or ()]
    once = ["user", "assistant", "tool"]
    assert roles == [*once, "assistant", *once]


def test_a_tool_that_is_demanded(run: Run, engine: Scripted) -> None:
    engine_saw = list[Any]()
    agent = Agent(
        name="Weather",
        tools=[get_weather],
        model="scripted",
        model_settings=ModelSettings(tool_choice="get_weather"),
        tool_use_behavior="stop_on_first_tool",
    )

    async def example(config: RunConfig) -> Any:
        try:
            return await Runner.run(agent, "Oslo", run_config=config)
        finally:
            engine_saw.append(engine.requests[-1].json_schema)

    run(example)
    assert engine_saw[0]["properties"]["name"] == {"const": "get_weather"}
