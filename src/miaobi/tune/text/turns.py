"""Where in a rendered dialogue the assistant speaks, and chat templates for bases that have none.

A template may mark it ({% generation %}). For any other, turn i is what follows when
the messages before it are rendered as a prompt: full = prompt(m_<i) ‖ turn_i ‖ rest,
exactly what the model has to write where it is served. White space after the token that
ends a turn is not part of it: generation stops at that token.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

from miaobi.core.errors import BadInput
from miaobi.core.language import say
from miaobi.data.text.shapes import Unusable
from miaobi.models.chat import ChatTemplate
from miaobi.models.control_tokens import Prompt, Span

Message = Mapping[str, Any]

OPTIONAL_KEYS = ("reasoning_content", "name")
"""Keys of messages that templates may write or not."""
MARKS = re.compile(r"{%[-+]?\s*generation\b")

CHATML = """\
{%- macro said(message) -%}
{{ message['content'] or '' }}
{%- for call in message['tool_calls'] or [] -%}
{{ '\n' if message['content'] or not loop.first else '' }}\
{{ '<tool_call>\n' + (call['function'] | tojson) + '\n</tool_call>' }}
{%- endfor -%}
{%- endmacro -%}
{%- if tools -%}
<|im_start|>system
{{ messages[0]['content'] + '\n\n' if messages[0]['role'] == 'system' else '' }}# Tools\n
You may call one or more of these functions:
<tools>
{%- for tool in tools %}{{ '\n' + (tool | tojson) }}{% endfor %}

</tools>\n
A call is a JSON object with the name and the arguments, within these tags:
<tool_call>
{"name": <name>, "arguments": <arguments>}
</tool_call><|im_end|>
{% endif -%}
{%- for message in messages -%}
{%- if not (tools and loop.first and message['role'] == 'system') -%}
{{ '<|im_start|>' + message['role'] + '\n' + said(message) + '<|im_end|>\n' }}
{%- endif -%}
{%- endfor -%}
{{ '<|im_start|>assistant\n' if add_generation_prompt else '' }}"""

PLAIN = """\
{%- for message in messages -%}
{{ message['role'] | capitalize + ': ' + message['content'] \
+ (eos_token if message['role'] == 'assistant' else '') + '\n' }}
{%- endfor -%}
{{ 'Assistant:' if add_generation_prompt else '' }}"""

LLAMA3 = """\
{{- bos_token -}}
{%- for message in messages -%}
{{ '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n' \
+ (message['content'] or '') + '<|eot_id|>' }}
{%- endfor -%}
{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' if add_generation_prompt else '' }}"""

SYSTEM_FIRST = """\
{{- bos_token -}}
{%- set system = messages[0]['content'] + '\n\n' if messages[0]['role'] == 'system' else '' -%}
{%- for message in messages if message['role'] != 'system' -%}
{%- set content = (system if loop.first else '') + (message['content'] or '') -%}
"""
"""The beginning of templates that write a system message into the first of the user."""

GEMMA = (
    SYSTEM_FIRST
    + """\
{{ '<start_of_turn>' + ('model' if message['role'] == 'assistant' else 'user') + '\n' \
+ content + '<end_of_turn>\n' }}
{%- endfor -%}
{{ '<start_of_turn>model\n' if add_generation_prompt else '' }}"""
)

MISTRAL = (
    SYSTEM_FIRST
    + """\
{{ ' ' + content + eos_token if message['role'] == 'assistant' else '[INST] ' + content + ' [/INST]' }}
{%- endfor -%}"""
)

PHI3 = """\
{%- for message in messages -%}
{{ '<|' + message['role'] + '|>\n' + (message['content'] or '') + '<|end|>\n' }}
{%- endfor -%}
{{ '<|assistant|>\n' if add_generation_prompt else '' }}"""

ALPACA = """\
{%- set heads = {'user': '### Instruction:\n', 'assistant': '### Response:\n'} -%}
{%- for message in messages -%}
{{ heads.get(message['role'], '') + (message['content'] or '') \
+ (eos_token if message['role'] == 'assistant' else '') + '\n\n' }}
{%- endfor -%}
{{ '### Response:\n' if add_generation_prompt else '' }}"""

BUILT_IN = {
    "chatml": CHATML,
    "llama3": LLAMA3,
    "gemma": GEMMA,
    "phi3": PHI3,
    "mistral": MISTRAL,
    "alpaca": ALPACA,
    "plain": PLAIN,
}
"""chatml: SmolLM2's and Qwen's form, with tools as Qwen2.5 and Hermes write them.
llama3, gemma, phi3: as those models write dialogues. mistral, alpaca, plain: words and
the token that ends a text, for any vocabulary.
"""
CONTROL = {
    "chatml": ("<|im_start|>", "<|im_end|>"),
    "llama3": ("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
    "gemma": ("<start_of_turn>", "<end_of_turn>"),
    "phi3": ("<|user|>", "<|assistant|>", "<|end|>"),
}
"""Tokens that a vocabulary needs for a template."""


def assistant_turns(
    template: ChatTemplate,
    messages: Sequence[Message],
    tools: Sequence[Mapping[str, Any]] | None = None,
) -> tuple[Prompt, list[Span]]:
    """Return the rendered dialogue and its assistant's turns in order.

    Left out are turns of weight 0; a turn with nothing before it (the assistant speaks
    first), which answers no prompt; and earlier turns that the template writes
    differently once others follow (Qwen3 takes their thoughts out). Raises BadInput for
    what the template refuses.

    Args:
        template: of the base, or one of `BUILT_IN`.
        messages: the dialogue.
        tools: functions that the assistant may call.
    """
    dialogue = template.render(messages, add_generation_prompt=False, tools=tools)
    if MARKS.search(template.source):
        return dialogue, _weighted(dialogue.turns, messages)
    text = dialogue.text
    spans = list[Span]()
    for index, message in enumerate(messages):
        if message["role"] != "assistant" or not index or "weight" in message:
            continue
        prompt = template.render(messages[:index], tools=tools).text
        so_far = text
        if index + 1 < len(messages):
            so_far = template.render(
                messages[: index + 1], add_generation_prompt=False, tools=tools
            ).text
        if text.startswith(prompt) and text.startswith(so_far):
            spans.append((len(prompt), _end_of_turn(so_far, message)))
    return dialogue, spans


def _weighted(spans: Sequence[Span], messages: Sequence[Message]) -> list[Span]:
    """Return the marked turns without those that are only read (weight 0).

    Raises BadInput where the marks do not show which those are.
    """
    spoken = [message for message in messages if message["role"] == "assistant"]
    if not any("weight" in message for message in spoken):
        return list(spans)
    if len(spans) != len(spoken):
        raise BadInput(
            say(
                f"the chat template marks {len(spans)} of the assistant's {len(spoken)} turns, and weights need all.",
                f"对话模板标出助手 {len(spoken)} 轮中的 {len(spans)} 轮，权重需要全部标出。",
            ),
            "--head.template chatml",
        )
    return [
        span
        for span, message in zip(spans, spoken, strict=True)
        if "weight" not in message
    ]


def unwritten(
    template: ChatTemplate,
    messages: Sequence[Message],
    tools: Sequence[Mapping[str, Any]] | None = None,
) -> frozenset[str]:
    """Return the keys of messages that a template does not write.

    Raises Unusable for a call that it does not write: its turn would teach silence.
    Raises BadInput for what it refuses.

    Args:
        template: of the base, or one of `BUILT_IN`.
        messages: the dialogue.
        tools: functions that the assistant may call.
    """
    template.render(messages, add_generation_prompt=False, tools=tools)
    for index, message in enumerate(messages):
        if message.get("tool_calls"):
            _check_calls_are_written(template, messages[: index + 1], tools)
    return frozenset(
        f"messages[].{key}"
        for key in OPTIONAL_KEYS
        if any(key in message for message in messages) and not _writes(template, key)
    )


def _check_calls_are_written(
    template: ChatTemplate,
    messages: Sequence[Message],
    tools: Sequence[Mapping[str, Any]] | None,
) -> None:
    """Raise Unusable where the calls of the last message make no difference."""
    *before, last = messages
    silent = {key: value for key, value in last.items() if key != "tool_calls"}
    with_calls, without = (
        template.render([*before, turn], add_generation_prompt=False, tools=tools).text
        for turn in (last, silent)
    )
    if with_calls != without:
        return
    name = last["tool_calls"][0]["function"]["name"]
    raise Unusable(
        say(
            f"turn {len(messages)} calls {name}, and the base's chat template does not write calls.",
            f"第 {len(messages)} 轮调用 {name}，而基础模型的对话模板不写工具调用。",
        ),
        say(
            "Use --head.template chatml, or another base.",
            "请使用 --head.template chatml，或换一个基础模型。",
        ),
    )


@lru_cache
def _writes(template: ChatTemplate, key: str) -> bool:
    """Return whether a template writes a key of messages that not all have."""
    asked: dict[str, Any] = {"role": "user", "content": "a"}
    said: dict[str, Any] = {"role": "assistant", "content": "b"}
    probes = ([asked, said], [{**asked, key: "c"}, {**said, key: "c"}])
    without, with_key = (
        template.render(messages, add_generation_prompt=False).text
        for messages in probes
    )
    return with_key != without


def _end_of_turn(text: str, message: Message) -> int:
    """Return where the turn at the end of `text` ends.

    It ends after the token that ends it, or after white space where nothing else does.
    """
    stripped = text.rstrip()
    content = (message.get("content") or "").rstrip()
    if content and stripped.endswith(content):
        return len(text)
    return len(stripped)
