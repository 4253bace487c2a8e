"""What clients may ask of /v1/messages: Anthropic's fields, and a few of miaobi's own.

Every field is written down and an unknown one is refused by name, as in text/fields.py.
Those that change no answer here (cache_control, thinking, metadata) are accepted.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from miaobi.serve.text.fields import Closed, GenerationFields, Name, Stop

Id = Annotated[str, Field(min_length=1, max_length=128)]


class Block(Closed):
    cache_control: dict[str, Any] | None = None


class TextBlock(Block):
    type: Literal["text"]
    text: str
    citations: list[Any] | None = None


class Base64Source(Closed):
    type: Literal["base64"]
    media_type: Literal["image/jpeg", "image/png", "image/gif", "image/webp"]
    data: str


class UrlSource(Closed):
    type: Literal["url"]
    url: str
    """A data: URL."""


class ImageBlock(Block):
    type: Literal["image"]
    source: Annotated[Base64Source | UrlSource, Field(discriminator="type")]


class ToolUseBlock(Block):
    type: Literal["tool_use"]
    id: Id
    name: str
    input: dict[str, Any]
    caller: dict[str, Any] | None = None


def _blocks(content: Any) -> Any:
    """A text alone stands for one block of text."""
    if isinstance(content, str):
        return [{"type": "text", "text": content}]
    return content


Texts = Annotated[
    list[TextBlock],
    BeforeValidator(_blocks, json_schema_input_type=str | list[TextBlock]),
]


class ToolResultBlock(Block):
    type: Literal["tool_result"]
    tool_use_id: Id
    content: Texts | None = None
    is_error: bool | None = None


class ThinkingBlock(Closed):
    """Another model's reasoning, sent back: of no use to this one."""

    type: Literal["thinking"]
    thinking: str
    signature: str | None = None


class RedactedThinkingBlock(Closed):
    type: Literal["redacted_thinking"]
    data: str


AnyBlock = Annotated[
    TextBlock
    | ImageBlock
    | ToolUseBlock
    | ToolResultBlock
    | ThinkingBlock
    | RedactedThinkingBlock,
    Field(discriminator="type"),
]


class MessageTurn(Closed):
    role: Literal["user", "assistant"]
    content: Annotated[
        list[AnyBlock],
        BeforeValidator(_blocks, json_schema_input_type=str | list[AnyBlock]),
    ]


class CustomTool(Block):
    name: str = Field(pattern=r"^[A-Za-z0-9_-]{1,64}$")
    input_schema: dict[str, Any]
    description: str | None = None
    type: Literal["custom"] | None = None
    strict: bool | None = None
    eager_input_streaming: bool | None = None


class AnyChoice(Closed):
    type: Literal["auto", "any"]
    disable_parallel_tool_use: bool | None = None


class NoChoice(Closed):
    type: Literal["none"]


class ToolChoice(Closed):
    type: Literal["tool"]
    name: str
    disable_parallel_tool_use: bool | None = None


class User(Closed):
    user_id: str | None = Field(None, max_length=512)


class Thinking(Closed):
    """Accepted: models here do not think apart from what they write."""

    type: Literal["enabled", "disabled", "adaptive"]
    budget_tokens: int | None = Field(None, ge=1)
    display: Literal["summarized", "omitted"] | None = None


class SchemaFormat(Closed):
    type: Literal["json_schema"]
    schema_: dict[str, Any] = Field(alias="schema")


class OutputOptions(Closed):
    format: SchemaFormat | None = None
    effort: Literal["low", "medium", "high", "xhigh", "max"] | None = None


class MessageFields(GenerationFields):
    """A conversation to answer."""

    model: Name
    messages: list[MessageTurn] = Field(min_length=1)
    max_tokens: int = Field(ge=1)
    system: Texts | None = None
    stop_sequences: list[Stop] | None = None
    stream: bool | None = None
    temperature: float | None = Field(None, ge=0, le=1)
    top_p: float | None = Field(None, ge=0, le=1)
    top_k: int | None = Field(None, ge=0, le=1_000_000)
    tools: list[CustomTool] | None = None
    tool_choice: (
        Annotated[AnyChoice | NoChoice | ToolChoice, Field(discriminator="type")] | None
    ) = None
    output_config: OutputOptions | None = None
    thinking: Thinking | None = None
    metadata: User | None = None
    cache_control: dict[str, Any] | None = None
    service_tier: Literal["auto", "standard_only"] | None = None

    min_p: float | None = Field(None, ge=0, le=1)
    repetition_penalty: float | None = Field(None, ge=0.01, le=10)
    seed: int | None = Field(None, ge=-(2**63), le=2**63 - 1)

    @property
    def only_one(self) -> bool:
        """Whether the answer may call one tool only."""
        choice = self.tool_choice
        if choice is None or isinstance(choice, NoChoice):
            return False
        return bool(choice.disable_parallel_tool_use)
