"""Chat: a language model learns to speak as the assistant does in these dialogues.

    L = -Σ_{t in the assistant's turns} log p(x_t | x_<t)

Dialogues are rendered by the base's own template, so that the tuned model is asked as
it was trained; what others say is read, not learned (tune/text/turns.py finds where the
assistant speaks).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import copy
from itertools import chain, takewhile
from pathlib import Path
from typing import Any

import numpy as np

from miaobi.core.errors import Unsupported
from miaobi.core.language import say
from miaobi.data.text.shapes import Record, Unusable, conversation, shape_of
from miaobi.models.added_tokens import check_messages
from miaobi.models.base import Base
from miaobi.models.chat import ChatTemplate
from miaobi.models.control_tokens import ControlTokens, Token
from miaobi.tune.heads import ChatHead as Config
from miaobi.tune.learner import Example
from miaobi.tune.tasks.causal import TextLearner, writing_model
from miaobi.tune.text.turns import BUILT_IN, CONTROL, assistant_turns, unwritten

NAME = "chat"
SUMMARY = (
    "answer as the assistant of these dialogues does",
    "像这些对话中的助手那样回答",
)
MODALITY = "text"
READER = "labelled/texts"
MAKES = "text"
ASK = "--prompt ..."
EXAMPLE = '{"messages": [{"role": "user", "content": "..."}, {"role": "assistant", "content": "..."}]}'


def columns(record: Mapping[str, Any], config: Config) -> Mapping[str, Any]:
    """Return {"messages": [...], "tools": [...]}; tools only where there are any."""
    record = Record.of(record)
    if shape_of(record) == "text":
        raise Unusable(
            say("a plain text has no turns.", "纯文本没有对话轮次。"),
            say(
                f"Expected {EXAMPLE}, or tune with --task causal.",
                f"应为 {EXAMPLE}，或使用 --task causal。",
            ),
        )
    messages, tools = conversation(record)
    _check_dialogue(messages)
    return {"messages": messages, "tools": tools} if tools else {"messages": messages}


def _check_dialogue(messages: Sequence[Mapping[str, Any]]) -> None:
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
            say("no message asks the assistant anything.", "没有向助手提问的消息。"),
            EXAMPLE,
        )
    for number, message in enumerate(messages, start=1):
        is_empty = not message["content"].strip() and not message.get("tool_calls")
        is_learned = message["role"] == "assistant" and "weight" not in message
        if is_learned and is_empty:
            raise Unusable(
                say(
                    f"turn {number}, the assistant's, is empty.",
                    f"第 {number} 轮（助手）为空。",
                ),
                say(
                    "Fill it in, or leave the dialogue out.", "请补全，或去掉这段对话。"
                ),
            )


def question(columns: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return all that is said before the assistant's last turn."""
    messages = columns["messages"]
    roles = [message["role"] for message in messages]
    last = len(messages)
    if "assistant" in roles:
        last = len(roles) - 1 - roles[::-1].index("assistant")
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
    template = template_of(base, config.template)
    check_messages(base, template)
    return Assistant(
        writing_model(base),
        base.tokenizer,
        template,
        config.max_new_tokens,
    )


def template_of(base: Base, name: str = "") -> ChatTemplate:
    """Return the base's template, or a built-in one by name.

    Raises Unsupported where there is none, or its tokens are not in the vocabulary.
    """
    if not name and base.template is not None:
        return base.template
    if not name:
        raise Unsupported(
            say(
                f"{base.name} has no chat template: it was not trained on dialogues.",
                f"{base.name} 没有对话模板：它未学过对话。",
            ),
            say(
                "Give it one: --head.template chatml, or plain where its vocabulary has no <|im_start|>.",
                "请指定模板：--head.template chatml；若词表中没有 <|im_start|>，用 plain。",
            ),
        )
    vocabulary = base.tokenizer.get_vocab()
    missing = [token for token in CONTROL.get(name, ()) if token not in vocabulary]
    if missing:
        additions = " ".join(
            f"--tune.add_special_tokens '{token}'" for token in missing
        )
        raise Unsupported(
            say(
                f"The vocabulary of {base.name} has no {' and '.join(missing)}, which {name} is written with.",
                f"{base.name} 的词表中没有 {name} 所用的 {' 与 '.join(missing)}。",
            ),
            say(
                f"Use --head.template plain, or add them: {additions}",
                f"请使用 --head.template plain，或添加这些词元：{additions}",
            ),
        )
    added = base.tokenizer.added_tokens_decoder.values()
    return ChatTemplate(
        BUILT_IN[name],
        base.tokenizer.bos_token or "",
        base.tokenizer.eos_token or "",
        ControlTokens.among({token.content: token.special for token in added}),
    )


class Assistant(TextLearner):
    """A causal language model with a chat template."""

    def __init__(
        self, net: Any, tokenizer: Any, template: ChatTemplate, max_new_tokens: int
    ) -> None:
        super().__init__(net, tokenizer, max_new_tokens)
        self.template = template
        tokenizer.chat_template = template.source
        self._renders_tools = False

    def tokens(self, columns: Mapping[str, Any]) -> tuple[list[int], np.ndarray]:
        """Return (ids, which are learned): those that reach into the assistant's turns.

        Raises BadInput for what the template refuses.
        """
        tools = columns.get("tools")
        dialogue, turns = assistant_turns(self.template, columns["messages"], tools)
        if tools and not self._renders_tools:
            self._check_tools(dialogue.text, columns["messages"])
        tokens = dialogue.encode_with_offsets(self._tokens)
        ids, starts, ends = np.array(tokens, dtype=np.int64).reshape(-1, 3).T
        learned = np.zeros(len(tokens), dtype=bool)
        for start, end in turns:
            # Offsets may leave white space out, so a turn is the whole range between
            # its first and its last token.
            touched = np.flatnonzero((ends > start) & (starts < end) & (ends > starts))
            if len(touched):
                learned[touched[0] : touched[-1] + 1] = True
        return ids.tolist(), learned

    def _tokens(self, text: str) -> list[Token]:
        encoded = self.tokenizer(
            text, add_special_tokens=False, return_offsets_mapping=True
        )
        return [
            (token, *offsets)
            for token, offsets in zip(
                encoded.input_ids, encoded.offset_mapping, strict=True
            )
        ]

    def _encode(self, text: str) -> list[int]:
        return list(self.tokenizer(text, add_special_tokens=False).input_ids)

    def _check_tools(self, text: str, messages: Sequence[Mapping[str, Any]]) -> None:
        """Raise Unsupported where the template leaves the tools out."""
        without = self.template.render(messages, add_generation_prompt=False)
        if text == without.text:
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
        self._renders_tools = True

    def unwritten(self, columns: Mapping[str, Any]) -> frozenset[str]:
        return unwritten(self.template, columns["messages"], columns.get("tools"))

    def shortened(
        self, columns: Mapping[str, Any], max_length: int
    ) -> Mapping[str, Any]:
        """Return a dialogue without its oldest exchanges, as many as are too much.

        In the last one the longest message that is read loses its beginning: the
        user's or a tool's, then the system's.
        """
        while self.length(columns) > max_length:
            messages = _without_oldest(columns["messages"])
            if messages is None:
                break
            columns = {**columns, "messages": messages}
        for roles in (("user", "tool"), ("system",)):
            columns = self._with_shorter_messages(columns, roles, max_length)
        return columns

    def _with_shorter_messages(
        self, columns: Mapping[str, Any], roles: Sequence[str], max_length: int
    ) -> Mapping[str, Any]:
        messages = list(columns["messages"])
        while (excess := self.length(columns) - max_length) > 0:
            sizes = {
                number: len(self._starts(message["content"]))
                for number, message in enumerate(messages)
                if message["role"] in roles
            }
            longest = max(sizes, key=sizes.__getitem__, default=None)
            if longest is None or sizes[longest] < 2:
                break
            message = messages[longest]
            starts = self._starts(message["content"])
            # A token may be a part of a character: at least one character goes.
            first = max(starts[min(excess, len(starts) - 1)], 1)
            messages[longest] = {**message, "content": message["content"][first:]}
            columns = {**columns, "messages": messages}
        return columns

    def _starts(self, content: str) -> list[int]:
        """Return where the tokens of a message begin, in characters."""
        return [start for _, start, _ in self._tokens(content)]

    def split(
        self, columns: Mapping[str, Any], max_length: int
    ) -> list[Mapping[str, Any]]:
        """Return parts of as many whole exchanges as fit, each after the system's turn.

        An exchange that is too long by itself stays so.
        """
        system, exchanges = _exchanges(columns["messages"])
        parts = list[Mapping[str, Any]]()
        current = list[Mapping[str, Any]]()
        for exchange in exchanges:
            together = {**columns, "messages": [*system, *current, *exchange]}
            if current and self.length(together) > max_length:
                parts.append({**columns, "messages": [*system, *current]})
                current = []
            current = [*current, *exchange]
        return [*parts, {**columns, "messages": [*system, *current]}]

    def answer(self, columns: Mapping[str, Any]) -> str:
        """Return the assistant's next turn.

        Where the dialogue ends with one, it is written anew.
        """
        if columns["messages"][-1]["role"] == "assistant":
            columns = question(columns)
        prompt = self.template.render(columns["messages"], tools=columns.get("tools"))
        return self.write(prompt.encode(self._encode), self.eos_ids)

    @property
    def eos_ids(self) -> list[int]:
        """Tokens that end a turn: the template's, and the vocabulary's own end."""
        probe = [
            {"role": "user", "content": "a"},
            {"role": "assistant", "content": "b"},
        ]
        dialogue, turns = assistant_turns(self.template, probe)
        start, end = turns[0]
        last = dialogue[start:end].encode(self._encode)[-1]
        ids = set[int]()
        special = self.tokenizer.all_special_ids
        if last in special or last in self.tokenizer.added_tokens_decoder:
            ids.add(last)
        if self.tokenizer.eos_token_id is not None:
            ids.add(self.tokenizer.eos_token_id)
        return sorted(ids)

    def save(self, folder: Path) -> None:
        self.tokenizer.save_pretrained(folder)
        template = folder / "chat_template.jinja"
        template.write_text(self.template.source, encoding="utf-8")
        net: Any = self.net
        generation = copy(net.generation_config)
        generation.eos_token_id = self.eos_ids
        generation.save_pretrained(folder)


def _exchanges(
    messages: Sequence[Mapping[str, Any]],
) -> tuple[list[Mapping[str, Any]], list[list[Mapping[str, Any]]]]:
    """Return (the system's turns at the beginning, exchanges).

    An exchange goes from a user's turn that follows an assistant's to the next such.
    """
    system = list(takewhile(lambda message: message["role"] == "system", messages))
    exchanges = list[list[Mapping[str, Any]]]()
    previous = ""
    for message in messages[len(system) :]:
        begins = message["role"] == "user" and previous == "assistant"
        if begins or not exchanges:
            exchanges.append([])
        exchanges[-1].append(message)
        previous = message["role"]
    return system, exchanges


def _without_oldest(
    messages: Sequence[Mapping[str, Any]],
) -> list[Mapping[str, Any]] | None:
    """Return the dialogue without its oldest exchange; None if that is its only one."""
    system, exchanges = _exchanges(messages)
    if len(exchanges) <= 1:
        return None
    return [*system, *chain.from_iterable(exchanges[1:])]
