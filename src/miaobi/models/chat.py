"""Chat templates: one renderer for all engines, so that a model is asked the same way
wherever it runs.

A template is a Jinja program that came with the weights, so it runs in Jinja's
immutable sandbox: no attributes behind underscores, no changing of what it is given.
Set up as Transformers does (`apply_chat_template`).
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
from miaobi.models.weights import read_json

SPOKEN, SILENT = "\ufdd0", "\ufdd1"
"""Unicode's noncharacters, which no text holds: around what the assistant says, in a
rendering that was asked for with `marked`.
"""


@dataclass(frozen=True)
class ChatTemplate:
    source: str
    bos_token: str = ""
    eos_token: str = ""

    @property
    def hash(self) -> str:
        """SHA-256 of the template's text."""
        return hashlib.sha256(self.source.encode()).hexdigest()

    @cached_property
    def supports_tools(self) -> bool:
        """Whether it tells the model of tools when it is given some."""
        from jinja2 import meta

        return "tools" in meta.find_undeclared_variables(
            self._compiled.environment.parse(self.source)
        )

    @cached_property
    def _compiled(self) -> Any:
        return self._program(marked=False)

    @cached_property
    def _marking(self) -> Any:
        return self._program(marked=True)

    def _program(self, marked: bool) -> Any:
        from jinja2 import TemplateError
        from jinja2.ext import loopcontrols
        from jinja2.sandbox import ImmutableSandboxedEnvironment

        environment = ImmutableSandboxedEnvironment(
            trim_blocks=True,
            lstrip_blocks=True,
            extensions=[loopcontrols, _generation(marked)],
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
        tools: Sequence[Mapping[str, Any]] | None = None,
        marked: bool = False,
    ) -> str:
        """The conversation as the model saw such in training. Raises BadInput for what
        the template refuses.

        marked: what the template wraps in {% generation %} stands between SPOKEN and
            SILENT (a template may have none).
        """
        from jinja2 import TemplateError

        check_messages(messages)
        try:
            return str(
                (self._marking if marked else self._compiled).render(
                    messages=[_plain(message) for message in messages],
                    tools=tools,
                    documents=None,
                    add_generation_prompt=add_generation_prompt,
                    bos_token=self.bos_token,
                    eos_token=self.eos_token,
                )
            )
        except (
            TemplateError,
            TypeError,
            ArithmeticError,
            LookupError,
            AttributeError,
            ValueError,
        ) as error:
            if isinstance(error, BadInput):
                raise
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


def _generation(marked: bool) -> Any:
    """The tag {% generation %} ... {% endgeneration %}, Transformers' own, by which
    templates tell what the assistant says.
    """
    from jinja2 import nodes
    from jinja2.ext import Extension
    from jinja2.parser import Parser

    class Generation(Extension):
        tags = {"generation"}  # noqa: RUF012

        def parse(self, parser: Parser) -> nodes.Node:
            line = next(parser.stream).lineno
            body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
            around = (
                [nodes.Output([nodes.TemplateData(mark)]) for mark in (SPOKEN, SILENT)]
                if marked
                else []
            )
            return nodes.Scope([*around[:1], *body, *around[1:]]).set_lineno(line)

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
    """Jinja's own filter escapes HTML, which no model was trained on."""
    return json.dumps(
        value,
        ensure_ascii=ensure_ascii,
        indent=indent,
        separators=separators,
        sort_keys=sort_keys,
    )


def check_messages(messages: Sequence[Mapping[str, Any]]) -> None:
    """Raise BadInput unless each is {"role": text, "content": text or parts}."""
    for at, message in enumerate(messages):
        if not isinstance(message, Mapping) or not isinstance(message.get("role"), str):
            raise BadInput(
                say(
                    f"Message {at} has no role: {message!r}.",
                    f"第 {at} 条消息没有 role：{message!r}。",
                ),
                'Example: {"role": "user", "content": "..."}',
            )
        if not isinstance(message.get("content"), str | list | None):
            raise BadInput(
                say(
                    f"The content of message {at} is not text: {message['content']!r}.",
                    f"第 {at} 条消息的 content 不是文本：{message['content']!r}。",
                ),
                'Example: {"role": "user", "content": "..."}',
            )
    if not messages:
        raise BadInput(
            say("The conversation is empty.", "对话为空。"),
            say("Give at least one message.", "请至少给出一条消息。"),
        )


def _plain(message: Mapping[str, Any]) -> dict[str, Any]:
    """The message as templates read it: the text parts of its content joined, the
    arguments of calls as objects and not as their JSON.
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
    function = dict(call["function"])
    with contextlib.suppress(
        ValueError, TypeError
    ):  # an argument that is no JSON is shown as it was written
        function["arguments"] = json.loads(function["arguments"])
    return {**call, "function": function}


def from_folder(folder: Path) -> ChatTemplate | None:
    """The template of a model folder (chat_template.jinja, or tokenizer_config.json),
    if it has one.
    """
    path = folder / "tokenizer_config.json"
    config = read_json(path) if path.exists() else {}
    alone = folder / "chat_template.jinja"
    source = (
        alone.read_text(encoding="utf-8")
        if alone.exists()
        else config.get("chat_template")
    )
    if isinstance(source, list):
        source = next(
            (item["template"] for item in source if item.get("name") == "default"), None
        )
    if not source:
        return None
    return ChatTemplate(
        source, _token(config.get("bos_token")), _token(config.get("eos_token"))
    )


def from_gguf(metadata: Mapping[str, Any]) -> ChatTemplate | None:
    """The template of a GGUF file, if it has one."""
    source = metadata.get("tokenizer.chat_template")
    if not source:
        return None
    tokens = metadata.get("tokenizer.ggml.tokens", ())

    def named(key: str) -> str:
        at = metadata.get(f"tokenizer.ggml.{key}_token_id")
        return tokens[at] if at is not None and 0 <= at < len(tokens) else ""

    return ChatTemplate(source, named("bos"), named("eos"))


def _token(value: Any) -> str:
    """tokenizer_config.json writes a special token as its text or as {"content": text, ...}."""
    return value.get("content", "") if isinstance(value, Mapping) else value or ""
