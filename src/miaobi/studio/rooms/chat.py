"""Talk with a model: answers as they are written, stop, retry, edit. Thumbs and edits
are kept as feedback to tune on.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any

import gradio as gr

from miaobi.studio.dialogue import Message, asked, controls, plain, resting, written
from miaobi.studio.room import QUIET, Desk, Refusal, still_there

TITLE = ("Chat", "对话")
ORDER = 10


def build(desk: Desk) -> None:
    say = desk.say
    with gr.Row(elem_classes="room"):
        with gr.Column(scale=3, min_width=320):
            chat = gr.Chatbot(
                label=say("Dialogue", "对话"),
                show_label=False,
                height="58vh",
                min_height=320,
                elem_classes="generated",
                editable="all",
                buttons=["copy"],
                layout="bubble",
                allow_tags=False,
                sanitize_html=True,
                placeholder=_welcome(desk),
                allow_file_downloads=False,
            )
            with gr.Row(elem_classes="ask", equal_height=True):
                box = gr.Textbox(
                    label=say("Your message", "你的消息"),
                    show_label=False,
                    placeholder=say("Write a message", "写一条消息"),
                    lines=1,
                    max_lines=8,
                    container=False,
                    scale=8,
                    autofocus=True,
                    elem_id="message",
                )
                send = gr.Button(
                    say("Send", "发送"),
                    variant="primary",
                    scale=1,
                    min_width=96,
                    elem_id="send",
                )
                stop = gr.Button(
                    say("Stop", "停止"),
                    variant="stop",
                    scale=1,
                    min_width=96,
                    visible=False,
                    elem_id="stop",
                )
        with gr.Column(scale=1, min_width=260, elem_classes="side"):
            model = gr.Dropdown([], label=say("Model", "模型"), elem_id="chat-model")
            with gr.Accordion(say("Settings", "设置"), open=True):
                values = controls(desk)
            new = gr.Button(say("New dialogue", "新对话"))
    Chat(desk, chat, box, send, stop, model, values).connect(new)


def _welcome(desk: Desk) -> str:
    return desk.say(
        "### What shall we write?\nAnswers come from the chosen model, on this "
        "machine. A thumb or an edit teaches the next one.",
        "### 想写点什么？\n回答由所选的模型在本机生成。点赞或修改会用于改进下一个模型。",
    )


class Chat:
    """What happens in the room. The dialogue lies in the page; the server keeps nothing
    of it but feedback.
    """

    def __init__(
        self,
        desk: Desk,
        chat: gr.Chatbot,
        box: gr.Textbox,
        send: gr.Button,
        stop: gr.Button,
        model: gr.Dropdown,
        values: list[gr.components.Component],
    ) -> None:
        (
            self.desk,
            self.chat,
            self.box,
            self.send,
            self.stop,
            self.model,
            self.values,
        ) = desk, chat, box, send, stop, model, values

    def connect(self, new: gr.Button) -> None:
        buttons, given = [self.send, self.stop], [self.chat, self.model, *self.values]
        self.desk.on_entry(self.models, [self.model], [self.model])
        added = gr.on(
            [self.box.submit, self.send.click],
            self.add,
            [self.box, self.chat],
            [self.box, self.chat, *buttons],
            **QUIET,
        )
        again = self.chat.retry(self.cut, [self.chat], [self.chat, *buttons], **QUIET)
        edited = self.chat.edit(
            self.edit, [self.chat, self.model], [self.chat, *buttons], **QUIET
        )
        # "multiple": whoever stops an answer and asks at once again is not turned away
        # because the first has not quite ended.
        runs = [
            event.success(
                self.answer, given, [self.chat], trigger_mode="multiple", **QUIET
            )
            for event in (added, again, edited)
        ]
        for run in runs:
            run.success(resting, None, buttons, **QUIET)
            run.failure(resting, None, buttons, **QUIET)
        self.stop.click(self.halt, None, buttons, cancels=runs, **QUIET)
        self.chat.like(self.thumb, [self.chat, self.model], None, **QUIET)
        self.chat.undo(self.back, [self.chat], [self.chat, self.box], **QUIET)
        new.click(self.fresh, None, [self.chat, *buttons], cancels=runs, **QUIET)

    async def models(self, chosen: str | None, visitor: gr.Request) -> Any:
        names = await self.desk.models(visitor, "text")
        return gr.Dropdown(names, value=still_there(chosen, names))

    def add(self, text: str, history: list[Message]) -> tuple[Any, ...]:
        if not text.strip():
            raise self.desk.error("Write a message first.", "请先写一条消息。")
        return "", [*history, {"role": "user", "content": text}], *self.busy()

    def cut(self, history: list[Message], retry: gr.RetryData) -> tuple[Any, ...]:
        """Up to and with the user's message that is asked again."""
        return history[: _index(retry) + 1], *self.busy()

    def back(
        self, history: list[Message], undo: gr.UndoData
    ) -> tuple[list[Message], str]:
        at = _index(undo)
        return history[:at], plain(history[at])

    async def edit(
        self,
        history: list[Message],
        model: str,
        edited: gr.EditData,
        visitor: gr.Request,
    ) -> tuple[Any, ...]:
        """An own message is asked anew; a better wording of the model's becomes
        feedback, and stays.
        """
        at, better = _index(edited), plain({"content": edited.value})
        if history[at]["role"] == "user":
            return [*history[:at], {"role": "user", "content": better}], *self.busy()
        before = plain({"content": edited.previous_value})
        if better.strip() and better != before:
            await self.keep(
                visitor,
                {
                    "kind": "edit",
                    "model": model,
                    "messages": _messages(history[:at]),
                    "chosen": better,
                    "rejected": before,
                },
            )
        return (
            [*history[:at], {**history[at], "content": better}, *history[at + 1 :]],
            gr.skip(),
            gr.skip(),
        )

    async def answer(
        self,
        history: list[Message],
        model: str,
        system: str,
        temperature: float,
        top_p: float,
        longest: int,
        seed: str,
        visitor: gr.Request,
    ) -> AsyncIterator[list[Message]]:
        if not history or history[-1]["role"] != "user":
            yield history
            return
        shown = history
        try:
            body = asked(
                self.desk, model, history, (system, temperature, top_p, longest, seed)
            )
            async with aclosing(written(self.desk, visitor, body)) as pieces:
                async for text in pieces:
                    shown = [*history, {"role": "assistant", "content": text}]
                    yield shown
        except Refusal as refusal:
            refusal.tell()
            yield shown

    async def thumb(
        self,
        history: list[Message],
        model: str,
        liked: gr.LikeData,
        visitor: gr.Request,
    ) -> None:
        at = _index(liked)
        if liked.liked in ("Like", "Dislike", True, False):
            await self.keep(
                visitor,
                {
                    "kind": "thumb",
                    "model": model,
                    "messages": _messages(history[:at]),
                    "chosen": plain(history[at]),
                    "label": liked.liked in ("Like", True),
                },
            )

    async def keep(self, visitor: gr.Request, feedback: dict[str, Any]) -> None:
        await self.desk.call(visitor, "POST", "/v1/feedback", json=feedback)
        gr.Info(
            self.desk.say("Kept as feedback.", "已记为反馈。"), duration=3, title=""
        )

    def busy(self) -> tuple[Any, Any]:
        return gr.Button(visible=False), gr.Button(visible=True)

    async def halt(self, visitor: gr.Request) -> tuple[Any, Any]:
        await self.desk.stop(visitor)
        return resting()

    def fresh(self) -> tuple[Any, ...]:
        return [], *resting()


def _messages(history: list[Message]) -> list[Message]:
    return [{"role": item["role"], "content": plain(item)} for item in history]


def _index(event: gr.LikeData | gr.RetryData | gr.UndoData | gr.EditData) -> int:
    return event.index if isinstance(event.index, int) else event.index[0]
