"""The request for /v1/chat/completions that a request to /v1/messages makes: the one
path that all chats take.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from miaobi.core.language import say
from miaobi.serve.errors import ApiError
from miaobi.serve.messages.fields import (
    Base64Source,
    ImageBlock,
    MessageFields,
    MessageTurn,
    TextBlock,
    ToolChoice,
    ToolResultBlock,
    ToolUseBlock,
)
from miaobi.serve.text.fields import Chat

SAME = (
    "model",
    "max_tokens",
    "stream",
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "repetition_penalty",
    "seed",
)
"""Fields that mean the same in both requests."""
CLIENT_NAMES = {
    "response_format": "output_config.format",
}
"""What /v1/messages calls the fields of a chat that it names otherwise."""
CHOICES = {"auto": "auto", "any": "required", "none": "none"}


def chat_of(fields: MessageFields) -> Chat:
    """Return the request for a chat. Raise ApiError 400 for an answer begun by the
    client, and where nobody says anything.
    """
    if fields.messages[-1].role == "assistant":
        raise ApiError(
            400,
            say(
                "The last message is the assistant's; an answer cannot be begun for "
                "it. End with a message of the user.",
                "最后一条消息来自助手；不能替它写开头。请以用户消息结尾。",
            ),
            param="messages",
        )
    messages = list[dict[str, Any]]()
    if fields.system:
        messages.append({"role": "system", "content": _joined(fields.system)})
    for turn in fields.messages:
        messages += _messages(turn)
    if not messages:
        raise ApiError(
            400,
            say("messages say nothing.", "messages 中没有内容。"),
            param="messages",
        )
    body = {name: getattr(fields, name) for name in SAME}
    body["messages"] = messages
    if fields.output_config is not None and fields.output_config.format is not None:
        schema = {"name": "answer", "schema": fields.output_config.format.schema_}
        body["response_format"] = {"type": "json_schema", "json_schema": schema}
    if fields.tools:
        body["tools"] = [
            {
                "type": "function",
                "function": {
                    "name": tool.name,
                    "description": tool.description,
                    "parameters": tool.input_schema,
                    "strict": tool.strict,
                },
            }
            for tool in fields.tools
        ]
    choice = fields.tool_choice
    if isinstance(choice, ToolChoice):
        named = {"name": choice.name}
        body["tool_choice"] = {"type": "function", "function": named}
    elif choice is not None:
        body["tool_choice"] = CHOICES[choice.type]
    return Chat.model_validate(body)


def _messages(turn: MessageTurn) -> list[dict[str, Any]]:
    """Return the messages of one turn: the results of tools, then what was said, with
    the calls that were made.
    """
    results = list[dict[str, Any]]()
    content = list[dict[str, Any]]()
    calls = list[dict[str, Any]]()
    for block in turn.content:
        if isinstance(block, TextBlock):
            content.append({"type": "text", "text": block.text})
        elif isinstance(block, ImageBlock):
            content.append({"type": "image_url", "image_url": {"url": _url(block)}})
        elif isinstance(block, ToolResultBlock):
            results.append(_result(block))
        elif isinstance(block, ToolUseBlock):
            arguments = json.dumps(block.input, ensure_ascii=False)
            called = {"name": block.name, "arguments": arguments}
            calls.append({"id": block.id, "type": "function", "function": called})
    if not content and not calls:
        return results
    message: dict[str, Any] = {"role": turn.role, "content": content or None}
    if calls:
        message["tool_calls"] = calls
    return [*results, message]


def _result(block: ToolResultBlock) -> dict[str, Any]:
    text = _joined(block.content or ())
    return {
        "role": "tool",
        "tool_call_id": block.tool_use_id,
        "content": f"Error: {text}" if block.is_error else text,
    }


def _joined(texts: Sequence[TextBlock]) -> str:
    return "\n\n".join(block.text for block in texts)


def _url(block: ImageBlock) -> str:
    source = block.source
    if isinstance(source, Base64Source):
        return f"data:{source.media_type};base64,{source.data}"
    return source.url
