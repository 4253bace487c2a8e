"""What each client's own documentation shows of typed answers and tools, against a
server. Runs with the client's own Python: structured.py CLIENT URL MODEL. Prints what held.
"""

from __future__ import annotations

import asyncio
import sys
from typing import Any

from pydantic import BaseModel, Field

MODEL = sys.argv[3]
KEY = "none"


class City(BaseModel):
    """A city and where it is."""

    name: str = Field(max_length=12)
    country: str = Field(max_length=12)
    rating: int = Field(ge=1, le=5)


QUESTION = "Tell me of Paris."


def get_weather(city: str) -> str:
    """Get the weather of a city."""
    return f"It rains in {city[:20]}."


def held(step: str, value: object) -> None:
    assert value, step
    print(step, flush=True)


def instructor_client(url: str) -> None:
    """instructor: by a tool, and by a format."""
    import instructor
    import openai

    for mode in (instructor.Mode.TOOLS, instructor.Mode.JSON_SCHEMA):
        client = instructor.from_openai(
            openai.OpenAI(base_url=url, api_key=KEY), mode=mode
        )
        city: Any = client.chat.completions.create(
            model=MODEL,
            response_model=City,
            messages=[{"role": "user", "content": QUESTION}],
            max_retries=0,
            max_tokens=120,
            temperature=0,
        )
        held(mode.name, isinstance(city, City))


def pydantic_ai_client(url: str) -> None:
    """pydantic-ai: output by tools, by the native format, and a tool of ours."""
    from pydantic_ai import Agent, NativeOutput, ToolOutput
    from pydantic_ai.models.openai import OpenAIChatModel
    from pydantic_ai.providers.openai import OpenAIProvider

    model = OpenAIChatModel(MODEL, provider=OpenAIProvider(base_url=url, api_key=KEY))
    settings: Any = {"max_tokens": 120, "temperature": 0}
    for output in (ToolOutput(City), NativeOutput(City)):
        agent: Any = Agent(model, output_type=output, model_settings=settings)
        result = agent.run_sync(QUESTION)
        held(type(output).__name__, isinstance(result.output, City))


def openai_client(url: str) -> None:
    """openai: parse, and pydantic_function_tool."""
    import openai

    client = openai.OpenAI(base_url=url, api_key=KEY)
    messages: Any = [{"role": "user", "content": QUESTION}]
    parsed: Any = client.chat.completions.parse(
        model=MODEL, messages=messages, response_format=City, max_tokens=120
    )
    held("parse", isinstance(parsed.choices[0].message.parsed, City))
    parsed = client.chat.completions.parse(
        model=MODEL,
        messages=messages,
        tools=[openai.pydantic_function_tool(City)],
        tool_choice="required",
        max_tokens=120,
    )
    (call,) = parsed.choices[0].message.tool_calls
    held("pydantic_function_tool", isinstance(call.function.parsed_arguments, City))
    parsed = client.chat.completions.parse(
        model=MODEL,
        messages=messages,
        tools=[openai.pydantic_function_tool(City)],
        response_format=City,
        max_tokens=120,
    )
    message = parsed.choices[0].message
    held("tools and a format", message.tool_calls or message.parsed)


def langchain_client(url: str) -> None:
    """LangChain: with_structured_output, bind_tools."""
    from langchain_openai import ChatOpenAI

    model: Any = ChatOpenAI(
        base_url=url, api_key=KEY, model=MODEL, temperature=0, max_tokens=120
    )
    for method in ("json_schema", "function_calling"):
        typed = model.with_structured_output(City, method=method)
        held(method, isinstance(typed.invoke(QUESTION), City))
    bound = model.bind_tools([get_weather], tool_choice="any")
    (call,) = bound.invoke("Weather in Paris?").tool_calls
    held("bind_tools", call["name"] == "get_weather" and "city" in call["args"])


def llama_index_client(url: str) -> None:
    """LlamaIndex: structured_predict, predict_and_call."""
    from llama_index.core.prompts import PromptTemplate
    from llama_index.core.tools import FunctionTool
    from llama_index.llms.openai_like import OpenAILike

    for function_calling in (True, False):
        model: Any = OpenAILike(
            model=MODEL,
            api_base=url,
            api_key=KEY,
            is_chat_model=True,
            is_function_calling_model=function_calling,
            should_use_structured_outputs=not function_calling,
            temperature=0,
            max_tokens=120,
        )
        city = model.structured_predict(City, PromptTemplate(QUESTION))
        held(f"structured_predict {function_calling}", isinstance(city, City))
    model.is_function_calling_model = True
    tool = FunctionTool.from_defaults(get_weather)
    answer = model.chat_with_tools(
        [tool], user_msg="Weather in Paris?", tool_required=True
    )
    (call,) = model.get_tool_calls_from_response(answer)
    held("chat_with_tools", call.tool_name == "get_weather")


def agents_client(url: str) -> None:
    """The agents SDK by chat completions: an output type, and a tool that is run."""
    import openai
    from agents import (
        Agent,
        ModelSettings,
        OpenAIChatCompletionsModel,
        Runner,
        function_tool,
        set_tracing_disabled,
    )

    set_tracing_disabled(True)
    model = OpenAIChatCompletionsModel(
        model=MODEL, openai_client=openai.AsyncOpenAI(base_url=url, api_key=KEY)
    )
    brief = ModelSettings(max_tokens=120, temperature=0)
    agent: Any = Agent(
        name="guide", model=model, output_type=City, model_settings=brief
    )
    held("output_type", isinstance(Runner.run_sync(agent, QUESTION).final_output, City))
    demanding = ModelSettings(max_tokens=120, temperature=0, tool_choice="required")
    agent = Agent(
        name="weather",
        model=model,
        tools=[function_tool(get_weather)],
        model_settings=demanding,
        tool_use_behavior="stop_on_first_tool",
    )
    result = Runner.run_sync(agent, "Weather in Paris?")
    held("function_tool", str(result.final_output).startswith("It rains in"))


def autogen_client(url: str) -> None:
    """AutoGen: json_output, and tools."""
    from autogen_core.models import UserMessage
    from autogen_core.tools import FunctionTool
    from autogen_ext.models.openai import OpenAIChatCompletionClient

    client = OpenAIChatCompletionClient(
        model=MODEL,
        base_url=url,
        api_key=KEY,
        max_tokens=120,
        temperature=0,
        model_info={
            "vision": False,
            "function_calling": True,
            "json_output": True,
            "structured_output": True,
            "family": "unknown",
        },
    )

    async def scenario() -> None:
        question = [UserMessage(content=QUESTION, source="user")]
        answer: Any = await client.create(question, json_output=City)
        held("json_output", City.model_validate_json(answer.content))
        tool = FunctionTool(get_weather, description="Get the weather of a city.")
        answer = await client.create(question, tools=[tool], tool_choice="required")
        (call,) = answer.content
        held("tools", call.name == "get_weather")
        await client.close()

    asyncio.run(scenario())


CLIENTS = {
    "instructor": instructor_client,
    "pydantic_ai": pydantic_ai_client,
    "openai": openai_client,
    "langchain_openai": langchain_client,
    "llama_index": llama_index_client,
    "agents": agents_client,
    "autogen_ext": autogen_client,
}

if __name__ == "__main__":
    CLIENTS[sys.argv[1]](sys.argv[2])
