"""A conversation as a request to one model: its pictures, its tools, the length of the
answer.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from miaobi.core.errors import BadInput, Unsupported
from miaobi.core.language import say
from miaobi.core.requests import TextRequest
from miaobi.engines.model import Model
from miaobi.serve.errors import ApiError
from miaobi.serve.settings import Limits
from miaobi.serve.text.fields import Chat, ImagePart, plain, within
from miaobi.serve.text.formats import schema_of
from miaobi.serve.text.tools import Kit, as_written, with_described_tools

DEFAULT_LENGTH = 4096
"""Tokens of an answer without max_tokens, where the context holds as many."""


def controls_of(fields: Chat, limits: Limits) -> dict[str, Any]:
    """Return the settings of a request, under miaobi's names. Raise ApiError or BadInput."""
    controls = fields.controls(limits)
    schema = schema_of(fields.response_format, limits)
    within("messages", len(fields.messages), limits.messages)
    if fields.most is not None:
        within("max_tokens", fields.most, limits.max_tokens)
        controls["max_new_tokens"] = fields.most
    if fields.top_count is not None:
        controls["logprobs"] = fields.top_count
    if schema is not None:
        controls["json_schema"] = schema
    if fields.continues:
        controls["continue_final_message"] = True
    return controls


def request_of(
    model: Model,
    fields: Chat,
    kit: Kit,
    controls: Mapping[str, Any],
    limits: Limits,
) -> TextRequest:
    """Return the request for `model`. Raise Unsupported, BadInput or ApiError.

    Args:
        model: the opened model.
        fields: of the HTTP request.
        kit: its tools.
        controls: its settings, under miaobi's names.
        limits: of this server.
    """
    offered = model.engine.abilities.controls
    pictures = [
        part.image_url.url
        for message in fields.messages
        if isinstance(message.content, list)
        for part in message.content
        if isinstance(part, ImagePart)
    ]
    extra: dict[str, Any] = {}
    if fields.reasoning_effort is not None and model.engine.abilities.reasons:
        raise Unsupported(
            say(
                f"{model.name} reasons as its template says; how much cannot be set here.",
                f"{model.name} 按其模板进行推理；此处不能设定推理程度。",
            ),
            say("Leave reasoning_effort out.", "请去掉 reasoning_effort。"),
            field="reasoning_effort",
        )
    speaks_of_tools = not kit.tools or "tools" in offered
    if not speaks_of_tools and kit.schema is None:
        raise Unsupported(
            say(
                f"{model.name} was not trained to use tools: its chat template knows none.",
                f"{model.name} 的对话模板不支持工具。",
            ),
            say(
                "Demand a call (tool_choice: required), or choose a model that uses tools.",
                "请要求调用（tool_choice: required），或选用支持工具的模型。",
            ),
            field="tools",
        )
    if kit.tools and speaks_of_tools:
        extra["tools"] = kit.tools
    if kit.schema is not None:
        extra["json_schema"] = kit.schema
    schema = kit.schema or controls.get("json_schema")
    if schema is not None:
        _check_schema(model, schema)
    if pictures and "image" not in offered:
        raise Unsupported(
            say(f"{model.name} reads no pictures.", f"{model.name} 不能读取图片。"),
            say("Send text only.", "请只发送文本。"),
            field="messages",
        )
    if pictures or ("image" in offered and not model.chats):
        return _about_a_picture(model, fields, pictures, {**controls, **extra}, limits)
    if not model.chats:
        raise Unsupported(
            say(
                f"{model.name} has no chat template, so it cannot answer messages.",
                f"{model.name} 没有对话模板，无法回答消息。",
            ),
            say(
                "Give it a prompt to go on with: completions.create(prompt=...).",
                "请给出要续写的 prompt：completions.create(prompt=...)。",
            ),
        )
    length = {
        "max_new_tokens": min(DEFAULT_LENGTH, limits.max_tokens, model.context_length)
    }
    messages = [plain(message) for message in fields.messages]
    if not speaks_of_tools:
        messages = with_described_tools(messages, kit)
    request: TextRequest = model.request(
        messages,
        **{**length, **controls, **extra},
    )
    return request


def _check_schema(model: Model, schema: Mapping[str, Any]) -> None:
    """Raise what the engine says of a schema, in terms of what the client wrote."""
    try:
        model.engine.abilities.check("json_schema", schema)
    except (Unsupported, BadInput) as error:
        raise as_written(error) from None


def _about_a_picture(
    model: Model,
    fields: Chat,
    pictures: list[str],
    controls: Mapping[str, Any],
    limits: Limits,
) -> TextRequest:
    """Return the request for a classifier, a detector or a captioner: the one picture,
    and the text of the last message.
    """
    if len(pictures) != 1:
        raise ApiError(
            400,
            say(
                f"{model.name} is asked about one picture; there are {len(pictures)}.",
                f"{model.name} 需要一张图片，收到 {len(pictures)} 张。",
            ),
            param="messages",
        )
    content = fields.messages[-1].content
    text = (
        content
        if isinstance(content, str)
        else "".join(
            part.text for part in content or () if not isinstance(part, ImagePart)
        )
    )
    pixels = _pixels_of(pictures[0], limits)
    request: TextRequest = model.request(text.strip() or None, image=pixels, **controls)
    return request


def _pixels_of(url: str, limits: Limits) -> np.ndarray:
    """Return a data: URL's picture, uint8 [H, W, 3]. Raises ApiError 400 or BadInput."""
    from miaobi.serve.image.incoming import of_data_url, read

    return read(of_data_url(url, "messages"), "image_url", limits.pixels).pixels
