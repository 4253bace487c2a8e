"""Turns of any layout as messages in OpenAI's form.

    {"role": "system" | "user" | "assistant" | "tool", "content": text}

and, where there is one: "name", "tool_call_id"; of the assistant's also "tool_calls",
"reasoning_content", and "weight": 0 for a turn that is read and not learned.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from miaobi.core.errors import nearest
from miaobi.core.language import say
from miaobi.data.text.shapes.calls import call_of, calls_of_text, is_call
from miaobi.data.text.shapes.record import Record, Unusable, text_of

Message = dict[str, Any]

CALLING = "calling"
"""The role of a turn that is the assistant's call, not its words."""
ROLES = {
    "human": "user",
    "user": "user",
    "prompter": "user",
    "gpt": "assistant",
    "assistant": "assistant",
    "chatgpt": "assistant",
    "bing": "assistant",
    "bard": "assistant",
    "claude": "assistant",
    "bot": "assistant",
    "ai": "assistant",
    "model": "assistant",
    "system": "system",
    "developer": "system",
    "tool": "tool",
    "function": "tool",
    "observation": "tool",
    "tool_response": "tool",
    "function_response": "tool",
    "ipython": "tool",
    "function_call": CALLING,
    "tool_call": CALLING,
}
ROLE_KEYS = ("role", "from")
CONTENT_KEYS = ("content", "value")
WEIGHT_KEYS = ("weight", "loss", "loss_scale", "train")
"""Whether a turn is learned: OpenAI's name of it, ms-swift's, and Axolotl's."""
REASONING_KEYS = ("reasoning_content", "reasoning", "thinking")
WEIGHTS = {True: 1, False: 0, "true": 1, "false": 0, "1": 1, "0": 0}
PLAIN_KEYS = ("name", "tool_call_id")
EXAMPLE = '{"role": "user", "content": "..."} or {"from": "human", "value": "..."}'


def messages_of(turns: Sequence[Any]) -> list[Message]:
    """Return turns as messages, the calls of a turn with it. Raises Unusable.

    Args:
        turns: {"role", "content"} (OpenAI), {"from", "value"} (ShareGPT), or pairs
            {"human", "assistant"} (ms-swift).
    """
    if not turns:
        raise Unusable(
            say("the conversation is empty.", "对话为空。"),
            say("Leave the record out.", "请去掉这条记录。"),
        )
    messages = list[Message]()
    for turn in turns:
        for message in _messages_of_turn(turn):
            if messages and _continues(messages[-1], message):
                messages[-1] = _joined(messages[-1], message)
            else:
                messages.append(message)
    for message in messages:
        message.pop("continues", None)
    return messages


def _messages_of_turn(turn: Any) -> list[Message]:
    """Return the message of a turn, or those of a pair of question and answer."""
    if isinstance(turn, Record) and not turn.first(ROLE_KEYS):
        roles = [key for key in turn if key in ROLES]
        if len(roles) > 1:
            return [
                {"role": ROLES[role], "content": text_of(turn[role], role)}
                for role in roles
            ]
    return [message_of(turn)]


def _continues(before: Message, message: Message) -> bool:
    """Return whether a call that has a turn of its own belongs to the turn before it."""
    return (
        message.get("continues", False)
        and before["role"] == "assistant"
        and before.get("weight") == message.get("weight")
    )


def _joined(before: Message, message: Message) -> Message:
    calls = [*before.get("tool_calls", []), *message["tool_calls"]]
    return {**before, "tool_calls": calls}


def message_of(turn: Any) -> Message:
    """Return one turn as a message. Raises Unusable."""
    record = turn if isinstance(turn, Mapping) else {}
    record = Record.of(record)
    role = _role_of(record)
    if role == CALLING or (role == "tool" and _is_call_of_sharegpt(record)):
        return _calling(record)
    calls = _calls(record) if role == "assistant" else []
    message: Message = {
        "role": role,
        "content": _content(record, may_be_empty=role == "tool" or bool(calls)),
    }
    if calls:
        message["tool_calls"] = calls
    for key in PLAIN_KEYS:
        if record.holds(key):
            message[key] = record[key]
    if role == "assistant":
        _add_reasoning(message, record)
    _add_weight(message, record)
    return message


def _role_of(record: Record) -> str:
    key = record.first(ROLE_KEYS)
    role = record[key] if key else None
    role_name = ROLES.get(role.strip().lower()) if isinstance(role, str) else None
    if role_name is None:
        raise Unusable(
            say(
                f"a turn has the role {role!r}. ",
                f"对话中出现角色 {role!r}。",
            )
            + nearest(str(role), ROLES),
            say(f"Write {EXAMPLE}.", f"请写成 {EXAMPLE}。"),
        )
    return role_name


def _is_call_of_sharegpt(record: Record) -> bool:
    """Return whether a turn "from" a function is the assistant's call of it.

    LLaMA-Factory's documents name it so; its answer is then an observation. OpenAI's
    role "function" is the answer.
    """
    is_function = record.peek("from") == "function"
    return is_function and is_call(record.peek("value"))


def _calling(record: Record) -> Message:
    message: Message = {
        "role": "assistant",
        "content": "",
        "tool_calls": calls_of_text(_content(record)),
        "continues": True,
    }
    _add_weight(message, record)
    return message


def _calls(record: Record) -> list[dict[str, Any]]:
    """Return the calls of an assistant's turn, also OpenAI's first form of them."""
    calls = record["tool_calls"] if record.holds("tool_calls") else []
    if isinstance(calls, str):
        return calls_of_text(calls)
    if not isinstance(calls, list):
        calls = [calls]
    if record.holds("function_call"):
        calls = [*calls, record["function_call"]]
    return [call_of(call) for call in calls]


def _content(record: Record, may_be_empty: bool = False) -> str:
    """Return the text of a turn, the parts of OpenAI's list of contents joined."""
    key = next((key for key in CONTENT_KEYS if key in record), "content")
    value = record.get(key)
    if value is None and may_be_empty:
        return ""
    if isinstance(value, list) and value:
        return "".join(_part(part) for part in value)
    if isinstance(value, Mapping) and may_be_empty:
        return json.dumps(value, ensure_ascii=False)
    return text_of(value, key)


def _part(part: Any) -> str:
    """Return the text of a part. Raises Unusable for a picture or sound."""
    if isinstance(part, str):
        return text_of(part, "content")
    kind = part.get("type") if isinstance(part, Mapping) else None
    if kind in ("text", "input_text", "output_text"):
        return text_of(part.get("text"), "content")
    raise unreadable_part(str(kind))


def unreadable_part(kind: str) -> Unusable:
    """Return the error of a picture, sound or video in a conversation."""
    return Unusable(
        say(
            f"the conversation holds {kind}, which a model of text cannot read.",
            f"对话中含有 {kind}，文本模型无法读取。",
        ),
        say(
            "Leave the record out; pictures with captions are learned with --task image-captioning.",
            "请去掉这条记录；图片与说明可用 --task image-captioning 学习。",
        ),
    )


def _add_reasoning(message: Message, record: Record) -> None:
    """Put what the assistant thought beside what it says."""
    key = record.first(REASONING_KEYS)
    if key:
        message["reasoning_content"] = text_of(record[key], key)


def _add_weight(message: Message, record: Record) -> None:
    """Mark a turn that is read and not learned.

    What others say is never learned, so that a weight of 0 there changes nothing; any
    other there stays unused.
    """
    for key in WEIGHT_KEYS:
        if record.peek(key) is None:
            continue
        weight = _weight(record.peek(key), key)
        if message["role"] == "assistant" or weight == 0:
            record[key]  # is used
        if message["role"] == "assistant" and weight == 0:
            message["weight"] = 0


def _weight(value: Any, key: str) -> int:
    """Return 0 or 1. Raises Unusable for any other weight."""
    word = value.strip().lower() if isinstance(value, str) else value
    weight = WEIGHTS.get(word) if isinstance(word, str | int | float) else None
    if weight is None:
        raise Unusable(
            say(
                f"the {key} of a turn is {value!r:.20}.",
                f"某一轮的 {key} 为 {value!r:.20}。",
            ),
            say(
                "Write 1 for a turn to be learned, 0 for one that is only read.",
                "要学习的轮次写 1，只读的写 0。",
            ),
        )
    return weight
