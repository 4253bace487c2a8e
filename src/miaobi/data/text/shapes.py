"""Recognising what a record is by its keys: text, prompt/completion, Alpaca, ShareGPT,
or OpenAI messages.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from miaobi.core.errors import nearest
from miaobi.core.language import say
from miaobi.data.text.documents import Document, Message

ROLES = {
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "assistant": "assistant",
    "chatgpt": "assistant",
    "bot": "assistant",
    "model": "assistant",
    "system": "system",
    "tool": "tool",
    "function": "tool",
    "observation": "tool",
}


class Unusable(Exception):
    """A record that holds nothing to learn from: what is wrong, and the remedy."""

    def __init__(self, what: str, remedy: str) -> None:
        super().__init__(what)
        self.what = what
        self.remedy = remedy


def unseen(label: str, labels: Iterable[str]) -> Unusable:
    """Return the error of an example whose label training has none of."""
    return Unusable(
        say(
            f"label {label!r} does not occur in the training data.",
            f"标签 {label!r} 未在训练数据中出现。",
        ),
        nearest(label, labels),
    )


def shape_of(record: Mapping[str, Any], text_column: str | None = None) -> str:
    """Return "text", "prompt", "alpaca", "sharegpt" or "messages".

    Raises Unusable when the keys fit none of them.
    """
    if text_column is not None:
        if text_column not in record:
            raise Unusable(
                say(
                    f"there is no column {text_column!r}.",
                    f"没有名为 {text_column!r} 的列。",
                ),
                nearest(text_column, map(str, record)),
            )
        return "text"
    if isinstance(record.get("messages"), list):
        return "messages"
    if isinstance(_turns(record), list):
        return "sharegpt"
    if "instruction" in record and "output" in record:
        return "alpaca"
    if "prompt" in record and "completion" in record:
        return "prompt"
    if _text_key(record) is not None:
        return "text"
    columns = ", ".join(map(str, record)) or say("none", "无")
    raise Unusable(
        say(
            f"no text found; the columns are: {columns}.",
            f"找不到文本；现有的列：{columns}。",
        ),
        say(
            "Name the column that holds the text with text_column (in a recipe: data.text_column).",
            "请用 text_column 指定文本所在的列（配方中写 data.text_column）。",
        ),
    )


def to_document(
    record: Any, text_column: str | None, meta: Mapping[str, Any]
) -> Document:
    """Return the document in one record. A bare string is plain text.

    Args:
        record: a mapping or a string
        text_column: the key that holds the text, where the keys do not show it
        meta: file and line

    Raises Unusable.
    """
    if isinstance(record, str) and text_column is None:
        return Document(_text(record, "text"), meta={**meta, "shape": "text"})
    if not isinstance(record, Mapping):
        raise Unusable(
            say(
                f"a record is {record!r:.40}, not an object.",
                f"记录为 {record!r:.40}，不是对象。",
            ),
            say("Write one JSON object per record.", "每条记录请写成一个 JSON 对象。"),
        )
    shape = shape_of(record, text_column)
    meta = {**meta, "shape": shape}
    if shape == "text":
        key = text_column or _text_key(record) or "text"
        return Document(_text(record[key], key), meta=meta)
    if shape == "prompt":
        completion = _text(record["completion"], "completion")
        prompt = _text(record["prompt"], "prompt")
        return Document(completion, prompt, meta=meta)
    if shape == "alpaca":
        messages = [*_system(record), *_alpaca(record)]
    elif shape == "sharegpt":
        messages = [*_system(record), *_messages(_turns(record))]
    else:
        messages = _messages(record["messages"])
    return Document(messages=tuple(messages), meta=meta)


def _turns(record: Mapping[str, Any]) -> Any:
    """The turns of a ShareGPT record; None where it has none."""
    return record.get("conversations", record.get("conversation"))


def _alpaca(record: Mapping[str, Any]) -> list[Message]:
    instruction = _text(record["instruction"], "instruction")
    context = _text(record.get("input") or "", "input")
    question = "\n\n".join(filter(None, [instruction, context]))
    answer = _text(record["output"], "output")
    return [Message("user", question), Message("assistant", answer)]


def _text_key(record: Mapping[str, Any]) -> str | None:
    """ "text", or the only key whose value is a string."""
    if isinstance(record.get("text"), str):
        return "text"
    strings = [key for key, value in record.items() if isinstance(value, str)]
    return strings[0] if len(strings) == 1 else None


def _text(value: Any, key: str) -> str:
    if not isinstance(value, str):
        raise Unusable(
            say(
                f"{key} is {value!r:.40}, not text.",
                f"{key} 的值为 {value!r:.40}，不是文本。",
            ),
            say(
                "Put a text there, or leave the record out.",
                "请填入文本，或去掉这条记录。",
            ),
        )
    if not value.isascii() and any("\ud800" <= char <= "\udfff" for char in value):
        raise Unusable(
            say(
                f"{key} holds half a character (a lone surrogate).",
                f"{key} 中有半个字符（孤立的代理项）。",
            ),
            say(
                "The text was cut inside an emoji or rare character; write it again.",
                "文本在表情或生僻字中间被截断，请重新生成。",
            ),
        )
    return value


def _system(record: Mapping[str, Any]) -> list[Message]:
    """The system message of a record that has one beside its turns."""
    if not record.get("system"):
        return []
    return [Message("system", _text(record["system"], "system"))]


def _messages(turns: list[Any]) -> list[Message]:
    """Turns as {"role", "content"} (OpenAI) or {"from", "value"} (ShareGPT)."""
    if not turns:
        raise Unusable(
            say("the conversation is empty.", "对话为空。"),
            say("Leave the record out.", "请去掉这条记录。"),
        )
    return [_message(turn) for turn in turns]


def _message(turn: Any) -> Message:
    role = turn.get("role", turn.get("from")) if isinstance(turn, Mapping) else None
    if not isinstance(role, str) or role not in ROLES:
        raise Unusable(
            say(
                f"a turn has the role {role!r}. {nearest(str(role), ROLES)}",
                f"对话中出现角色 {role!r}。{nearest(str(role), ROLES)}",
            ),
            say(
                'Write {"role": "user", "content": "..."} or {"from": "human", "value": "..."}.',
                '请写成 {"role": "user", "content": "..."} 或 {"from": "human", "value": "..."}。',
            ),
        )
    content = turn.get("content", turn.get("value"))
    if isinstance(content, list) and all(map(_is_text_part, content)):
        content = "".join(_text(part.get("text"), "content") for part in content)
    return Message(ROLES[role], _text(content, "content"))


def _is_text_part(part: Any) -> bool:
    """Whether a part of OpenAI's list of contents is text."""
    return isinstance(part, Mapping) and part.get("type") == "text"
