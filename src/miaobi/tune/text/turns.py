"""Where in a rendered dialogue the assistant speaks, and chat templates for bases that have none.

A template may mark it ({% generation %}). For any other, turn i is what follows when
the messages before it are rendered as a prompt: full = prompt(m_<i) ‖ turn_i ‖ rest,
exactly what the model has to write where it is served. White space after the token that
ends a turn is not part of it: generation stops at that token.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any

from miaobi.models.chat import ChatTemplate
from miaobi.models.control_tokens import Prompt, Span

Message = Mapping[str, Any]

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

BUILT_IN = {"chatml": CHATML, "plain": PLAIN}
"""chatml: SmolLM2's and Qwen's form, with tools as Qwen2.5 and Hermes write them.
plain: words and the token that ends a text, for any vocabulary.
"""


def assistant_turns(
    template: ChatTemplate,
    messages: Sequence[Message],
    tools: Sequence[Mapping[str, Any]] | None = None,
) -> tuple[Prompt, list[Span]]:
    """Return the rendered dialogue and its assistant's turns in order.

    A turn with nothing before it (the assistant speaks first) answers no prompt and is
    left out, as are earlier turns that the template writes differently once others
    follow (Qwen3 takes their thoughts out). Raises BadInput for what the template
    refuses.

    Args:
        template: of the base, or one of `BUILT_IN`.
        messages: the dialogue.
        tools: functions that the assistant may call.
    """
    dialogue = template.render(messages, add_generation_prompt=False, tools=tools)
    if MARKS.search(template.source):
        return dialogue, list(dialogue.turns)
    text = dialogue.text
    spans = list[Span]()
    for first, end in _runs_of_assistant(messages):
        if not first:
            continue
        prompt = template.render(messages[:first], tools=tools).text
        so_far = text
        if end < len(messages):
            so_far = template.render(
                messages[:end], add_generation_prompt=False, tools=tools
            ).text
        if text.startswith(prompt) and text.startswith(so_far):
            spans.append((len(prompt), _end_of_turn(so_far, messages[end - 1])))
    return dialogue, spans


def _runs_of_assistant(messages: Sequence[Message]) -> Iterator[Span]:
    """Return where the assistant's messages begin and end, those in a row as one."""
    first = 0
    for role, group in groupby(messages, key=lambda message: message["role"]):
        end = first + len(list(group))
        if role == "assistant":
            yield first, end
        first = end


def _end_of_turn(text: str, message: Message) -> int:
    """Return where the turn at the end of `text` ends.

    It ends after the token that ends it, or after white space where nothing else does.
    """
    stripped = text.rstrip()
    content = (message.get("content") or "").rstrip()
    if content and stripped.endswith(content):
        return len(text)
    return len(stripped)
