"""Calls of tools: which tools a model gets, and how its calls are read out of its text.

Models write a call as <tool_call>{"name": ..., "arguments": {...}}</tool_call> (Hermes,
Qwen, SmolLM2; several in a row, or a list inside), or as a bare JSON object with
"arguments" or "parameters" (Llama 3). Both are read. A call leaves whole, when it is
complete: what is no call after all leaves as the text it was. Where a call is demanded,
a JSON schema holds the model to one.
"""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from miaobi.core.errors import MiaobiError
from miaobi.core.language import say
from miaobi.serve.errors import ApiError
from miaobi.serve.settings import Limits
from miaobi.serve.text.fields import AllowedTools, Chat, NamedTool, Tool, within
from miaobi.serve.text.formats import checked, schema_of

OPENING_TAG = "<tool_call>"
CLOSING_TAG = "</tool_call>"
FORMAT = "response_format.json_schema.schema"
WRITTEN = re.compile(r"#/\$defs/(tools\.\d+\.function\.parameters|" + FORMAT + ")")
DESCRIPTION = (
    "You can call these functions: {tools}\n"
    'A call is {{"name": "...", "arguments": {{...}}}}.'
)
NO_PARAMETERS: Mapping[str, Any] = {"type": "object", "properties": {}}


@dataclass(frozen=True)
class Call:
    name: str
    arguments: str
    """JSON."""
    id: str = field(default_factory=lambda: f"call_{secrets.token_hex(12)}")

    @property
    def body(self) -> dict[str, Any]:
        return {
            "id": self.id,
            "type": "function",
            "function": {"name": self.name, "arguments": self.arguments},
        }


@dataclass(frozen=True)
class Kit:
    """The tools of one request. `schema`: of the answer, when a call is demanded or
    what is no call must have a format.
    """

    tools: tuple[Mapping[str, Any], ...] = ()
    schema: Mapping[str, Any] | None = None

    @property
    def names(self) -> set[str]:
        return {tool["function"]["name"] for tool in self.tools}


def kit_of(fields: Chat, limits: Limits) -> Kit:
    """Return the tools of a request. Raise ApiError 400 for a choice that names no tool,
    and for tools that are too many, or too large to hold a call to.
    """
    within("tools", len(fields.tools or ()), limits.tools)
    choice = fields.tool_choice
    if choice not in (None, "none", "auto") and not fields.tools:
        raise ApiError(
            400,
            say(
                "tool_choice demands a call, and there are no tools.",
                "tool_choice 要求调用工具，但没有给出 tools。",
            ),
            param="tool_choice",
        )
    if not fields.tools or choice == "none":
        return Kit()
    parameters = {
        tool.function.name: f"tools.{position}.function.parameters"
        for position, tool in enumerate(fields.tools)
    }
    tools = fields.tools
    if isinstance(choice, AllowedTools):
        tools = _named(choice.allowed_tools.tools, tools)
        choice = choice.allowed_tools.mode
    definitions = tuple(tool.model_dump(exclude_none=True) for tool in tools)
    if isinstance(choice, NamedTool):
        tools = _named([choice], tools)
    demanded = choice not in (None, "auto")
    answer = None if demanded else schema_of(fields.response_format, limits)
    if not demanded and answer is None:
        return Kit(definitions)
    union = Union()
    if answer is not None:
        union.add(FORMAT, checked(answer, FORMAT, limits))
    for tool in tools:
        name = parameters[tool.function.name]
        schema = checked(tool.function.parameters or NO_PARAMETERS, name, limits)
        union.add(name, schema, tool.function.name)
    return Kit(definitions, union.schema)


def _named(choices: Sequence[NamedTool], tools: Sequence[Tool]) -> list[Tool]:
    """The tools that a choice names. Raises ApiError 400 for one that is not there."""
    by_name = {tool.function.name: tool for tool in tools}
    for choice in choices:
        name = choice.function.name
        if name not in by_name:
            raise ApiError(
                400,
                say(
                    f"tool_choice names {name!r}, which is not among the tools.",
                    f"tool_choice 指定的 {name!r} 不在 tools 中。",
                ),
                param="tool_choice",
            )
    return [by_name[choice.function.name] for choice in choices]


class Union:
    """A schema of the answers that a request allows: calls, and what its format asks for.

    Each stands whole under $defs, by the name of the field that holds it, so that its
    references lead where they did, and an error can say where it was written.
    """

    def __init__(self) -> None:
        self._definitions: dict[str, Any] = {}
        self._options: list[Mapping[str, Any]] = []

    def add(
        self, field: str, schema: Mapping[str, Any], function: str | None = None
    ) -> None:
        """Allow a value of this schema, or a call of `function` with such arguments."""
        reference = f"#/$defs/{field}"
        self._definitions[field] = _relocated(schema, reference)
        value = {"$ref": reference}
        if function is None:
            self._options.append(value)
            return
        call = {
            "type": "object",
            "required": ["name", "arguments"],
            "properties": {"name": {"const": function}, "arguments": value},
        }
        self._options.append(call)

    @property
    def schema(self) -> Mapping[str, Any]:
        options = self._options
        answer = options[0] if len(options) == 1 else {"anyOf": options}
        return {**answer, "$defs": self._definitions}


def _relocated(value: Any, reference: str) -> Any:
    """A schema whose references to itself lead to where it is now."""
    if isinstance(value, list):
        return [_relocated(item, reference) for item in value]
    if not isinstance(value, Mapping):
        return value
    moved = {key: _relocated(item, reference) for key, item in value.items()}
    target = moved.get("$ref")
    if isinstance(target, str) and target.startswith("#"):
        moved["$ref"] = reference + target.removeprefix("#")
    return moved


def as_written(error: MiaobiError) -> MiaobiError:
    """Return an error of a Union's schema in terms of the request's own fields."""
    written = WRITTEN.search(error.problem)
    if written is None:
        return error
    problem = WRITTEN.sub(lambda match: f"{match[1]}#", error.problem)
    field = "json_schema" if written[1] == FORMAT else "tools"
    return type(error)(problem, error.remedy, field=field)


def with_described_tools(
    messages: Sequence[Mapping[str, Any]], kit: Kit
) -> list[Mapping[str, Any]]:
    """Return a conversation that describes the tools, for a model whose chat template
    has no place for them.

    What they returned comes as the user's, earlier calls as the assistant's text.
    """
    listed = json.dumps([tool["function"] for tool in kit.tools], ensure_ascii=False)
    described = DESCRIPTION.format(tools=listed)
    spoken = [_as_text(message) for message in messages]
    if spoken[0]["role"] == "system":
        content = f"{spoken[0]['content']}\n\n{described}"
        return [{**spoken[0], "content": content}, *spoken[1:]]
    return [{"role": "system", "content": described}, *spoken]


def _as_text(message: Mapping[str, Any]) -> Mapping[str, Any]:
    if message["role"] == "tool":
        return {"role": "user", "content": f"Result: {message['content']}"}
    calls = message.get("tool_calls")
    if not calls:
        return message
    written = [
        f'{{"name": {json.dumps(call["function"]["name"])}, '
        f'"arguments": {call["function"]["arguments"] or "{}"}}}'
        for call in calls
    ]
    content = "\n".join(filter(None, [message["content"], *written]))
    return {"role": message["role"], "content": content}


class Reader:
    """Reads one answer as it comes: `push` and `finish` return the text outside of calls
    and the calls that are complete.
    """

    def __init__(self, kit: Kit, only_one: bool = False) -> None:
        self.kit = kit
        self.only_one = only_one
        self.called = 0
        self._held = ""
        self._bare = kit.schema is not None
        """Whether the whole answer may be one JSON object; its first character decides."""
        self._begun = False

    def push(self, text: str) -> tuple[str, list[Call]]:
        self._held += text
        if not self._begun and (seen := self._held.lstrip()):
            self._begun = True
            self._bare = self._bare or seen[0] in "{["
        if self._bare or not self._begun:
            return "", []
        return self._take()

    def _take(self) -> tuple[str, list[Call]]:
        """Return what is decided. White space is held back: around a call it is no part of
        the answer.
        """
        text = ""
        calls = list[Call]()
        while True:
            at = self._held.find(OPENING_TAG)
            end = self._held.find(CLOSING_TAG, at) if at >= 0 else -1
            if end < 0:
                until = at if at >= 0 else len(self._held) - self._begins(OPENING_TAG)
                ready = self._held[:until].rstrip()
                self._held = self._held[len(ready) :]
                return text + ready, calls
            whole = self._held[: end + len(CLOSING_TAG)]
            inside = read_calls(self._held[at + len(OPENING_TAG) : end])
            calls += self._count(inside)
            text += self._held[:at].rstrip() if inside else whole
            self._held = self._held[len(whole) :]

    def _begins(self, tag: str) -> int:
        """How many characters at the end may be the beginning of the tag."""
        return next(
            (
                size
                for size in range(min(len(self._held), len(tag) - 1), 0, -1)
                if tag.startswith(self._held[-size:])
            ),
            0,
        )

    def finish(self) -> tuple[str, list[Call]]:
        """The rest, once the answer has ended."""
        held = self._held
        self._held = ""
        if self._bare:
            calls = [call for call in read_calls(held) if call.name in self.kit.names]
            if self.kit.schema is not None and not _is_call(held):
                calls = []
            return ("", self._count(calls)) if calls else (held, [])
        inside = (
            read_calls(held.strip().removeprefix(OPENING_TAG))
            if held.strip().startswith(OPENING_TAG)
            else []
        )
        return (
            "" if inside or (self.called and not held.strip()) else held
        ), self._count(inside)

    def _count(self, calls: list[Call]) -> list[Call]:
        limit = 1 - self.called if self.only_one else len(calls)
        accepted = calls[: max(0, limit)]
        self.called += len(accepted)
        return accepted


def _is_call(text: str) -> bool:
    """Whether an answer in JSON is a call, and not of the request's format."""
    try:
        value = json.loads(text)
    except ValueError:
        return False
    return isinstance(value, dict) and set(value) == {"name", "arguments"}


def read_calls(text: str) -> list[Call]:
    """The calls that a piece of JSON stands for; none for anything else."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return []
    calls = list[Call]()
    for item in value if isinstance(value, list) else [value]:
        arguments = (
            (item.get("arguments", item.get("parameters", {})))
            if isinstance(item, dict)
            else None
        )
        if arguments is None or not isinstance(item.get("name"), str):
            return []
        calls.append(
            Call(
                item["name"],
                arguments
                if isinstance(arguments, str)
                else json.dumps(arguments, ensure_ascii=False),
            )
        )
    return calls
