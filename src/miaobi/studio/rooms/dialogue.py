"""What chat and compare share: the settings of an answer, a dialogue in OpenAI's shape,
an answer as it is written.
"""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import Any

import gradio as gr

from miaobi.studio.rooms.room import Desk, Refusal

PACE = 0.06
"""Seconds between two looks at a text that is being written: faster than the eye, and
few enough messages for the browser.
"""
Message = dict[str, Any]


def controls(desk: Desk) -> list[gr.components.Component]:
    """System prompt, temperature, top_p, max_tokens, seed: in the order that `asked` takes them."""
    say = desk.say
    return [
        gr.Textbox(
            label=say("System prompt", "系统提示"),
            placeholder=say("You answer briefly and kindly.", "你回答简洁而友善。"),
            lines=3,
            max_lines=8,
        ),
        gr.Slider(
            0,
            2,
            0.7,
            step=0.05,
            label=say("Temperature", "温度"),
            info=say("0 is always the likeliest word", "0 表示总取最可能的词"),
            buttons=[],
        ),
        gr.Slider(
            0.05,
            1,
            0.95,
            step=0.05,
            label=say("Top-p", "Top-p"),
            info=say(
                "how much of the likely words to draw from",
                "从概率最高的多大范围内抽取",
            ),
            buttons=[],
        ),
        gr.Slider(
            1,
            2048,
            256,
            step=1,
            label=say("Longest answer, in tokens", "最长回答（词元）"),
            buttons=[],
        ),
        gr.Textbox(
            "",
            label=say("Seed", "随机种子"),
            info=say(
                "the same seed gives the same answer; empty draws one",
                "相同种子得到相同回答；留空则随机",
            ),
            max_lines=1,
        ),
    ]


def resting() -> tuple[Any, Any]:
    """The buttons to send and to stop, while nothing is being written."""
    return gr.Button(visible=True), gr.Button(visible=False)


def asked(
    desk: Desk, model: str | None, history: Sequence[Message], values: Sequence[Any]
) -> dict[str, Any]:
    """The body of /v1/chat/completions for this dialogue."""
    system, temperature, top_p, longest, seed = values
    messages = (
        [{"role": "system", "content": system.strip()}]
        if system and system.strip()
        else []
    )
    messages += [{"role": item["role"], "content": plain(item)} for item in history]
    body = {
        "model": model or "",
        "messages": messages,
        "temperature": temperature,
        "top_p": top_p,
        "max_tokens": int(longest),
    }
    number = desk.number(seed)
    return body if number is None else {**body, "seed": number}


def plain(message: Message) -> str:
    """The text of a message as Gradio hands it over: a string, or a list of parts."""
    content = message["content"]
    parts = content if isinstance(content, list) else [content]
    return "".join(
        part if isinstance(part, str) else str(part.get("text", "")) for part in parts
    )


async def written(
    desk: Desk, visitor: gr.Request, body: dict[str, Any]
) -> AsyncGenerator[str]:
    """The answer so far, again and again, and whole at the end. Leaving early stops the
    work. A model without a chat template goes on with the last message as with any
    text.
    """
    text, shown = "", 0.0
    try:
        async with aclosing(_pieces(desk, visitor, body)) as pieces:
            async for piece in pieces:
                text += piece
                if time.monotonic() - shown > PACE:
                    shown = time.monotonic()
                    yield text
    except Refusal as refusal:
        if refusal.code != "unsupported" or "messages" not in body:
            raise
        plain_body = {
            name: value for name, value in body.items() if name != "messages"
        } | {"prompt": body["messages"][-1]["content"]}
        async with aclosing(written(desk, visitor, plain_body)) as going_on:
            async for text in going_on:
                yield text
        return
    yield text


async def _pieces(
    desk: Desk, visitor: gr.Request, body: dict[str, Any]
) -> AsyncGenerator[str]:
    path = "/v1/chat/completions" if "messages" in body else "/v1/completions"
    async with aclosing(desk.events(visitor, path, body)) as events:
        async for event in events:
            for choice in event.get("choices", ()):
                yield (
                    choice["delta"].get("content")
                    if "delta" in choice
                    else choice["text"]
                ) or ""
