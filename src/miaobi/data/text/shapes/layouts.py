"""From a record to a conversation, whichever layout it is written in; or to a text.

    messages        OpenAI: {"messages": [{"role", "content"}, ...]}
    sharegpt        {"conversations": [{"from", "value"}, ...]}, and its relatives
    alpaca          {"instruction", "input", "output"}
    prompt          {"prompt", "completion"}
    QUESTION/ANSWER {"query", "response"}, {"question", "answer"}, Dolly's
                    {"instruction", "context", "response"}, ...
    text            {"text"}, or the only text that a record has
    preference      a pair of answers (shapes/preferences.py)
    thumbs          an answer that people liked or not (shapes/preferences.py)

Beside turns of any layout may stand `system`, `history`, `tools` or `functions`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from miaobi.core.errors import nearest
from miaobi.core.language import in_each, say
from miaobi.data.text.shapes.calls import tools_of
from miaobi.data.text.shapes.record import (
    Record,
    Unusable,
    decoded,
    is_encoded_list,
    text_of,
)
from miaobi.data.text.shapes.turns import Message, messages_of, unreadable_part

CONVERSATIONS = ("messages", "conversations", "conversation", "dialogue")
"""Keys that hold turns."""
QUESTIONS = ("instruction", "prompt", "query", "question", "input")
ANSWERS = ("output", "completion", "response", "answer")
CONTEXTS = {
    "instruction": ("input", "context"),
    "prompt": ("input", "query"),
    "query": (),
    "question": ("context",),
    "input": (),
}
"""Keys that go on with the question, by the key of its beginning."""
SYSTEMS = ("system", "system_prompt")
MEDIA = ("images", "image", "videos", "video", "audios", "audio")
CHOSEN = ("chosen", "preferred_output", "chosen_response")
REJECTED = (
    "rejected",
    "non_preferred_output",
    "rejected_response",
    "rejected_messages",
)
THUMBS = ("kto_tag", "label")
LIKED: dict[Any, bool] = {
    True: True,
    False: False,
    -1: False,
    **dict.fromkeys(("true", "1", "1.0", "yes", "y", "up", "good"), True),
    **dict.fromkeys(("like", "liked", "positive", "desirable", "chosen"), True),
    **dict.fromkeys(("thumbs_up", "thumbs up", "👍", "赞", "好", "好评", "是"), True),
    **dict.fromkeys(("false", "0", "0.0", "-1", "-1.0", "no", "n", "down"), False),
    **dict.fromkeys(("bad", "dislike", "disliked", "negative", "undesirable"), False),
    **dict.fromkeys(("rejected", "thumbs_down", "thumbs down", "👎"), False),
    **dict.fromkeys(("踩", "差", "差评", "否"), False),
}
"""What people write for a thumb up or down."""


class Conversation(NamedTuple):
    """Who said what, and the functions that the assistant may call."""

    messages: list[Message]
    tools: list[Any]


def shape_of(record: Mapping[str, Any], text_column: str | None = None) -> str:
    """Return the name of the layout of a record, as in this module's first lines.

    Args:
        record: no key of it is used by this
        text_column: the key that holds the text, where the keys do not show it

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
    record = Record.of(record)
    if record.first(REJECTED):
        return "preference"
    shape = _shape_of_conversation(record)
    if shape and thumb_key(record):
        return "thumbs"
    if shape:
        return shape
    if text_key(record) is not None:
        return "text"
    columns = ", ".join(map(str, record)) or say("none", "无")
    raise Unusable(
        in_each(
            lambda: say(
                f"no text found; the columns are: {columns}.",
                f"找不到文本；现有的列：{columns}。",
            )
        ),
        say(
            "Name the column that holds the text with text_column (in a recipe: data.text_column).",
            "请用 text_column 指定文本所在的列（配方中写 data.text_column）。",
        ),
    )


def _shape_of_conversation(record: Record) -> str:
    """Return the layout of a record's turns; "" where it has none."""
    key = turns_key(record)
    if key:
        return "messages" if key == "messages" else "sharegpt"
    keys = question_and_answer(record)
    if keys is None:
        return ""
    names = {("instruction", "output"): "alpaca", ("prompt", "completion"): "prompt"}
    return names.get(keys, "/".join(keys))


def turns_key(record: Record) -> str:
    """Return the key that holds turns: a list, or the text of one; "" for none."""
    for key in CONVERSATIONS:
        value = record.peek(key)
        if isinstance(value, list) or is_encoded_list(value):
            return key
    return ""


def question_and_answer(record: Record) -> tuple[str, str] | None:
    """Return the keys of a question and its answer; None where one is missing."""
    question = next((key for key in QUESTIONS if key in record), "")
    answer = next((key for key in ANSWERS if key in record), "")
    return (question, answer) if question and answer else None


def text_key(record: Record) -> str | None:
    """Return "text", or the only key whose value is a text."""
    if record.peek("text") is not None:
        return "text"
    keys = [key for key in record if isinstance(record.peek(key), str)]
    return keys[0] if len(keys) == 1 else None


def thumb_key(record: Record) -> str:
    """Return the key that holds a thumb; "" for none."""
    for key in THUMBS:
        if is_thumb(record.peek(key)):
            return key
    return ""


def is_thumb(value: Any) -> bool:
    return thumb_of(value) is not None


def thumb_of(value: Any) -> bool | None:
    """Return whether a thumb is up; None for what is no thumb."""
    if isinstance(value, str):
        return LIKED.get(value.strip().lower())
    return LIKED.get(value) if isinstance(value, bool | int | float) else None


def conversation(record: Record) -> Conversation:
    """Return the conversation in a record, its system's turn first.

    Raises Unusable for a record without turns, for what cannot be read (a picture), and
    for answers that must not be taught as they are: preferences and thumbs.
    """
    record = Record.of(record)
    shape = shape_of(record)
    if shape in ("preference", "thumbs"):
        raise judgement_error(record, shape)
    if shape == "text":
        raise Unusable(
            say("a plain text has no turns.", "纯文本没有对话轮次。"),
            '{"messages": [{"role": "user", "content": "..."}, {"role": "assistant", "content": "..."}]}',
        )
    return turns_and_tools(record)


def turns_and_tools(record: Record) -> Conversation:
    """Return the conversation of a record whose layout has turns, whatever people
    thought of it.
    """
    check_no_media(record)
    messages = with_system(record, _turns(record))
    return Conversation(messages, tools_of(record))


def _turns(record: Record) -> list[Message]:
    key = turns_key(record)
    if key:
        return messages_of(record.items_of(key))
    return [*history(record), *_exchange(record)]


def judgement_error(record: Record, shape: str) -> Unusable:
    """Return the error of answers that people judged, where answers are only taught."""
    if shape == "thumbs":
        key = thumb_key(record)
        return Unusable(
            say(
                f"{key} is {record.peek(key)!r}: a thumb; a bad answer must not be taught as a good one.",
                f"{key} 为 {record.peek(key)!r}：这是评价；差的回答不能当作好的来学。",
            ),
            "--task preference --head.loss kto",
        )
    key = record.first(REJECTED)
    return Unusable(
        say(
            f"{key} holds an answer that people rejected: this is a preference.",
            f"{key} 是被否定的回答：这是偏好数据。",
        ),
        "--task preference",
    )


def check_no_media(record: Record) -> None:
    """Raise Unusable for pictures, sounds or videos beside the turns."""
    key = record.first(MEDIA)
    if key:
        raise unreadable_part(key)


def with_system(record: Record, messages: list[Message]) -> list[Message]:
    """Return messages after the system's turn of a record that has one beside them.

    Raises Unusable for two that differ.
    """
    key = record.first(SYSTEMS)
    if not key:
        return messages
    system: Message = {"role": "system", "content": text_of(record[key], key)}
    first = messages[0] if messages else None
    if first is None or first["role"] != "system":
        return [system, *messages]
    if first["content"] == system["content"]:
        return messages
    raise Unusable(
        say(
            f"{key} is {system['content']!r:.40}, and the first turn, also the system's, another.",
            f"{key} 为 {system['content']!r:.40}，与首轮的系统消息不同。",
        ),
        say("Leave one of them out.", "请去掉其中之一。"),
    )


def history(record: Record) -> list[Message]:
    """Return the earlier turns of a record: pairs of question and answer, or turns."""
    if not record.holds("history"):
        return []
    items = record.items_of("history")
    if all(isinstance(item, Mapping) for item in items):
        return messages_of(items)
    messages = list[Message]()
    for item in items:
        if not isinstance(item, list | tuple) or len(item) != 2:
            raise Unusable(
                say(
                    f"history holds {item!r:.40}, not a question and its answer.",
                    f"history 中有 {item!r:.40}，不是一问一答。",
                ),
                '"history": [["...", "..."]]',
            )
        question, answer = item
        messages.append({"role": "user", "content": text_of(question, "history")})
        messages.append({"role": "assistant", "content": text_of(answer, "history")})
    return messages


def question_text(record: Record, key: str) -> str:
    """Return a question with what goes on with it (Alpaca's `input`)."""
    parts = [text_of(record[key], key)]
    context = record.first(CONTEXTS[key])
    if context:
        parts.append(text_of(record[context], context))
    return "\n\n".join(part for part in parts if part)


def _exchange(record: Record) -> list[Message]:
    keys = question_and_answer(record)
    assert keys is not None
    question, answer = keys
    messages: list[Message]
    if isinstance(record.peek(question), list) or is_encoded_list(
        record.peek(question)
    ):
        messages = messages_of(record.items_of(question))
    else:
        text = question_text(record, question)
        messages = [{"role": "user", "content": text}]
    return [*messages, *answer_of(record, answer)]


def answer_of(record: Record, key: str) -> list[Message]:
    """Return an answer as messages: a text, or the turns of a conversational record.

    Of several texts the first is the answer, and the others are left over.
    """
    value = record[key]
    if is_encoded_list(value):
        value = decoded(value, key)
    if isinstance(value, Mapping):
        value = [value]
    if not isinstance(value, list) or not value:
        return [{"role": "assistant", "content": text_of(value, key)}]
    if isinstance(value[0], Mapping):
        return messages_of(value)
    if len(value) > 1:
        record.leave_over(f"{key}[1:]")
    return [{"role": "assistant", "content": text_of(value[0], key)}]
