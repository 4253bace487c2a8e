"""What an assistant calls, and the functions that it may call, in OpenAI's form.

    {"id": "1", "type": "function", "function": {"name": "weather", "arguments": {...}}}

Arguments are objects, which is what chat templates write.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from miaobi.core.language import say
from miaobi.data.text.shapes.record import Record, Unusable, decoded

EXAMPLE = '{"type": "function", "function": {"name": "...", "arguments": {}}}'
TOOLS_EXAMPLE = (
    '"tools": [{"type": "function", "function": {"name": "...", "parameters": {}}}]'
)


def call_of(value: Any) -> dict[str, Any]:
    """Return a call that is written in any of the usual forms. Raises Unusable."""
    call = value if isinstance(value, Mapping) else {}
    function = call.get("function", call)
    name = function.get("name") if isinstance(function, Mapping) else None
    if not isinstance(name, str) or not name:
        raise Unusable(
            say(
                f"a tool call names no function: {value!r:.60}",
                f"工具调用没有函数名：{value!r:.60}",
            ),
            EXAMPLE,
        )
    arguments = function.get("arguments", function.get("parameters"))
    identity = {"id": call["id"]} if call.get("id") else {}
    return {
        **identity,
        "type": "function",
        "function": {"name": name, "arguments": _arguments(arguments, name)},
    }


def _arguments(value: Any, name: str) -> Any:
    """Return arguments as an object; none, and an empty text, are {}."""
    if value is None or (isinstance(value, str) and not value.strip()):
        return {}
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        raise Unusable(
            say(
                f"the arguments of {name} are not JSON: {value!r:.60}",
                f"{name} 的参数不是 JSON：{value!r:.60}",
            ),
            EXAMPLE,
        ) from None


def calls_of_text(text: Any) -> list[dict[str, Any]]:
    """Return the calls that the text of a turn stands for (from "function_call").

    It is the JSON of one call, or of a list of them. Raises Unusable.
    """
    value = decoded(text, "function_call")
    return [call_of(item) for item in (value if isinstance(value, list) else [value])]


def is_call(value: Any) -> bool:
    """Return whether the text of a turn is the JSON of a call."""
    if not isinstance(value, str) or not value.lstrip().startswith(("{", "[")):
        return False
    try:
        calls = json.loads(value)
    except (ValueError, RecursionError):
        return False
    calls = calls if isinstance(calls, list) else [calls]
    return bool(calls) and all(
        isinstance(call, Mapping) and {"name", "arguments"} <= call.keys()
        for call in calls
    )


def tools_of(record: Record) -> list[Any]:
    """Return the functions that a record offers, [] for none. Raises Unusable.

    They are under `tools`, or under `functions` as OpenAI had them first; a table holds
    them as JSON.
    """
    key = record.first(("tools", "functions"))
    if not key:
        return []
    value = record[key]
    try:
        tools = decoded(value, key)
    except Unusable:
        tools = None
    if isinstance(tools, Mapping):
        tools = [tools]
    if isinstance(tools, list):
        tools = [decoded_tool(tool) for tool in tools]
    if isinstance(tools, list) and all(isinstance(tool, Mapping) for tool in tools):
        return tools
    raise Unusable(
        say(
            f"{key} is {value!r:.60}, not a list of functions.",
            f"{key} 为 {value!r:.60}，不是函数列表。",
        ),
        TOOLS_EXAMPLE,
    )


def decoded_tool(tool: Any) -> Any:
    """Return a function under "function", as chat templates read it."""
    if isinstance(tool, str):
        tool = decoded(tool, "tools")
    if isinstance(tool, Mapping) and "name" in tool and "function" not in tool:
        return {"type": "function", "function": dict(tool)}
    return tool


def written(calls: Sequence[Mapping[str, Any]]) -> str:
    """Return calls as text, in the form of Hermes and Qwen2.5."""
    return "\n".join(
        f"<tool_call>\n{json.dumps(call['function'], ensure_ascii=False)}\n</tool_call>"
        for call in calls
    )
