"""What clients may ask of /v1/responses: OpenAI's fields, and miaobi's own controls
beside them.

Every field is written down and an unknown one is refused by name, as in text/fields.py.
Those that change no answer here are accepted.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Discriminator, Field, Tag

from miaobi.serve.pages import Metadata
from miaobi.serve.text.fields import (
    Closed,
    Function,
    GenerationFields,
    JsonObject,
    Label,
    Name,
    NamedFunction,
    Stop,
    TextFormat,
)

Id = Annotated[str, Field(min_length=1, max_length=128)]
Status = Literal["in_progress", "completed", "incomplete"]
LOGPROBS = "message.output_text.logprobs"
Included = Literal[
    "message.output_text.logprobs",
    "reasoning.encrypted_content",
    "message.input_image.image_url",
    "file_search_call.results",
    "web_search_call.results",
    "web_search_call.action.sources",
    "code_interpreter_call.outputs",
    "computer_call_output.output.image_url",
]
"""All but the first ask for what no answer here has."""


class InputText(Closed):
    type: Literal["input_text"]
    text: str


class InputImage(Closed):
    type: Literal["input_image"]
    image_url: str
    """A data: URL."""
    detail: Literal["auto", "low", "high"] | None = None
    file_id: None = None


class OutputText(Closed):
    type: Literal["output_text"]
    text: str
    annotations: list[Any] | None = None
    logprobs: list[Any] | None = None


class Refusal(Closed):
    type: Literal["refusal"]
    refusal: str


Part = Annotated[
    InputText | InputImage | OutputText | Refusal, Field(discriminator="type")
]


def _parts(content: Any) -> Any:
    """A text alone stands for one part of a message."""
    if isinstance(content, str):
        return [{"type": "input_text", "text": content}]
    return content


class MessageItem(Closed):
    """What somebody said."""

    type: Literal["message"] = "message"
    role: Literal["user", "assistant", "system", "developer"]
    content: Annotated[
        list[Part], BeforeValidator(_parts, json_schema_input_type=str | list[Part])
    ]
    id: Id | None = None
    status: Status | None = None
    phase: Literal["commentary", "final_answer"] | None = None


class CallItem(Closed):
    """A call that a model made."""

    type: Literal["function_call"]
    call_id: Id
    name: str
    arguments: str
    id: Id | None = None
    status: Status | None = None
    namespace: str | None = None
    """The group of tools that it belongs to."""


class ResultItem(Closed):
    """What a call has come to."""

    type: Literal["function_call_output"]
    call_id: Id
    output: str | list[InputText]
    id: Id | None = None
    status: Status | None = None


class ReasoningItem(Closed):
    """Another model's reasoning, sent back: of no use to this one."""

    type: Literal["reasoning"]
    id: Id | None = None
    summary: list[Any] | None = None
    content: list[Any] | None = None
    encrypted_content: str | None = None
    status: Status | None = None


def _kind(item: Any) -> str | None:
    """Return the type of an item; a message may leave it out."""
    if isinstance(item, Closed):
        return str(item.type)  # type: ignore[attr-defined]
    if not isinstance(item, Mapping):
        return None
    kind = item.get("type", "message")
    return kind if isinstance(kind, str) else None


Item = Annotated[
    Annotated[MessageItem, Tag("message")]
    | Annotated[CallItem, Tag("function_call")]
    | Annotated[ResultItem, Tag("function_call_output")]
    | Annotated[ReasoningItem, Tag("reasoning")],
    Discriminator(_kind),
]


def _items(given: Any) -> Any:
    """A text alone stands for one message of the user."""
    if isinstance(given, str):
        return [{"role": "user", "content": given}]
    return given


class FunctionTool(Function):
    type: Literal["function"]


class ToolGroup(Closed):
    """Tools under one heading, as Codex sends them. A call of one says its group."""

    type: Literal["namespace"]
    name: str = Field(pattern=r"^[A-Za-z0-9_-]{1,64}$")
    description: str | None = None
    tools: list[FunctionTool] = Field(min_length=1)


class NamedTool(NamedFunction):
    type: Literal["function"]


class AllowedTools(Closed):
    type: Literal["allowed_tools"]
    mode: Literal["auto", "required"]
    tools: list[NamedTool] = Field(min_length=1)


ToolChoice = (
    Literal["none", "auto", "required"]
    | Annotated[NamedTool | AllowedTools, Field(discriminator="type")]
)


class SchemaFormat(Closed):
    type: Literal["json_schema"]
    name: str = Field(pattern=r"^[A-Za-z0-9_-]{1,64}$")
    schema_: dict[str, Any] = Field(alias="schema")
    description: str | None = None
    strict: bool | None = None


class TextOptions(Closed):
    format: (
        Annotated[TextFormat | JsonObject | SchemaFormat, Field(discriminator="type")]
        | None
    ) = None
    verbosity: Literal["low", "medium", "high"] | None = None


class Reasoning(Closed):
    """Accepted: models here have no effort to choose."""

    effort: (
        Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"] | None
    ) = None
    summary: Literal["auto", "concise", "detailed"] | None = None
    generate_summary: Literal["auto", "concise", "detailed"] | None = None


class StreamOptions(Closed):
    include_obfuscation: Literal[False] | None = None


class ResponseFields(GenerationFields):
    """A conversation to go on with."""

    model: Name
    input: (
        Annotated[
            list[Item],
            BeforeValidator(_items, json_schema_input_type=str | list[Item]),
        ]
        | None
    ) = None
    instructions: str | None = None
    """The system's message of this answer alone; it is not carried on."""
    previous_response_id: Id | None = None
    store: bool | None = None
    """Whether the turn is kept, so that it can be gone on with: by default it is, where
    the operator keeps conversations.
    """
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_output_tokens: int | None = Field(None, ge=1)
    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, ge=0, le=1)
    top_logprobs: int | None = Field(None, ge=0, le=20)
    include: list[Included] | None = None
    text: TextOptions | None = None
    tools: (
        list[Annotated[FunctionTool | ToolGroup, Field(discriminator="type")]] | None
    ) = None
    tool_choice: ToolChoice | None = None
    parallel_tool_calls: bool | None = None
    truncation: Literal["disabled"] | None = None
    background: Literal[False] | None = None
    metadata: Metadata | None = None
    reasoning: Reasoning | None = None
    max_tool_calls: int | None = Field(None, ge=1)
    """Of tools that the server would call itself; here the client calls all."""
    user: Label | None = None
    safety_identifier: Label | None = None
    prompt_cache_key: Label | None = None
    prompt_cache_retention: Literal["in-memory", "24h"] | None = None
    service_tier: Literal["auto", "default"] | None = None
    client_metadata: dict[str, Any] | None = None
    """Of Codex. It is not used."""

    top_k: int | None = Field(None, ge=0, le=1_000_000)
    min_p: float | None = Field(None, ge=0, le=1)
    typical_p: float | None = Field(None, gt=0, le=1)
    presence_penalty: float | None = Field(None, ge=-2, le=2)
    frequency_penalty: float | None = Field(None, ge=-2, le=2)
    repetition_penalty: float | None = Field(None, ge=0.01, le=10)
    stop: Stop | list[Stop] | None = None
    seed: int | None = Field(None, ge=-(2**63), le=2**63 - 1)

    @property
    def functions(self) -> list[FunctionTool]:
        """All tools, those of groups included."""
        functions = list[FunctionTool]()
        for tool in self.tools or ():
            functions += tool.tools if isinstance(tool, ToolGroup) else [tool]
        return functions

    @property
    def groups(self) -> dict[str, str]:
        """The group of each function that has one."""
        return {
            function.name: tool.name
            for tool in self.tools or ()
            if isinstance(tool, ToolGroup)
            for function in tool.tools
        }

    @property
    def wants_logprobs(self) -> bool:
        return bool(self.top_logprobs) or LOGPROBS in (self.include or ())
