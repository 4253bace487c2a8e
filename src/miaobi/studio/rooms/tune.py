"""Tune a model on examples: what it would cost first, then a job with its curves, its
messages, a stop and a way to go on.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gradio as gr

from miaobi.studio.rooms.drawing import text
from miaobi.studio.rooms.room import Desk, still_there
from miaobi.studio.rooms.runs import Runs
from miaobi.studio.rooms.work import TUNING

TITLE = ("Tune", "调优")
ORDER = 40


def build(desk: Desk) -> None:
    say = desk.say
    gr.Markdown(
        say(
            "## Teach a model\nExamples in, a model under its own name out: "
            "see first what it costs here, then start. It goes on in the "
            "background.",
            "## 教模型新本领\n放入示例，得到有自己名字的模型：先看在这台机器上的成本，再开始；任务在后台进行。",
        ),
        elem_classes="lead",
    )
    with gr.Row(elem_classes="room"):
        with gr.Column(scale=1, min_width=320, elem_classes="side"):
            base = gr.Dropdown([], label=say("Begin with", "基础模型"), elem_id="base")
            source = gr.Radio(
                [
                    (say("a file", "文件"), "file"),
                    (say("feedback kept here", "此处的反馈"), "feedback"),
                ],
                value="file",
                label=say("Examples", "示例"),
            )
            file = gr.File(
                label=say("JSONL, one example a line", "JSONL，每行一个示例"),
                file_types=[".jsonl"],
                height=150,
                elem_id="examples",
            )
            gr.HTML(
                f'<details class="shapes"><summary>{text(say("What a line looks like", "每行的格式"))}</summary>'
                '<code>{"messages": [{"role": "user", "content": "…"}, {"role": "assistant", "content": "…"}]}</code>'
                '<code>{"prompt": "…", "chosen": "…", "rejected": "…"}</code></details>',
                padding=False,
            )
            method = gr.Radio(
                [
                    (say("examples to imitate", "模仿示例"), "supervised"),
                    (say("preferences", "偏好"), "dpo"),
                ],
                value="supervised",
                label=say("Learns from", "学习方式"),
            )
            suffix = gr.Textbox(
                label=say("Name for the tuned model", "给新模型起名"),
                max_lines=1,
                placeholder="support",
                elem_id="suffix",
            )
            with gr.Row():
                epochs = gr.Textbox(
                    "", label=say("Epochs", "轮数"), placeholder="auto", max_lines=1
                )
                seed = gr.Textbox("", label=say("Seed", "随机种子"), max_lines=1)
            with gr.Row():
                estimate = gr.Button(say("Estimate", "估算成本"), elem_id="estimate")
                start = gr.Button(
                    say("Start", "开始"), variant="primary", elem_id="start"
                )
            cost = gr.HTML(padding=False, elem_id="cost")
        with gr.Column(scale=2, min_width=320):
            runs = Runs(desk, TUNING, "tune")
    room = Tune(desk, runs)
    asked = [base, source, file, method, suffix, epochs, seed]
    desk.on_entry(room.enter, [base, *runs.shown], [base, runs.job])
    estimate.click(room.estimate, asked, [cost], api_visibility="private")
    start.click(room.start, asked, [*runs.shown, cost], api_visibility="private")


class Tune:
    def __init__(self, desk: Desk, runs: Runs) -> None:
        self.desk, self.runs = desk, runs

    async def enter(
        self, base: str | None, job: str | None, visitor: gr.Request
    ) -> tuple[Any, ...]:
        names = await self.desk.models(visitor, "text")
        return gr.Dropdown(
            names, value=still_there(base, names)
        ), *await self.runs.enter(job, visitor)

    async def body(
        self,
        visitor: gr.Request,
        base: str | None,
        source: str,
        file: str | None,
        method: str,
        suffix: str,
        epochs: str,
        seed: str,
    ) -> dict[str, Any]:
        """The job to ask for; its examples are uploaded on the way."""
        if source == "feedback":
            content, method = (
                await self.desk.content(visitor, "/v1/feedback/export"),
                "dpo",
            )
            if not content:
                raise self.desk.error(
                    "There are no edits or votes yet. Collect some in Chat and Compare.",
                    "还没有修改或投票。请先在“对话”和“比较”中积累。",
                )
        elif file:
            content = Path(file).read_bytes()
        else:
            raise self.desk.error(
                "Choose a file with examples first.", "请先选择示例文件。"
            )
        kept = await self.desk.call(
            visitor,
            "POST",
            "/v1/files",
            data={"purpose": "fine-tune"},
            files={"file": ("examples.jsonl", content)},
        )
        settings = {
            name: value
            for name, value in (("n_epochs", self.desk.number(epochs)),)
            if value is not None
        }
        body = {
            "model": base or "",
            "training_file": kept["id"],
            "method": {"type": method, method: {"hyperparameters": settings}},
        }
        extra = {
            "suffix": (suffix or "").strip() or None,
            "seed": self.desk.number(seed),
        }
        return body | {
            name: value for name, value in extra.items() if value is not None
        }

    async def estimate(
        self,
        base: str | None,
        source: str,
        file: str | None,
        method: str,
        suffix: str,
        epochs: str,
        seed: str,
        visitor: gr.Request,
    ) -> str:
        return await self.runs.estimate(
            await self.body(visitor, base, source, file, method, suffix, epochs, seed),
            visitor,
        )

    async def start(
        self,
        base: str | None,
        source: str,
        file: str | None,
        method: str,
        suffix: str,
        epochs: str,
        seed: str,
        visitor: gr.Request,
    ) -> tuple[Any, ...]:
        return await self.runs.start(
            await self.body(visitor, base, source, file, method, suffix, epochs, seed),
            visitor,
        )
