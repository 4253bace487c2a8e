"""The items of a conversation, and the request for /v1/chat/completions that they make.

An item is a message, a call of a tool or its result, in the shape that /v1/responses
gives it; they are stored so (conversations.py). `chat_of` leads to the one path that
all chats take.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from miaobi.core.language import say
from miaobi.serve.conversations import Conversations
from miaobi.serve.errors import ApiError
from miaobi.serve.records import Turn
from miaobi.serve.responses.fields import (
    AllowedTools,
    CallItem,
    FunctionTool,
    InputImage,
    InputText,
    MessageItem,
    NamedTool,
    OutputText,
    ReasoningItem,
    Refusal,
    ResponseFields,
    ResultItem,
    SchemaFormat,
)
from miaobi.serve.text.fields import Chat

Items = Sequence[Mapping[str, Any]]
SAME = (
    "model",
    "stream",
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "typical_p",
    "presence_penalty",
    "frequency_penalty",
    "repetition_penalty",
    "stop",
    "seed",
    "parallel_tool_calls",
    "user",
)
"""Fields that mean the same in both requests."""
CLIENT_NAMES = {
    "messages": "input",
    "max_tokens": "max_output_tokens",
    "max_completion_tokens": "max_output_tokens",
    "response_format": "text.format",
}
"""What /v1/responses calls the fields of a chat that it names otherwise."""


def item_id(prefix: str) -> str:
    return f"{prefix}_{secrets.token_hex(16)}"


def items_of(fields: ResponseFields) -> list[dict[str, Any]]:
    """Return the items of a request, each whole and with an id."""
    return [_item(item) for item in fields.input or ()]


def _item(
    item: MessageItem | CallItem | ResultItem | ReasoningItem,
) -> dict[str, Any]:
    if isinstance(item, MessageItem):
        return _message(item)
    if isinstance(item, CallItem):
        call = {
            "id": item.id or item_id("fc"),
            "type": "function_call",
            "status": "completed",
            "call_id": item.call_id,
            "name": item.name,
            "arguments": item.arguments,
        }
        return {**call, "namespace": item.namespace} if item.namespace else call
    if isinstance(item, ResultItem):
        output = item.output
        return {
            "id": item.id or item_id("fco"),
            "type": "function_call_output",
            "status": "completed",
            "call_id": item.call_id,
            "output": output
            if isinstance(output, str)
            else [part.model_dump() for part in output],
        }
    return {
        "id": item.id or item_id("rs"),
        "type": "reasoning",
        "summary": item.summary or [],
    }


def _message(item: MessageItem) -> dict[str, Any]:
    text = output_text if item.role == "assistant" else input_text
    content = [_part(part, text) for part in item.content]
    return {
        "id": item.id or item_id("msg"),
        "type": "message",
        "status": item.status or "completed",
        "role": item.role,
        "content": content,
    }


def _part(
    part: InputText | InputImage | OutputText | Refusal,
    text: Callable[[str], dict[str, Any]],
) -> dict[str, Any]:
    """Return a part of a message; `text` makes that of its speaker."""
    if isinstance(part, InputText | OutputText):
        return text(part.text)
    if isinstance(part, Refusal):
        return part.model_dump()
    detail = part.detail or "auto"
    return {"type": "input_image", "image_url": part.image_url, "detail": detail}


def input_text(text: str) -> dict[str, Any]:
    return {"type": "input_text", "text": text}


def output_text(text: str) -> dict[str, Any]:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}


def history_of(
    conversations: Conversations, key_id: str, fields: ResponseFields
) -> list[Turn]:
    """Return the turns before this one. Raise NotFound."""
    if fields.previous_response_id is None:
        return []
    return conversations.path(key_id, fields.previous_response_id)


def items_before(turns: Iterable[Turn]) -> list[dict[str, Any]]:
    """Return all items of these turns, in order."""
    return [item for turn in turns for item in [*turn.input, *turn.output]]


def chat_of(fields: ResponseFields, items: Items) -> Chat:
    """Return the request for a chat. Raise ApiError 400 where nobody says anything."""
    messages = messages_of(items)
    if fields.instructions:
        messages.insert(0, {"role": "system", "content": fields.instructions})
    if not messages:
        raise ApiError(
            400,
            say("input holds no message.", "input 中没有消息。"),
            param="input",
        )
    body = {name: getattr(fields, name) for name in SAME}
    body["messages"] = messages
    body["max_completion_tokens"] = fields.max_output_tokens
    if fields.wants_logprobs:
        body["logprobs"] = True
        body["top_logprobs"] = fields.top_logprobs
    if fields.text is not None and fields.text.format is not None:
        body["response_format"] = _format(fields.text.format)
    if fields.tools:
        body |= _tools(fields, fields.functions)
    elif fields.tool_choice is not None and isinstance(fields.tool_choice, str):
        body["tool_choice"] = fields.tool_choice
    return Chat.model_validate(body)


def messages_of(items: Items) -> list[dict[str, Any]]:
    """Return the messages that these items are. Calls belong to the answer that they
    stand beside; reasoning is left out.
    """
    messages = list[dict[str, Any]]()
    for item in items:
        kind = item["type"]
        if kind == "message":
            content = [_chat_part(part) for part in item["content"]]
            messages.append({"role": item["role"], "content": content})
        elif kind == "function_call":
            if not messages or messages[-1]["role"] != "assistant":
                messages.append({"role": "assistant", "content": None})
            called = {"name": item["name"], "arguments": item["arguments"]}
            call = {"id": item["call_id"], "type": "function", "function": called}
            messages[-1].setdefault("tool_calls", []).append(call)
        elif kind == "function_call_output":
            output = item["output"]
            text = (
                output
                if isinstance(output, str)
                else "".join(part["text"] for part in output)
            )
            messages.append(
                {"role": "tool", "tool_call_id": item["call_id"], "content": text}
            )
    return messages


def _chat_part(part: Mapping[str, Any]) -> dict[str, Any]:
    if part["type"] == "input_image":
        url = {"url": part["image_url"], "detail": part["detail"]}
        return {"type": "image_url", "image_url": url}
    text = part["refusal"] if part["type"] == "refusal" else part["text"]
    return {"type": "text", "text": text}


def _format(wanted: Any) -> dict[str, Any]:
    if not isinstance(wanted, SchemaFormat):
        return {"type": wanted.type}
    fields = {
        "name": wanted.name,
        "schema": wanted.schema_,
        "description": wanted.description,
        "strict": wanted.strict,
    }
    return {"type": "json_schema", "json_schema": fields}


def _tools(fields: ResponseFields, tools: Sequence[FunctionTool]) -> dict[str, Any]:
    """Return the tools and the choice among them, as a chat has them. Raise ApiError 400
    for two tools of the same name.
    """
    names = [tool.name for tool in tools]
    twice = sorted(name for name in set(names) if names.count(name) > 1)
    if twice:
        raise ApiError(
            400,
            say(
                f"There are two tools named {twice[0]!r}.",
                f"有两个名为 {twice[0]!r} 的工具。",
            ),
            param="tools",
        )
    choice = fields.tool_choice
    body: dict[str, Any] = {"tool_choice": choice}
    if isinstance(choice, NamedTool):
        named = {"name": choice.name}
        body["tool_choice"] = {"type": "function", "function": named}
    elif isinstance(choice, AllowedTools):
        allowed = [tool.name for tool in choice.tools]
        unknown = sorted(set(allowed) - set(names))
        if unknown:
            raise ApiError(
                400,
                say(
                    f"tool_choice allows {unknown[0]!r}, which is not among the tools.",
                    f"tool_choice 允许的 {unknown[0]!r} 不在 tools 中。",
                ),
                param="tool_choice",
            )
        tools = [tool for tool in tools if tool.name in allowed]
        body["tool_choice"] = choice.mode
    body["tools"] = [
        {
            "type": "function",
            "function": tool.model_dump(exclude={"type"}, exclude_none=True),
        }
        for tool in tools
    ]
    return body
