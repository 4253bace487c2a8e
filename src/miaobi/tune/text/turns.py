"""Where in a rendered dialogue the assistant speaks, and chat templates for bases that have none.

A template that marks it ({% generation %}) is taken at its word. For any other, turn i
is what follows when the messages before it are rendered as a prompt: full =
prompt(m_<i) ‖ turn_i ‖ rest, exactly what the model has to say where it is served.
White space after the token that ends a turn is not part of it, since nobody lets the
model go on that far.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from miaobi.models.chat import SILENT, SPOKEN, ChatTemplate

Message = Mapping[str, Any]
Span = tuple[int, int]
"""[start, end) in characters."""

MARKS = re.compile(r"{%[-+]?\s*generation\b")

CHATML = """\
{%- macro said(message) -%}
{{ message['content'] or '' }}
{%- for call in message['tool_calls'] or [] -%}
{{ '\n' if message['content'] or not loop.first else '' }}{{ '<tool_call>\n' + (call['function'] | tojson) + '\n</tool_call>' }}
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
{{ message['role'] | capitalize + ': ' + message['content'] + (eos_token if message['role'] == 'assistant' else '') + '\n' }}
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
) -> tuple[str, list[Span]]:
    """The rendered dialogue, and its assistant's turns in order.

    A turn with nothing before it (the assistant speaks first) answers no prompt and is
    left out, as are earlier turns that the template writes differently once others
    follow (Qwen3 takes their thoughts out). Raises BadInput for what the template
    refuses.
    """
    if MARKS.search(template.source):
        return _marked(
            template.render(
                messages, add_generation_prompt=False, tools=tools, marked=True
            )
        )
    text = template.render(messages, add_generation_prompt=False, tools=tools)
    spans = list[Span]()
    for place, message in enumerate(messages):
        if (
            message["role"] != "assistant"
            or not place
            or messages[place - 1]["role"] == "assistant"
        ):
            continue
        last = place + 1
        while last < len(messages) and messages[last]["role"] == "assistant":
            last += 1
        before = template.render(messages[:place], tools=tools)
        after = (
            text
            if last == len(messages)
            else template.render(
                messages[:last], add_generation_prompt=False, tools=tools
            )
        )
        if text.startswith(before) and text.startswith(after):
            spans.append((len(before), _end(after, messages[last - 1])))
    return text, spans


def _end(text: str, message: Message) -> int:
    """Where the turn at the end of `text` ends: after the token that ends it, or after
    white space where nothing else does.
    """
    stripped, content = text.rstrip(), (message.get("content") or "").rstrip()
    return len(text) if content and stripped.endswith(content) else len(stripped)


def _marked(text: str) -> tuple[str, list[Span]]:
    plain, spans, length = list[str](), list[Span](), 0
    for piece in re.split(f"({SPOKEN}[^{SILENT}]*{SILENT})", text):
        bare = piece.strip(SPOKEN + SILENT) if piece.startswith(SPOKEN) else piece
        if piece.startswith(SPOKEN):
            spans.append((length, length + len(bare)))
        plain.append(bare)
        length += len(bare)
    return "".join(plain), spans
