"""From a record to what a language model is trained on from scratch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from miaobi.core.language import say
from miaobi.data.text.documents import Document, Message
from miaobi.data.text.shapes import layouts, preferences
from miaobi.data.text.shapes.calls import written
from miaobi.data.text.shapes.record import Record, Unusable, text_of

ONLY_CHAT = ("reasoning_content", "name")
"""Keys of messages that stand in no dialogue of words alone."""


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
        return Document(text_of(record, "text"), meta={**meta, "shape": "text"})
    record = Record.of(record)
    shape = layouts.shape_of(record, text_column)
    document = _document(record, shape, text_column, {**meta, "shape": shape})
    return replace(document, unused=frozenset(record.unused()))


def _document(
    record: Record, shape: str, text_column: str | None, meta: Mapping[str, Any]
) -> Document:
    if shape == "text":
        key = text_column or layouts.text_key(record) or "text"
        return Document(text_of(record[key], key), meta=meta)
    if shape == "prompt" and is_plain_prompt(record):
        return _prompt_and_completion(record, meta)
    if shape == "preference":
        return _preference(record, meta)
    only = ""
    if shape == "thumbs":
        record[layouts.thumb_key(record)]  # is used by the task
        only = "preference"
    messages, tools = layouts.turns_and_tools(record)
    if not only and any("weight" in message for message in messages):
        only = "chat"
    document = _dialogue(messages, meta, only)
    return replace(document, only_chat=_only_chat(messages, tools))


def _only_chat(messages: Sequence[Mapping[str, Any]], tools: Any) -> frozenset[str]:
    """Return the keys that a dialogue of words alone does not have."""
    keys = {
        f"messages[].{key}"
        for key in ONLY_CHAT
        if any(key in message for message in messages)
    }
    return frozenset({*keys, "tools"} if tools else keys)


def check_not_judged(document: Document) -> None:
    """Raise Unusable for answers that must not all be learned as good ones."""
    if document.only == "preference":
        raise Unusable(
            say(
                "answers that people judged: a bad one must not be learned as a good one.",
                "这是带评价的回答：差的回答不能当作好的来学。",
            ),
            "miaobi finetune --task preference",
        )


def is_plain_prompt(record: Record) -> bool:
    """Return whether prompt and completion are texts, and all that there is to read."""
    texts = (record.peek(key) for key in ("prompt", "completion"))
    beside = ("history", "tools", "functions", *layouts.SYSTEMS, *layouts.MEDIA)
    return all(isinstance(text, str) for text in texts) and not record.first(
        (*beside, *layouts.CONTEXTS["prompt"])
    )


def _prompt_and_completion(record: Record, meta: Mapping[str, Any]) -> Document:
    completion = text_of(record["completion"], "completion")
    prompt = text_of(record["prompt"], "prompt")
    return Document(completion, prompt, meta=meta)


def _preference(record: Record, meta: Mapping[str, Any]) -> Document:
    """Return the answer that was chosen, for people to read; it is no text to train on."""
    pair = preferences.pair(record)
    if pair is None:
        raise Unusable(say("no prompt.", "缺少 prompt。"), preferences.EXAMPLE)
    question = pair.question
    if isinstance(question, str):
        question = [{"role": "user", "content": question}]
    answer = {"role": "assistant", "content": pair.chosen}
    return _dialogue([*question, answer], meta, only="preference")


def _dialogue(
    messages: Sequence[Mapping[str, Any]], meta: Mapping[str, Any], only: str
) -> Document:
    """Return a conversation, the calls of the assistant as Hermes and Qwen2.5 write them."""
    turns = list[Message]()
    for message in messages:
        parts = [message["content"], written(message.get("tool_calls", ()))]
        turns.append(Message(message["role"], "\n".join(filter(None, parts))))
    return Document(messages=tuple(turns), meta=meta, only=only)
