"""What clients may ask of /v1/chat/completions and /v1/completions: OpenAI's fields,
and miaobi's own controls beside them.

Every field is written down, an unknown one is refused by name, and null means left out.
So no request brings a chat template, tokenizer options or anything else that would
change how a model is asked.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Annotated, Any, Literal, cast

from pydantic import BaseModel, ConfigDict, Field, model_validator

from miaobi.core.errors import BadInput
from miaobi.core.language import say
from miaobi.serve.errors import ApiError
from miaobi.serve.pages import Metadata
from miaobi.serve.settings import Limits

Label = Annotated[str, Field(max_length=512)]
"""Of the client's own. It is not used."""
Stop = Annotated[str, Field(min_length=1, max_length=1000)]
Name = Annotated[str, Field(min_length=1, max_length=128)]
"""Of a model: in the store ("poet", "poet@2"), a starter pack, or one of --model."""


class Closed(BaseModel):
    """A shape that refuses every field that is not written down; null is left out, be
    the field known or not.
    """

    model_config = ConfigDict(extra="forbid", strict=True)

    @model_validator(mode="before")
    @classmethod
    def _without_nulls(cls, value: Any) -> Any:
        if not isinstance(value, Mapping):
            return value
        return {name: item for name, item in value.items() if item is not None}


class GenerationFields(Closed):
    """A whole request. JSON can spell half a character ("\\ud800"), which no model and
    no answer can hold.
    """

    @model_validator(mode="before")
    @classmethod
    def _whole_characters(cls, value: Any) -> Any:
        try:
            json.dumps(value, ensure_ascii=False).encode()
        except UnicodeEncodeError as error:
            raise ValueError(
                say(
                    f"A text holds half a character: {error.object[error.start]!a}.",
                    f"文本中含有不完整的字符：{error.object[error.start]!a}。",
                )
            ) from None
        return value


class StreamOptions(Closed):
    include_usage: bool | None = None
    continuous_usage_stats: bool | None = None
    """Whether every event says what was used so far (vLLM's)."""
    include_obfuscation: bool | None = None
    """Padding against listeners who count characters. It is never sent."""


class NoEffect(Closed):
    """Fields of OpenAI's that change no answer here: they are read and not used."""

    metadata: Metadata | None = None
    store: bool | None = None
    safety_identifier: Label | None = None
    prompt_cache_key: Label | None = None
    prompt_cache_retention: Literal["in-memory", "24h"] | None = None
    service_tier: Literal["auto", "default", "flex", "scale", "priority"] | None = None
    verbosity: Literal["low", "medium", "high"] | None = None
    prediction: dict[str, Any] | None = None


class Sampling(GenerationFields):
    """How to draw, for chats and plain texts alike."""

    model: Name
    n: int | None = Field(None, ge=1, le=128)
    max_tokens: int | None = Field(None, ge=1)
    min_tokens: int | None = Field(None, ge=0)
    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, ge=0, le=1)
    top_k: int | None = Field(None, ge=0, le=1_000_000)
    min_p: float | None = Field(None, ge=0, le=1)
    typical_p: float | None = Field(None, gt=0, le=1)
    presence_penalty: float | None = Field(None, ge=-2, le=2)
    frequency_penalty: float | None = Field(None, ge=-2, le=2)
    repetition_penalty: float | None = Field(None, ge=0.01, le=10)
    stop: Stop | list[Stop] | None = None
    seed: int | None = Field(None, ge=-(2**63), le=2**63 - 1)
    logit_bias: (
        dict[
            Annotated[str, Field(pattern=r"^[0-9]{1,9}$")],
            Annotated[float, Field(ge=-100, le=100)],
        ]
        | None
    ) = Field(None, max_length=1024)
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    user: Label | None = None

    @property
    def answers(self) -> int:
        return self.n or 1

    @property
    def includes_usage(self) -> bool:
        """Whether a stream ends with what was used."""
        return self.stream_options is not None and bool(
            self.stream_options.include_usage
        )

    @property
    def includes_usage_so_far(self) -> bool:
        """Whether each event of a stream does so too."""
        return self.includes_usage and bool(
            self.stream_options and self.stream_options.continuous_usage_stats
        )

    def controls(self, limits: Limits) -> dict[str, Any]:
        """Return miaobi's own names of the settings that the request has. Raise ApiError
        or BadInput for what is beyond the limits.
        """
        controls = {
            "min_new_tokens": self.min_tokens,
            "temperature": self.temperature,
            "top_k": self.top_k,
            "min_p": self.min_p,
            "typical_p": self.typical_p,
            "presence_penalty": self.presence_penalty,
            "frequency_penalty": self.frequency_penalty,
            "repetition_penalty": self.repetition_penalty,
            "n": self.n,
            "top_p": None if self.top_p is None else max(self.top_p, 1e-9),
            "seed": None if self.seed is None else self.seed % 2**63,
            "stop": None if self.stop is None else self._stops(limits),
            "logit_bias": None
            if not self.logit_bias
            else {int(token): value for token, value in self.logit_bias.items()},
        }
        if self.stream_options is not None and not self.stream:
            raise ApiError(
                400,
                say(
                    "stream_options belong to stream: true.",
                    "stream_options 只能与 stream: true 一起使用。",
                ),
                param="stream_options",
            )
        within("n", self.answers, limits.n)
        return {name: value for name, value in controls.items() if value is not None}

    def _stops(self, limits: Limits) -> tuple[str, ...]:
        stops = (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())
        within("stop", len(stops), limits.stop)
        return stops


def within(name: str, value: int, most: int) -> None:
    """Raise ApiError 400, naming the field, for a number beyond its limit."""
    if value > most:
        raise ApiError(
            400,
            say(
                f"{name}: {value} is more than the {most} that are allowed here.",
                f"{name}：{value} 超过此处允许的 {most}。",
            ),
            code="limit_exceeded",
            param=name,
        )


Ids = Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1)]
"""Token ids of the model's own vocabulary (/tokenize)."""


class Completion(Sampling):
    """A text to go on with, as it stands: as text, or as token ids.

    best_of: one answer is the best of one. suffix: what stands behind the text, for
    models that were trained to fill in; an empty one is none.
    """

    best_of: Literal[1] | None = None
    suffix: str | None = None
    prompt: str | list[str] | Ids | list[Ids] = Field(min_length=0)
    echo: bool | None = None
    logprobs: int | None = Field(None, ge=0, le=20)
    max_tokens: int | None = Field(None, ge=0)

    def prompts(self, limits: Limits) -> list[str | list[int]]:
        prompts = several(self.prompt)
        if not prompts:
            raise ApiError(
                400, say("prompt is empty.", "prompt 为空。"), param="prompt"
            )
        within("prompt", len(prompts) * self.answers, limits.n)
        if self.suffix:
            self._check_suffix(prompts)
        return prompts

    def _check_suffix(self, prompts: list[str | list[int]]) -> None:
        """Raise ApiError for fields that contradict a suffix."""
        if self.echo:
            raise ApiError(
                400,
                say(
                    "suffix and echo cannot be used together.",
                    "suffix 与 echo 不能同时使用。",
                ),
                param="echo",
            )
        if not all(isinstance(prompt, str) for prompt in prompts):
            raise ApiError(
                400,
                say(
                    "suffix stands behind a text; prompt holds token ids.",
                    "suffix 位于文本之后，而 prompt 是词元编号。",
                ),
                param="suffix",
            )


def several(
    texts: str | list[str] | list[int] | list[list[int]],
) -> list[str | list[int]]:
    """Return texts, each as text or token ids, of what may be a single one."""
    if isinstance(texts, str):
        return [texts]
    if texts and isinstance(texts[0], int):
        return [texts]
    return list(cast(list[str | list[int]], texts))


class TextPart(Closed):
    type: Literal["text"]
    text: str
    cache_control: dict[str, Any] | None = None
    """Where other servers are to cache. It is not used."""


class ImageUrl(Closed):
    url: str
    detail: Literal["auto", "low", "high"] | None = None


class ImagePart(Closed):
    type: Literal["image_url"]
    image_url: ImageUrl


class CalledFunction(Closed):
    name: str
    arguments: str


class ToolCall(Closed):
    id: str
    type: Literal["function"]
    function: CalledFunction
    index: int | None = None
    """As clients send back that put a stream together."""


class Message(Closed):
    """One turn. What clients send back of our own answers is taken too: refusal,
    annotations, audio and function_call, all empty.
    """

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: (
        str | list[Annotated[TextPart | ImagePart, Field(discriminator="type")]] | None
    ) = None
    name: str | None = None
    tool_calls: list[ToolCall] | None = None
    tool_call_id: str | None = None
    refusal: None = None
    annotations: Annotated[list[Any], Field(max_length=0)] | None = None
    audio: None = None
    function_call: None = None


class Function(Closed):
    name: str = Field(pattern=r"^[A-Za-z0-9_-]{1,64}$")
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class Tool(Closed):
    type: Literal["function"]
    function: Function


class NamedFunction(Closed):
    name: str


class NamedTool(Closed):
    type: Literal["function"]
    function: NamedFunction


class AllowedFunctions(Closed):
    mode: Literal["auto", "required"]
    tools: list[NamedTool] = Field(min_length=1)


class AllowedTools(Closed):
    """A choice among some of the tools."""

    type: Literal["allowed_tools"]
    allowed_tools: AllowedFunctions


class TextFormat(Closed):
    type: Literal["text"]


class JsonObject(Closed):
    type: Literal["json_object"]


class SchemaFormat(Closed):
    name: str = Field(pattern=r"^[A-Za-z0-9_-]{1,64}$")
    description: str | None = None
    schema_: dict[str, Any] | None = Field(None, alias="schema")
    strict: bool | None = None


class JsonSchema(Closed):
    type: Literal["json_schema"]
    json_schema: SchemaFormat


class Chat(Sampling, NoEffect):
    """A conversation to answer."""

    messages: list[Message] = Field(min_length=1)
    max_completion_tokens: int | None = Field(None, ge=1)
    logprobs: bool | None = None
    top_logprobs: int | None = Field(None, ge=0, le=20)
    response_format: (
        Annotated[TextFormat | JsonObject | JsonSchema, Field(discriminator="type")]
        | None
    ) = None
    tools: list[Tool] | None = None
    tool_choice: (
        Literal["none", "auto", "required"]
        | Annotated[NamedTool | AllowedTools, Field(discriminator="type")]
        | None
    ) = None
    parallel_tool_calls: bool | None = None
    modalities: list[Literal["text"]] | None = None
    reasoning_effort: (
        Literal["none", "minimal", "low", "medium", "high", "xhigh"] | None
    ) = None
    """Of no effect on a model that does not reason; refused by one that does."""
    continue_final_message: bool | None = None
    """Go on with the last message, the assistant's, instead of answering it (vLLM's)."""
    add_generation_prompt: bool | None = None
    """Whether an answer begins after the messages: it does, unless the last one is gone
    on with.
    """

    @property
    def continues(self) -> bool:
        """Whether the answer goes on with the last message. Raise ApiError 400."""
        continues = bool(self.continue_final_message)
        begins = self.add_generation_prompt
        if begins is None or begins is not continues:
            return continues
        raise ApiError(
            400,
            say(
                "An answer begins (add_generation_prompt), or the last message is gone on "
                "with (continue_final_message): one of them.",
                "add_generation_prompt（开始新的回答）与 continue_final_message（续写最后一条消息）"
                "必须且只能有一个为 true。",
            ),
            param="add_generation_prompt",
        )

    @property
    def most(self) -> int | None:
        """Tokens of an answer."""
        if (
            self.max_tokens is not None
            and self.max_completion_tokens is not None
            and self.max_tokens != self.max_completion_tokens
        ):
            raise BadInput(
                say(
                    f"max_tokens is {self.max_tokens} and max_completion_tokens {self.max_completion_tokens}.",
                    f"max_tokens 为 {self.max_tokens}，而 max_completion_tokens 为 {self.max_completion_tokens}。",
                ),
                say(
                    "They mean the same: give one of them.",
                    "两者含义相同：请只给出一个。",
                ),
            )
        return (
            self.max_completion_tokens if self.max_tokens is None else self.max_tokens
        )

    @property
    def top_count(self) -> int | None:
        """How many likely tokens to report beside each; None for no log-probabilities."""
        if self.top_logprobs is not None and not self.logprobs:
            raise ApiError(
                400,
                say(
                    "top_logprobs needs logprobs: true.",
                    "使用 top_logprobs 时需设置 logprobs: true。",
                ),
                param="top_logprobs",
            )
        return (self.top_logprobs or 0) if self.logprobs else None


def plain(message: Message) -> Mapping[str, Any]:
    """A message as templates read it: only what was given, its texts joined, and the
    developer's words as the system's.
    """
    fields = message.model_dump(
        exclude_none=True, exclude={"refusal", "annotations", "audio", "function_call"}
    )
    content = message.content or ""
    fields["content"] = (
        content
        if isinstance(content, str)
        else "".join(part.text for part in content if isinstance(part, TextPart))
    )
    return {**fields, "role": "system"} if message.role == "developer" else fields
