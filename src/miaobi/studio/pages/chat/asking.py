"""What is asked of the server's API for the next answer of a conversation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from miaobi.serve.conversations import texts_of
from miaobi.serve.records import Turn
from miaobi.serve.responses.items import item_id, messages_of, output_text
from miaobi.studio.pages.chat.sheet import Sheet
from miaobi.studio.pages.chat.talkers import Talker

USAGE = {"include_usage": True, "continuous_usage_stats": True}
Items = Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class Question:
    """A request to the API."""

    path: str
    body: dict[str, Any]


def question(
    talker: Talker, sheet: Sheet, before: Items, said: Items, written: str = ""
) -> Question:
    """Return the request for an answer.

    Args:
        talker: the model that answers
        sheet: the settings
        before: the items of the turns before
        said: the items that are to be answered
        written: the beginning of the answer, to go on with
    """
    body: dict[str, Any] = {"model": talker.name, "stream_options": USAGE}
    if not talker.takes_messages:
        text = texts_of(said)[0] if texts_of(said) else ""
        body |= {**sheet.changed, "prompt": text + written}
        return Question("/v1/completions", body)
    settings = sheet.fields if talker.chats else sheet.changed
    messages = messages_of([*before, *said])
    system = sheet.values["system"].strip()
    if system:
        messages.insert(0, {"role": "system", "content": system})
    body |= settings
    if written:
        messages.append({"role": "assistant", "content": written})
        body |= {"continue_final_message": True, "add_generation_prompt": False}
    body["messages"] = messages
    return Question("/v1/chat/completions", body)


def items_of(turns: Sequence[Turn]) -> list[dict[str, Any]]:
    """Return what was said and answered in these turns, in order."""
    return [item for turn in turns for item in [*turn.input, *turn.output]]


def text_of(turn: Turn) -> str:
    """Return what the model wrote in a turn."""
    messages = [item for item in turn.output if item["type"] == "message"]
    return "\n".join(texts_of(messages))


def calls_of(turn: Turn) -> list[dict[str, Any]]:
    """Return the calls of tools in an answer."""
    return [item for item in turn.output if item["type"] == "function_call"]


def answer_items(text: str, calls: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return an answer as the items of a turn: its text, and its calls in the shape of
    /v1/chat/completions.
    """
    items = list[dict[str, Any]]()
    if text or not calls:
        items.append(
            {
                "id": item_id("msg"),
                "type": "message",
                "status": "completed",
                "role": "assistant",
                "content": [output_text(text)],
            }
        )
    for call in calls:
        items.append(
            {
                "id": item_id("fc"),
                "type": "function_call",
                "status": "completed",
                "call_id": call["id"],
                "name": call["function"]["name"],
                "arguments": call["function"]["arguments"],
            }
        )
    return items


def result_item(call_id: str, output: str) -> dict[str, Any]:
    """Return what a call came to, as a person typed it."""
    return {
        "id": item_id("fco"),
        "type": "function_call_output",
        "status": "completed",
        "call_id": call_id,
        "output": output,
    }


def message_item(parts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return what a person said."""
    return {
        "id": item_id("msg"),
        "type": "message",
        "status": "completed",
        "role": "user",
        "content": list(parts),
    }
