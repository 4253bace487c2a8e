"""Calls of tools: which tools a model gets, and how its calls are read out of its text.

Models write a call as <tool_call>{"name": ..., "arguments": {...}}</tool_call> (Hermes,
Qwen, SmolLM2; several in a row, or a list inside), or as a bare JSON object with
"arguments" or "parameters" (Llama 3). Both are read. A call leaves whole, when it is
complete: what is no call after all leaves as the text it was. Where a call is demanded,
a JSON schema holds the model to one.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from miaobi.core.language import say
from miaobi.serve.errors import ApiError
from miaobi.serve.settings import Limits
from miaobi.serve.text.fields import Chat, NamedTool, Tool, within
from miaobi.serve.text.formats import checked

OPENING_TAG = "<tool_call>"
CLOSING_TAG = "</tool_call>"
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
    """The tools of one request. `schema`: of the answer, when a call is demanded."""

    tools: tuple[Mapping[str, Any], ...] = ()
    schema: Mapping[str, Any] | None = None

    @property
    def names(self) -> set[str]:
        return {tool["function"]["name"] for tool in self.tools}


def kit_of(fields: Chat, limits: Limits) -> Kit:
    """Return the tools of a request. Raise ApiError 400 for a choice that names no tool,
    and for tools that are too many or too large.
    """
    tools = fields.tools or []
    within("tools", len(tools), limits.tools)
    for position, tool in enumerate(tools):
        checked(
            tool.function.parameters or {},
            f"tools.{position}.function.parameters",
            limits,
        )
    choice = fields.tool_choice
    if choice not in (None, "none", "auto") and not tools:
        raise ApiError(
            400,
            say(
                "tool_choice demands a call, and there are no tools.",
                "tool_choice 要求调用工具，但没有给出 tools。",
            ),
            param="tool_choice",
        )
    if not tools or choice == "none":
        return Kit()
    definitions = tuple(tool.model_dump(exclude_none=True) for tool in tools)
    if choice == "required":
        return Kit(definitions, _demand(tools))
    if isinstance(choice, NamedTool):
        wanted = [tool for tool in tools if tool.function.name == choice.function.name]
        if not wanted:
            raise ApiError(
                400,
                say(
                    f"tool_choice names {choice.function.name!r}, which is not among the tools.",
                    f"tool_choice 指定的 {choice.function.name!r} 不在 tools 中。",
                ),
                param="tool_choice",
            )
        return Kit(definitions, _demand(wanted))
    return Kit(definitions)


def _demand(tools: Sequence[Tool]) -> Mapping[str, Any]:
    calls = [
        {
            "type": "object",
            "required": ["name", "arguments"],
            "properties": {
                "name": {"const": tool.function.name},
                "arguments": tool.function.parameters or NO_PARAMETERS,
            },
        }
        for tool in tools
    ]
    return calls[0] if len(calls) == 1 else {"anyOf": calls}


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
