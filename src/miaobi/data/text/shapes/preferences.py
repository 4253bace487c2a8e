"""From a record to what people preferred: a pair of answers to one question, or an
answer with a thumb up or down.

A pair is written in one of these ways:

    {"prompt", "chosen", "rejected"}          texts, or turns, of the answer alone or of
                                              the whole conversation
    {"chosen", "rejected"}                    conversations; or texts with Anthropic's
                                              marks "\\n\\nHuman:" and "\\n\\nAssistant:"
    {"instruction", "input", "chosen", ...}   LLaMA-Factory's Alpaca
    {"conversations", "chosen", "rejected"}   LLaMA-Factory's ShareGPT
    {"messages", "rejected_response"}         ms-swift: the last turn was chosen
    {"query", "response", "rejected_response"}
    {"input": {"messages"}, "preferred_output", "non_preferred_output"}    OpenAI
    {"instruction", "output": [chosen, rejected]}    LLaMA-Factory's first form

Conversations are split where they part: all turns before are the question.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from miaobi.core.language import say
from miaobi.data.text.shapes import layouts
from miaobi.data.text.shapes.calls import tools_of
from miaobi.data.text.shapes.layouts import CHOSEN, REJECTED
from miaobi.data.text.shapes.record import (
    Record,
    Unusable,
    is_encoded_list,
    text_of,
)
from miaobi.data.text.shapes.turns import Message, messages_of

EXAMPLE = '{"prompt": "...", "chosen": "...", "rejected": "..."}'
THUMBS_EXAMPLE = '{"prompt": "...", "completion": "...", "label": true}'
MARKED = re.compile(r"(?:^|\n\n)(Human|Assistant):[ \n]?")
"""How Anthropic's preferences write turns in a text."""
Question = str | list[Message]
"""A text, or the turns before the answer."""


class Pair(NamedTuple):
    question: Question
    chosen: str
    rejected: str


class Thumb(NamedTuple):
    question: Question
    answer: str
    liked: bool


def pair(record: Record) -> Pair | None:
    """Return the pair in a record; None where it holds none.

    Raises Unusable for conversations that part before their last turn, for roles that
    do not fit, and for answers that are calls.
    """
    record = Record.of(record)
    if record.first(REJECTED):
        layouts.check_no_media(record)
        question, chosen, rejected = _three(record)
    elif _answers_as_list(record):
        question, chosen, rejected = _first_form(record)
    else:
        return None
    chosen = _whole(question, chosen, "chosen")
    rejected = _whole(question, rejected, "rejected")
    turns, chosen_text, rejected_text = _split_apart(chosen, rejected)
    if chosen_text.strip() == rejected_text.strip():
        raise _same()
    if not turns:
        raise Unusable(say("no prompt.", "缺少 prompt。"), EXAMPLE)
    turns = layouts.with_system(record, turns)
    _check_no_tools(record)
    return Pair(_question(record, turns), chosen_text.strip(), rejected_text.strip())


def _same() -> Unusable:
    return Unusable(
        say("chosen and rejected are the same.", "chosen 与 rejected 相同。"),
        say("Leave the record out.", "请去掉这条记录。"),
    )


def thumb(record: Record) -> Thumb | None:
    """Return the answer with a thumb in a record; None where it holds none.

    Raises Unusable for a thumb that is neither up nor down, and for answers that are
    calls.
    """
    record = Record.of(record)
    key = record.first(("kto_tag",)) or ("label" if "label" in record else "")
    has_turns = layouts.turns_key(record) or layouts.question_and_answer(record)
    if not key or record.peek(key) is None or not has_turns:
        return None
    liked = layouts.thumb_of(record[key])
    if liked is None:
        raise Unusable(
            say(f"{key} is {record[key]!r}.", f"{key} 为 {record[key]!r}。"),
            say("Write true or false.", "请写 true 或 false。"),
        )
    messages, tools = layouts.turns_and_tools(record)
    if tools:
        raise _tools_error()
    *turns, last = messages
    answer = _answer_text([last], "completion")
    if not turns:
        raise Unusable(say("no prompt.", "缺少 prompt。"), EXAMPLE)
    return Thumb(_question(record, turns), answer.strip(), liked)


def _question(record: Record, turns: list[Message]) -> Question:
    """Return the question as a text where the record has it so, and nothing else."""
    is_text = not layouts.turns_key(record) and isinstance(record.peek("prompt"), str)
    if is_text and len(turns) == 1 and not is_encoded_list(record.peek("prompt")):
        return str(turns[0]["content"]).strip()
    return turns


def _answers_as_list(record: Record) -> bool:
    """Return whether a record has its answers as LLaMA-Factory first wrote them."""
    keys = layouts.question_and_answer(record)
    if keys is None:
        return False
    answers = record.peek(keys[1])
    return (
        isinstance(answers, list)
        and len(answers) == 2
        and all(isinstance(answer, str) for answer in answers)
    )


def _first_form(record: Record) -> tuple[list[Message], Any, Any]:
    keys = layouts.question_and_answer(record)
    assert keys is not None
    question, answer = keys
    chosen, rejected = record[answer]
    text = layouts.question_text(record, question)
    asked = [*layouts.history(record), {"role": "user", "content": text}]
    return asked, _turns(chosen), _turns(rejected)


def _three(record: Record) -> tuple[list[Message], list[Message], list[Message]]:
    """Return (the question's turns, those of the chosen, those of the rejected)."""
    rejected_key = record.first(REJECTED)
    chosen_key = record.first(CHOSEN)
    rejected = _turns_under(record, rejected_key)
    if chosen_key:
        return _question_turns(record), _turns_under(record, chosen_key), rejected
    # ms-swift: the conversation ends with the chosen answer.
    key = layouts.turns_key(record)
    if key:
        whole = messages_of(record.items_of(key))
        return whole[:-1], whole[-1:], rejected
    keys = layouts.question_and_answer(record)
    if keys is None:
        raise Unusable(
            say(
                f"{rejected_key} stands alone: no answer was chosen.",
                f"只有 {rejected_key}，没有被选中的回答。",
            ),
            EXAMPLE,
        )
    return _question_turns(record), layouts.answer_of(record, keys[1]), rejected


def _question_turns(record: Record) -> list[Message]:
    """Return the turns of the question that stands beside the answers; [] for none."""
    key = layouts.turns_key(record)
    if key:
        return messages_of(record.items_of(key))
    if isinstance(record.peek("input"), Mapping):
        request = record.inside("input")
        _check_no_tools(request)
        if "parallel_tool_calls" in request:
            request["parallel_tool_calls"]  # says nothing without tools
        return messages_of(request.items_of("messages"))
    question = record.first(layouts.QUESTIONS)
    if not question:
        return layouts.history(record)
    value = record.peek(question)
    if isinstance(value, list) or is_encoded_list(value):
        turns = messages_of(record.items_of(question))
    else:
        turns = _turns(layouts.question_text(record, question).strip(), "user")
    return [*layouts.history(record), *turns]


def _turns_under(record: Record, key: str) -> list[Message]:
    """Return the answer under a key as turns."""
    value = record.peek(key)
    if isinstance(value, list) or is_encoded_list(value):
        return messages_of(record.items_of(key))
    if isinstance(value, Mapping):
        return messages_of([record.inside(key)])
    return _turns(text_of(record[key], key))


def _turns(text: str, role: str = "assistant") -> list[Message]:
    """Return a text as the turn of one, or the turns that Anthropic's marks show."""
    pieces = MARKED.split(text.strip())
    if len(pieces) > 1 and not pieces[0].strip():
        roles = {"Human": "user", "Assistant": "assistant"}
        return [
            {"role": roles[name], "content": content.strip()}
            for name, content in zip(pieces[1::2], pieces[2::2], strict=True)
            if content.strip() or name == "Human"
        ]
    return [{"role": role, "content": text}]


def _whole(
    question: Sequence[Message], answer: Sequence[Message], name: str
) -> list[Message]:
    """Return a conversation from its first turn to the answer.

    An answer may repeat the question; another that does not begin with the assistant
    (or what it called) is none. Raises Unusable.
    """
    asked = list(map(_said, question))
    answered = list(map(_said, answer))
    for start in range(len(answered) - len(asked) + 1):
        only_system = all(role == "system" for role, _ in answered[:start])
        if asked and only_system and answered[start : start + len(asked)] == asked:
            return list(answer)
    if not question or answer[0]["role"] in ("assistant", "tool"):
        return [*question, *answer]
    raise Unusable(
        say(
            f"{name} begins with another turn than the prompt: {answer[0]['content']!r:.40}",
            f"{name} 的首轮与 prompt 不同：{answer[0]['content']!r:.40}",
        ),
        say(
            "Give the answer alone, or the whole conversation.",
            "请只给出回答，或给出完整对话。",
        ),
    )


def _said(message: Message) -> tuple[str, str]:
    return message["role"], message["content"].strip()


def _split_apart(
    chosen: Sequence[Message], rejected: Sequence[Message]
) -> tuple[list[Message], str, str]:
    """Return (the turns before two conversations part, the answer of each)."""
    pairs = zip(chosen, rejected)
    common = sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], pairs))
    if common == len(chosen) == len(rejected):
        raise _same()
    common = min(common, len(chosen) - 1, len(rejected) - 1)
    for name, turns in (("chosen", chosen), ("rejected", rejected)):
        if len(turns) - common > 1:
            raise Unusable(
                say(
                    f"chosen and rejected part at turn {common + 1}, and {name} goes on to turn {len(turns)}.",
                    f"chosen 与 rejected 在第 {common + 1} 轮分开，而 {name} 有 {len(turns)} 轮。",
                ),
                say(
                    "End both with the answer that people compared.",
                    "请让两者都以被比较的那次回答结束。",
                ),
            )
    return (
        list(chosen[:common]),
        _answer_text(chosen[common:], "chosen"),
        _answer_text(rejected[common:], "rejected"),
    )


def _answer_text(turns: Sequence[Message], name: str) -> str:
    """Return the words of the turn that is an answer. Raises Unusable."""
    last = turns[-1]
    if last["role"] != "assistant":
        raise Unusable(
            say(
                f"{name} ends with the {last['role']}, not with the assistant.",
                f"{name} 以 {last['role']} 的发言结束，而不是助手。",
            ),
            EXAMPLE,
        )
    if last.get("tool_calls"):
        raise Unusable(
            say(
                f"{name} is a call of {last['tool_calls'][0]['function']['name']}; preferences are learned of words.",
                f"{name} 是对 {last['tool_calls'][0]['function']['name']} 的调用；偏好只能用文字学习。",
            ),
            say("Leave the record out.", "请去掉这条记录。"),
        )
    content = str(last["content"])
    if not content.strip():
        raise Unusable(
            say(f"{name} is empty.", f"{name} 为空。"),
            say("Fill it in, or leave the record out.", "请补全，或去掉这条记录。"),
        )
    return content


def _check_no_tools(record: Record) -> None:
    if tools_of(record):
        raise _tools_error()


def _tools_error() -> Unusable:
    return Unusable(
        say(
            "preferences with tools cannot be learned.",
            "带有工具的偏好数据无法学习。",
        ),
        say("Leave tools, or the record, out.", "请去掉 tools，或去掉这条记录。"),
    )
