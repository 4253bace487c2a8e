"""Chat: a language model learns to speak as the assistant does in these dialogues.

    L = -Σ_{t in the assistant's turns} log p(x_t | x_<t)

Dialogues are rendered by the base's own template, so that the tuned model is asked as
it was taught; what others say is read, not learned (tune/text/turns.py says where the
assistant speaks).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from miaobi.core.errors import Unsupported
from miaobi.core.language import say
from miaobi.data.text.shapes import Unusable, shape_of, to_document
from miaobi.models.base import Base
from miaobi.models.chat import ChatTemplate
from miaobi.tune.learner import Example, Features
from miaobi.tune.tasks.causal import TextLearner, writing_model
from miaobi.tune.text.turns import BUILT_IN, assistant_turns

NAME = "chat"
SUMMARY = (
    "answer as the assistant of these dialogues does",
    "像这些对话中的助手那样回答",
)
MODALITY, READER, MAKES = "text", "texts", "text"
EXAMPLE = '{"messages": [{"role": "user", "content": "..."}, {"role": "assistant", "content": "..."}]}'
EXTRAS = ("name", "tool_call_id")


@dataclass(frozen=True)
class Config:
    template: Literal["", "chatml", "plain"] = ""
    """How a dialogue is written: "" as the base's own chat template does; chatml (also
    with tools); plain words, for bases that know no special tokens.
    """
    max_new_tokens: int = 64
    """Tokens of an answer that is shown beside the base's, at most."""


def columns(record: Mapping[str, Any], config: Config) -> Mapping[str, Any]:
    """{"messages": [...], "tools": [...]}; tools only where there are any."""
    if isinstance(record.get("messages"), list):
        messages = [_turn(turn) for turn in record["messages"]]
    else:
        messages = _other(record)
    _check(messages)
    return {
        "messages": messages,
        **({"tools": _tools(record["tools"])} if record.get("tools") else {}),
    }


def _turn(turn: Any) -> dict[str, Any]:
    """A message in OpenAI's form; the arguments of tool calls as objects, which is what
    templates write.
    """
    calls = turn.get("tool_calls") if isinstance(turn, Mapping) else None
    plain = {**turn, "content": turn.get("content") or ""} if calls else turn
    message = to_document({"messages": [plain]}, None, {}).messages[0]
    extras = {key: turn[key] for key in EXTRAS if turn.get(key) is not None}
    return {
        "role": message.role,
        "content": message.content,
        **extras,
        **({"tool_calls": [_call(call) for call in calls]} if calls else {}),
    }


def _call(call: Any) -> dict[str, Any]:
    function = call.get("function", call) if isinstance(call, Mapping) else None
    if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
        raise Unusable(
            say(
                f"a tool call names no function: {call!r:.60}",
                f"工具调用没有函数名：{call!r:.60}",
            ),
            '{"type": "function", "function": {"name": "...", "arguments": {}}}',
        )
    arguments = function.get("arguments", {})
    try:
        arguments = json.loads(arguments) if isinstance(arguments, str) else arguments
    except ValueError:
        raise Unusable(
            say(
                f"the arguments of {function['name']} are not JSON: {arguments!r:.60}",
                f"{function['name']} 的参数不是 JSON：{arguments!r:.60}",
            ),
            '{"type": "function", "function": {"name": "...", "arguments": {}}}',
        ) from None
    known = {"id": call["id"]} if "id" in call else {}
    return {
        **known,
        "type": "function",
        "function": {"name": function["name"], "arguments": arguments},
    }


def _tools(tools: Any) -> list[Any]:
    """A list, or the JSON of one (columns of a table hold text)."""
    try:
        found = json.loads(tools) if isinstance(tools, str) else tools
    except ValueError:
        found = None
    if not isinstance(found, list) or not all(
        isinstance(tool, Mapping) for tool in found
    ):
        raise Unusable(
            say(
                f"tools is {tools!r:.60}, not a list of functions.",
                f"tools 为 {tools!r:.60}，不是函数列表。",
            ),
            '"tools": [{"type": "function", "function": {"name": "...", "parameters": {}}}]',
        )
    return found


def _other(record: Mapping[str, Any]) -> list[dict[str, Any]]:
    """ShareGPT, Alpaca, prompt and completion."""
    if shape_of(record) == "text":
        raise Unusable(
            say("a plain text has no turns.", "纯文本没有对话轮次。"),
            say(
                f"Expected {EXAMPLE}, or tune with --task causal.",
                f"应为 {EXAMPLE}，或使用 --task causal。",
            ),
        )
    document = to_document(record, None, {})
    if document.messages:
        return [message._asdict() for message in document.messages]
    return [
        {"role": "user", "content": document.prompt},
        {"role": "assistant", "content": document.text},
    ]


def _check(messages: Sequence[Mapping[str, Any]]) -> None:
    """Raise Unusable for a dialogue that teaches no answer."""
    if not messages:
        raise Unusable(say("the dialogue is empty.", "对话为空。"), EXAMPLE)
    roles = [message["role"] for message in messages]
    if "assistant" not in roles:
        raise Unusable(
            say(
                "the assistant says nothing in this dialogue.",
                "这段对话中助手没有发言。",
            ),
            say("Add its answer.", "请补上助手的回答。"),
        )
    if roles[-1] != "assistant":
        raise Unusable(
            say(
                f"the dialogue ends with the {roles[-1]}.",
                f"对话以 {roles[-1]} 的发言结束。",
            ),
            say(
                "Add the assistant's answer, or take the last turn out.",
                "请补上助手的回答，或去掉最后一轮。",
            ),
        )
    if not any(role in ("user", "tool") for role in roles):
        raise Unusable(
            say("nobody asks the assistant anything.", "没有人向助手提问。"), EXAMPLE
        )
    for place, message in enumerate(messages):
        if (
            message["role"] == "assistant"
            and not message["content"].strip()
            and not message.get("tool_calls")
        ):
            raise Unusable(
                say(
                    f"turn {place + 1}, the assistant's, is empty.",
                    f"第 {place + 1} 轮（助手）为空。",
                ),
                say(
                    "Fill it in, or leave the dialogue out.", "请补全，或去掉这段对话。"
                ),
            )


def question(columns: Mapping[str, Any]) -> Mapping[str, Any]:
    """All that is said before the assistant's last turn."""
    messages = columns["messages"]
    last = max(
        (
            place
            for place, message in enumerate(messages)
            if message["role"] == "assistant"
        ),
        default=len(messages),
    )
    return {**columns, "messages": messages[:last]}


group = question


def survey(examples: Sequence[Example], config: Config) -> Mapping[str, Any]:
    return {
        "dialogues": len(examples),
        "turns": sum(
            message["role"] == "assistant"
            for example in examples
            for message in example.columns["messages"]
        ),
    }


def check(example: Example, spec: Mapping[str, Any], config: Config) -> None:
    """Every dialogue can be learned."""


def learner(base: Base, spec: Mapping[str, Any], config: Config) -> Assistant:
    return Assistant(
        writing_model(base),
        base.tokenizer,
        template_of(base, config.template),
        config.max_new_tokens,
    )


def template_of(base: Base, name: str = "") -> ChatTemplate:
    """The base's template, or a built-in one by name. Raises Unsupported where there is
    none, or its tokens are not in the vocabulary.
    """
    if not name and base.template is not None:
        return base.template
    if not name:
        raise Unsupported(
            say(
                f"{base.name} has no chat template: it was never taught to talk.",
                f"{base.name} 没有对话模板：它未学过对话。",
            ),
            say(
                "Give it one: --head.template chatml, or plain where its vocabulary has no <|im_start|>.",
                "请指定模板：--head.template chatml；若词表中没有 <|im_start|>，用 plain。",
            ),
        )
    known = base.tokenizer.get_vocab()
    if name == "chatml" and not {"<|im_start|>", "<|im_end|>"} <= known.keys():
        raise Unsupported(
            say(
                f"The vocabulary of {base.name} has no <|im_start|> and <|im_end|>, which chatml is written with.",
                f"{base.name} 的词表中没有 chatml 所用的 <|im_start|> 与 <|im_end|>。",
            ),
            say("Use --head.template plain.", "请使用 --head.template plain。"),
        )
    return ChatTemplate(
        BUILT_IN[name], base.tokenizer.bos_token or "", base.tokenizer.eos_token or ""
    )


class Assistant(TextLearner):
    """A causal language model with a chat template."""

    def __init__(
        self, net: Any, tokenizer: Any, template: ChatTemplate, max_new_tokens: int
    ) -> None:
        super().__init__(net, tokenizer, max_new_tokens)
        self.template = template
        tokenizer.chat_template = template.source
        self._tools_shown = False

    def tokens(self, columns: Mapping[str, Any]) -> tuple[list[int], np.ndarray]:
        """Learned are the tokens that reach into the assistant's turns. Raises BadInput
        for what the template refuses.
        """
        tools = columns.get("tools")
        text, turns = assistant_turns(self.template, columns["messages"], tools)
        if tools and not self._tools_shown:
            self._check_tools(text, columns["messages"])
        encoded = self.tokenizer(
            text, add_special_tokens=False, return_offsets_mapping=True
        )
        starts, ends = np.array(encoded.offset_mapping, dtype=np.int64).reshape(-1, 2).T
        learned = np.zeros(len(starts), dtype=bool)
        for start, end in turns:
            # Offsets may leave white space out, so a turn is the whole range between
            # its first and its last token.
            touched = np.flatnonzero((ends > start) & (starts < end) & (ends > starts))
            if len(touched):
                learned[touched[0] : touched[-1] + 1] = True
        return list(encoded.input_ids), learned

    def _check_tools(self, text: str, messages: Sequence[Mapping[str, Any]]) -> None:
        if text == self.template.render(messages, add_generation_prompt=False):
            raise Unsupported(
                say(
                    "The base's chat template does not show the model its tools.",
                    "基础模型的对话模板不向模型展示工具。",
                ),
                say(
                    "Use --head.template chatml, or leave `tools` out of the data.",
                    "请使用 --head.template chatml，或从数据中去掉 tools。",
                ),
            )
        self._tools_shown = True

    def encode(self, columns: Mapping[str, Any], max_length: int) -> Features:
        """Too long a dialogue loses its oldest exchanges; only what is still too long
        is cut at its end.
        """
        messages = columns["messages"]
        while (
            max_length and self.length({**columns, "messages": messages}) > max_length
        ):
            shorter = _without_oldest(messages)
            if shorter is None:
                break
            messages = shorter
        return super().encode({**columns, "messages": messages}, max_length)

    def split(
        self, columns: Mapping[str, Any], max_length: int
    ) -> list[Mapping[str, Any]]:
        """As many whole exchanges as fit, then the next ones, each after the system's
        turn; one that is too long alone stays so.
        """
        system, exchanges = _exchanges(columns["messages"])
        parts, current = list[Mapping[str, Any]](), list[Mapping[str, Any]]()
        for exchange in exchanges:
            together = {**columns, "messages": [*system, *current, *exchange]}
            if current and self.length(together) > max_length:
                parts.append({**columns, "messages": [*system, *current]})
                current = []
            current = [*current, *exchange]
        return [*parts, {**columns, "messages": [*system, *current]}]

    def answer(self, columns: Mapping[str, Any]) -> str:
        """The assistant's next turn after the dialogue, or, where that ends with one,
        in place of it.
        """
        asked = (
            question(columns)["messages"]
            if columns["messages"][-1]["role"] == "assistant"
            else columns["messages"]
        )
        text = self.template.render(asked, tools=columns.get("tools"))
        return self.write(
            self.tokenizer(text, add_special_tokens=False).input_ids, self.eos_ids
        )

    @property
    def eos_ids(self) -> list[int]:
        """Tokens that end a turn: the one the template writes after it, and the
        vocabulary's own end.
        """
        probe = [
            {"role": "user", "content": "a"},
            {"role": "assistant", "content": "b"},
        ]
        text, turns = assistant_turns(self.template, probe)
        tail = self.tokenizer(
            text[turns[0][0] : turns[0][1]], add_special_tokens=False
        ).input_ids[-1]
        marked = (
            [tail]
            if tail in self.tokenizer.all_special_ids
            or tail in self.tokenizer.added_tokens_decoder
            else []
        )
        return sorted(
            {
                *marked,
                *(
                    []
                    if self.tokenizer.eos_token_id is None
                    else [self.tokenizer.eos_token_id]
                ),
            }
        )

    def save(self, folder: Path) -> None:
        self.tokenizer.save_pretrained(folder)
        (folder / "chat_template.jinja").write_text(
            self.template.source, encoding="utf-8"
        )


def _exchanges(
    messages: Sequence[Mapping[str, Any]],
) -> tuple[list[Mapping[str, Any]], list[list[Mapping[str, Any]]]]:
    """(the system's turns at the beginning, exchanges): each from a user's turn that
    follows an assistant's, to the next such.
    """
    first = next(
        (
            place
            for place, message in enumerate(messages)
            if message["role"] != "system"
        ),
        len(messages),
    )
    exchanges = list[list[Mapping[str, Any]]]()
    for place, message in enumerate(messages[first:], first):
        if not exchanges or (
            message["role"] == "user" and messages[place - 1]["role"] == "assistant"
        ):
            exchanges.append([])
        exchanges[-1].append(message)
    return list(messages[:first]), exchanges


def _without_oldest(
    messages: Sequence[Mapping[str, Any]],
) -> list[Mapping[str, Any]] | None:
    system, exchanges = _exchanges(messages)
    return (
        [*system, *(message for exchange in exchanges[1:] for message in exchange)]
        if len(exchanges) > 1
        else None
    )
