"""One question to two models, side by side and unnamed. The vote is blind, and kept as
feedback; then the names are told.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from typing import Any

import gradio as gr

from miaobi.studio.rooms.dialogue import asked, controls, resting, written
from miaobi.studio.rooms.room import QUIET, Desk, Refusal, still_there

TITLE = ("Compare", "比较")
ORDER = 20


def build(desk: Desk) -> None:
    say = desk.say
    gr.Markdown(
        say(
            "## Which answers better?\nTwo models, in an order that chance "
            "decides. Their names are shown when you have voted.",
            "## 哪个回答更好？\n两个模型的左右顺序随机。投票之后揭晓名称。",
        ),
        elem_classes="lead",
    )
    with gr.Row():
        first = gr.Dropdown(
            [], label=say("One model", "模型一"), elem_id="compare-first"
        )
        second = gr.Dropdown(
            [], label=say("Another model", "模型二"), elem_id="compare-second"
        )
    with gr.Row(elem_classes="ask", equal_height=True):
        box = gr.Textbox(
            label=say("Your question", "你的问题"),
            show_label=False,
            placeholder=say("Ask both", "同时向两个模型提问"),
            max_lines=8,
            container=False,
            scale=8,
            elem_id="question",
        )
        ask = gr.Button(
            say("Ask both", "提问"),
            variant="primary",
            scale=1,
            min_width=110,
            elem_id="ask-both",
        )
        stop = gr.Button(
            say("Stop", "停止"), variant="stop", visible=False, scale=1, min_width=110
        )
    with gr.Row(equal_height=True):
        panes = [
            gr.Markdown(
                elem_id=f"answer-{side}",
                elem_classes="pane generated",
                min_height=180,
                container=True,
                show_label=True,
                label=label,
            )
            for side, label in (
                ("left", say("Left", "左")),
                ("right", say("Right", "右")),
            )
        ]
    with gr.Row(elem_classes="votes"):
        votes = [
            gr.Button(label, interactive=False, elem_id=f"vote-{value}")
            for value, label in (
                ("left", say("Left is better", "左边更好")),
                ("alike", say("Both alike", "不分上下")),
                ("right", say("Right is better", "右边更好")),
            )
        ]
    verdict = gr.Markdown(elem_id="verdict")
    with gr.Accordion(say("Settings", "设置"), open=False):
        values = controls(desk)
    match = gr.State(None)
    room = Compare(desk)
    desk.on_entry(room.models, [first, second], [first, second])
    outputs = [*panes, *votes, verdict, match, ask, stop]
    run = gr.on(
        [ask.click, box.submit],
        room.ask,
        [box, first, second, *values],
        outputs,
        **QUIET,
    )
    run.failure(resting, None, [ask, stop], **QUIET)
    stop.click(room.halt, None, [ask, stop], cancels=[run], **QUIET)
    for side, button in zip(("left", "alike", "right"), votes, strict=True):
        button.click(room.voter(side), [match], [*votes, verdict], **QUIET)


class Compare:
    def __init__(self, desk: Desk) -> None:
        self.desk = desk

    async def models(
        self, first: str | None, second: str | None, visitor: gr.Request
    ) -> tuple[Any, Any]:
        names = await self.desk.models(visitor, "text")
        one = still_there(first, names)
        other = (
            second
            if second in names
            else next((name for name in names if name != one), one)
        )
        return gr.Dropdown(names, value=one), gr.Dropdown(names, value=other)

    async def ask(
        self,
        question: str,
        first: str | None,
        second: str | None,
        system: str,
        temperature: float,
        top_p: float,
        longest: int,
        seed: str,
        visitor: gr.Request,
    ) -> AsyncIterator[tuple[Any, ...]]:
        if not question.strip():
            raise self.desk.error("Write a question first.", "请先写一个问题。")
        names = [first or "", second or ""]
        if secrets.randbelow(2):
            names.reverse()
        messages = [{"role": "user", "content": question}]
        bodies = [
            asked(
                self.desk, name, messages, (system, temperature, top_p, longest, seed)
            )
            for name in names
        ]
        waiting = (
            *(gr.Button(interactive=False),) * 3,
            "",
            None,
            gr.Button(visible=False),
            gr.Button(visible=True),
        )
        texts = ["", ""]
        try:
            async with aclosing(self.both(visitor, bodies)) as pieces:
                async for texts in pieces:
                    yield *texts, *waiting
        except Refusal as refusal:
            refusal.tell()
            yield *texts, *waiting[:5], *resting()
            return
        yield (
            *texts,
            *(gr.Button(interactive=True),) * 3,
            "",
            {"names": names, "texts": texts, "messages": messages},
            *resting(),
        )

    async def both(
        self, visitor: gr.Request, bodies: list[dict[str, Any]]
    ) -> AsyncGenerator[list[str]]:
        """The two answers so far. Leaving early stops both."""
        texts, news = ["", ""], asyncio.Event()

        async def follow(side: int) -> None:
            try:
                async with aclosing(
                    written(self.desk, visitor, bodies[side])
                ) as pieces:
                    async for text in pieces:
                        texts[side] = text
                        news.set()
            finally:
                news.set()

        tasks = [asyncio.create_task(follow(side)) for side in (0, 1)]
        try:
            while not all(task.done() for task in tasks):
                await news.wait()
                news.clear()
                yield [*texts]
                for task in tasks:
                    if task.done():
                        task.result()
            await asyncio.gather(*tasks)
            yield [*texts]
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def halt(self, visitor: gr.Request) -> tuple[Any, Any]:
        await self.desk.stop(visitor)
        return resting()

    def voter(self, side: str) -> Any:
        async def vote(
            match: dict[str, Any] | None, visitor: gr.Request
        ) -> tuple[Any, ...]:
            if match is None:
                raise self.desk.error(
                    "There is nothing to vote on yet.", "还没有可以投票的回答。"
                )
            names, texts, better = (
                match["names"],
                match["texts"],
                {"left": 0, "alike": 0, "right": 1}[side],
            )
            told: dict[str, Any] = {
                "kind": "vote",
                "model": names[better],
                "other": names[1 - better],
                "messages": match["messages"],
                "label": None if side == "alike" else True,
                "chosen": texts[better],
                "rejected": texts[1 - better],
            }
            await self.desk.call(visitor, "POST", "/v1/feedback", json=told)
            say = self.desk.say
            result = {
                "left": say("You chose the left one.", "你选择了左边。"),
                "right": say("You chose the right one.", "你选择了右边。"),
                "alike": say("You found both alike.", "你认为不分上下。"),
            }[side]
            return (
                *(gr.Button(interactive=False),) * 3,
                f"**{result}** {say('Left', '左')}: `{names[0]}` · {say('Right', '右')}: `{names[1]}`",
            )

        return vote
