"""Chat templates: one renderer for all engines, so that a model is prompted the same way
wherever it runs.

A template is a Jinja program that came with the weights, so it runs in Jinja's immutable
sandbox: no attributes behind underscores, no changes to its arguments. The environment is
that of Transformers' `apply_chat_template`.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Any

from miaobi.core.errors import BadInput, Damaged
from miaobi.core.language import say
from miaobi.models.control_tokens import (
    ControlTokens,
    Marks,
    Prompt,
    tokens_of_folder,
    tokens_of_gguf,
)
from miaobi.models.weights import read_json

NO_CONTROL_TOKENS = ControlTokens()

TURN_OPENING, TURN_CLOSING = "_miaobi_turn_opening", "_miaobi_turn_closing"
"""Variables of a template that write the marks around what the assistant says."""


@dataclass(frozen=True)
class ChatTemplate:
    """A model's template, with the special tokens that it may insert."""

    source: str
    bos_token: str = ""
    eos_token: str = ""
    control_tokens: ControlTokens = NO_CONTROL_TOKENS
    """Of the vocabulary: what people's texts must not spell."""

    @property
    def hash(self) -> str:
        """SHA-256 of the template's text."""
        return hashlib.sha256(self.source.encode()).hexdigest()

    @property
    def supports_tools(self) -> bool:
        """Whether it describes tools to the model."""
        return "tools" in self._variables

    @property
    def reasons(self) -> bool:
        """Whether it lets a caller switch the model's reasoning."""
        return bool({"enable_thinking", "reasoning_effort"} & self._variables)

    @cached_property
    def _variables(self) -> set[str]:
        """What the template reads of what it is given. Raises Damaged."""
        from jinja2 import meta

        program = self._compiled.environment.parse(self.source)
        return meta.find_undeclared_variables(program)

    @cached_property
    def _compiled(self) -> Any:
        """The compiled template. Raises Damaged."""
        from jinja2 import TemplateError
        from jinja2.ext import loopcontrols
        from jinja2.sandbox import ImmutableSandboxedEnvironment

        environment = ImmutableSandboxedEnvironment(
            trim_blocks=True,
            lstrip_blocks=True,
            extensions=[loopcontrols, _generation()],
        )
        environment.filters["tojson"] = _to_json
        environment.globals |= {
            "raise_exception": _refuse,
            "strftime_now": lambda form: datetime.now().strftime(form),
        }
        try:
            return environment.from_string(self.source)
        except TemplateError as error:
            raise Damaged(
                say(
                    f"The model's chat template cannot be read: {error}.",
                    f"模型的对话模板无法解析：{error}。",
                ),
                say(
                    "Use raw prompts (--raw), or mend chat_template.jinja.",
                    "请使用原始提示（--raw），或修正 chat_template.jinja。",
                ),
            ) from None

    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        add_generation_prompt: bool = True,
        continue_final_message: bool = False,
        tools: Sequence[Mapping[str, Any]] | None = None,
    ) -> Prompt:
        """Return the conversation as the model saw conversations in training.

        Control tokens in messages and tools are text; only the template writes its own.
        Raises BadInput for what the template refuses.

        Args:
            messages: {"role": ..., "content": ...}, in order.
            add_generation_prompt: whether an answer of the assistant begins at the end.
            continue_final_message: whether the prompt ends within the last message, so
                that an answer goes on with it. No other answer begins then.
            tools: JSON schemas of functions that the model may call.
        """
        check_messages(messages)
        plain = [_plain(message) for message in messages]
        marks = Marks.unused_in([plain, tools, self.source])
        if continue_final_message:
            plain[-1]["content"] += marks.end
        program = self._compiled
        try:
            rendered: str = program.render(
                messages=self.control_tokens.cut(plain, marks.cut),
                tools=self.control_tokens.cut(tools, marks.cut),
                documents=None,
                add_generation_prompt=add_generation_prompt
                and not continue_final_message,
                bos_token=self.bos_token,
                eos_token=self.eos_token,
                **{TURN_OPENING: marks.turn_opening, TURN_CLOSING: marks.turn_closing},
            )
        except BadInput:
            raise
        except _template_errors() as error:
            raise BadInput(
                say(
                    f"The model's chat template refuses this conversation: {error}.",
                    f"模型的对话模板无法处理这段对话：{error}。",
                ),
                say(
                    "Check the roles and contents of the messages, or use a raw prompt (--raw).",
                    "请检查消息的角色与内容，或使用原始提示（--raw）。",
                ),
            ) from None
        if continue_final_message:
            rendered = _before(marks.end, rendered)
        return marks.prompt(rendered, self.control_tokens)


def _before(end: str, rendered: str) -> str:
    """Return what stands before the mark `end`. Raise BadInput where it is nowhere."""
    before, mark, _ = rendered.rpartition(end)
    if mark:
        return before
    raise BadInput(
        say(
            "The model's chat template does not write the last message as it is.",
            "模型的对话模板不会原样写出最后一条消息。",
        ),
        say(
            "Leave continue_final_message out, so that an answer begins anew.",
            "请去掉 continue_final_message，重新开始回答。",
        ),
        field="continue_final_message",
    )


def _template_errors() -> tuple[type[Exception], ...]:
    """Return what a template may raise: its own errors, or those of its expressions."""
    from jinja2 import TemplateError

    return (
        TemplateError,
        TypeError,
        ArithmeticError,
        LookupError,
        AttributeError,
        ValueError,
    )


def _generation() -> Any:
    """Return Transformers' tag {% generation %}, around what the assistant says."""
    from jinja2 import nodes
    from jinja2.ext import Extension
    from jinja2.parser import Parser

    class Generation(Extension):
        tags = {"generation"}  # noqa: RUF012

        def parse(self, parser: Parser) -> nodes.Node:
            number = next(parser.stream).lineno
            body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
            first = nodes.Output([nodes.Name(TURN_OPENING, "load")])
            last = nodes.Output([nodes.Name(TURN_CLOSING, "load")])
            return nodes.Scope([first, *body, last]).set_lineno(number)

    return Generation


def _refuse(message: str) -> None:
    from jinja2 import TemplateError

    raise TemplateError(message)


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """Return JSON without escapes of HTML, which Jinja's own filter makes."""
    return json.dumps(
        value,
        ensure_ascii=ensure_ascii,
        indent=indent,
        separators=separators,
        sort_keys=sort_keys,
    )


def check_messages(messages: Sequence[Mapping[str, Any]]) -> None:
    """Raise BadInput unless each is {"role": text, "content": text or parts}."""
    for number, message in enumerate(messages):
        if not isinstance(message, Mapping) or not isinstance(message.get("role"), str):
            raise BadInput(
                say(
                    f"Message {number} has no role: {message!r}.",
                    f"第 {number} 条消息没有 role：{message!r}。",
                ),
                'Example: {"role": "user", "content": "..."}',
            )
        if not isinstance(message.get("content"), str | list | None):
            raise BadInput(
                say(
                    f"The content of message {number} is not text: {message['content']!r}.",
                    f"第 {number} 条消息的 content 不是文本：{message['content']!r}。",
                ),
                'Example: {"role": "user", "content": "..."}',
            )
    if not messages:
        raise BadInput(
            say("The conversation is empty.", "对话为空。"),
            say("Give at least one message.", "请至少给出一条消息。"),
        )


def _plain(message: Mapping[str, Any]) -> dict[str, Any]:
    """Return the message as templates read it.

    The text parts of its content are joined; arguments of calls are objects, not JSON.
    """
    content = message.get("content")
    if message.get("tool_calls"):
        message = {
            **message,
            "content": content or "",
            "tool_calls": [_call(call) for call in message["tool_calls"]],
        }
    if not isinstance(content, list):
        return dict(message)
    other = [part.get("type") for part in content if part.get("type") != "text"]
    if other:
        raise BadInput(
            say(
                f"A text model cannot read a message part of type {other[0]!r}.",
                f"文本模型无法读取类型为 {other[0]!r} 的消息内容。",
            ),
            say('Send parts of type "text" only.', '请只发送 "text" 类型的内容。'),
        )
    return {**message, "content": "".join(part["text"] for part in content)}


def _call(call: Mapping[str, Any]) -> dict[str, Any]:
    """Return a call with its arguments as an object; as they are where they are no JSON."""
    function = dict(call["function"])
    with contextlib.suppress(ValueError, TypeError):
        function["arguments"] = json.loads(function["arguments"])
    return {**call, "function": function}


def from_folder(folder: Path) -> ChatTemplate | None:
    """Return the template of a model folder, if it has one.

    It is in chat_template.jinja, or in tokenizer_config.json.
    """
    path = folder / "tokenizer_config.json"
    config = read_json(path) if path.exists() else {}
    source = config.get("chat_template")
    jinja = folder / "chat_template.jinja"
    if jinja.exists():
        source = jinja.read_text(encoding="utf-8")
    if isinstance(source, list):
        defaults = [
            item["template"] for item in source if item.get("name") == "default"
        ]
        source = defaults[0] if defaults else None
    if not source:
        return None
    return ChatTemplate(
        source,
        _token(config.get("bos_token")),
        _token(config.get("eos_token")),
        tokens_of_folder(folder),
    )


def from_gguf(metadata: Mapping[str, Any]) -> ChatTemplate | None:
    """Return the template of a GGUF file, if it has one."""
    source = metadata.get("tokenizer.chat_template")
    if not source:
        return None
    return ChatTemplate(
        source,
        named_token(metadata, "bos"),
        named_token(metadata, "eos"),
        tokens_of_gguf(metadata),
    )


def named_token(metadata: Mapping[str, Any], name: str) -> str:
    """Return the text of a GGUF file's "bos" or "eos"; empty where it has none."""
    tokens = metadata.get("tokenizer.ggml.tokens", ())
    token_id = metadata.get(f"tokenizer.ggml.{name}_token_id")
    if token_id is None or not 0 <= token_id < len(tokens):
        return ""
    return str(tokens[token_id])


def _token(value: Any) -> str:
    """Return the text of a special token in tokenizer_config.json.

    It is written there as text, as {"content": text, ...}, or as null.
    """
    if isinstance(value, Mapping):
        return str(value.get("content", ""))
    return value or ""
