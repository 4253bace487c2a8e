"""Tune a model on examples: what it would cost first, then a job with its curves, its messages, a stop and a way to go on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gradio as gr

from miaobi.studio.drawing import notice, sign, table, text
from miaobi.studio.room import QUIET, Desk, still_there
from miaobi.studio.work import OVER, TUNING, curves, messages, named, path_of, state

TITLE = ("Tune", "调优")
ORDER = 40
EVENTS = 1000
EVERY = 2.0
"""Seconds between two looks at a job that runs."""


def build(desk: Desk) -> None:
    say = desk.say
    gr.Markdown(say("## Teach a model\nExamples in, a model under its own name out: see first what it costs here, then start. It goes on in the background.",
                    "## 教模型新本领\n放入示例，得到有自己名字的模型：先看在这台机器上的成本，再开始；任务在后台进行。"), elem_classes="lead")
    with gr.Row(elem_classes="room"):
        with gr.Column(scale=1, min_width=320, elem_classes="side"):
            base = gr.Dropdown([], label=say("Begin with", "基础模型"), elem_id="base")
            source = gr.Radio([(say("a file", "文件"), "file"), (say("feedback kept here", "此处的反馈"), "feedback")], value="file", label=say("Examples", "示例"))
            file = gr.File(label=say("JSONL, one example a line", "JSONL，每行一个示例"), file_types=[".jsonl"], height=120, elem_id="examples")
            gr.HTML(f'<details class="shapes"><summary>{text(say("What a line looks like", "每行的格式"))}</summary>'
                    '<code>{"messages": [{"role": "user", "content": "…"}, {"role": "assistant", "content": "…"}]}</code>'
                    '<code>{"prompt": "…", "chosen": "…", "rejected": "…"}</code></details>', padding=False)
            method = gr.Radio([(say("examples to imitate", "模仿示例"), "supervised"), (say("preferences", "偏好"), "dpo")], value="supervised", label=say("Learns from", "学习方式"))
            suffix = gr.Textbox(label=say("Name for the tuned model", "给新模型起名"), max_lines=1, placeholder="support", elem_id="suffix")
            with gr.Row():
                epochs = gr.Textbox("", label=say("Epochs", "轮数"), placeholder="auto", max_lines=1)
                seed = gr.Textbox("", label=say("Seed", "随机种子"), max_lines=1)
            with gr.Row():
                estimate = gr.Button(say("Estimate", "估算成本"), elem_id="estimate")
                start = gr.Button(say("Start", "开始"), variant="primary", elem_id="start")
            cost = gr.HTML(padding=False, elem_id="cost")
        with gr.Column(scale=2, min_width=320):
            with gr.Row(elem_classes="bar"):
                job = gr.Dropdown([], label=say("Run", "训练任务"), scale=3, elem_id="run")
                stop = gr.Button(say("Stop", "暂停"), scale=1, elem_id="pause")
                resume = gr.Button(say("Go on", "继续"), scale=1, elem_id="resume")
            view = gr.HTML(padding=False, elem_id="view")
    clock = gr.Timer(EVERY, active=False)
    room = Tune(desk)
    asked = [base, source, file, method, suffix, epochs, seed]
    shown = [job, view, clock]
    desk.on_entry(room.enter, [base, *shown], [base, job])
    estimate.click(room.estimate, asked, [cost], api_visibility="private")
    start.click(room.start, asked, [*shown, cost], api_visibility="private")
    gr.on([job.input, clock.tick], room.look, [job], [view, clock], **QUIET)
    stop.click(room.doing("pause"), [job], [view, clock], **QUIET)
    resume.click(room.doing("resume"), [job], [view, clock], **QUIET)


class Tune:
    def __init__(self, desk: Desk) -> None:
        self.desk = desk

    async def enter(self, base: str | None, job: str | None, visitor: gr.Request) -> tuple[Any, ...]:
        names = await self.desk.models(visitor, "text")
        return gr.Dropdown(names, value=still_there(base, names)), *await self.runs(job, visitor)

    async def runs(self, job: str | None, visitor: gr.Request) -> tuple[Any, ...]:
        found = {item["id"]: named(item) for item in (await self.desk.call(visitor, "GET", TUNING, params={"limit": 50}))["data"]}
        job = still_there(job, found)
        return gr.Dropdown([(name, id) for id, name in found.items()], value=job), *await self.look(job, visitor)

    async def body(self, visitor: gr.Request, base: str | None, source: str, file: str | None, method: str, suffix: str, epochs: str, seed: str) -> dict[str, Any]:
        """The job to ask for; its examples are uploaded on the way."""
        if source == "feedback":
            content, method = await self.desk.content(visitor, "/v1/feedback/export"), "dpo"
            if not content:
                raise self.desk.error("There are no edits or votes yet. Collect some in Chat and Compare.", "还没有修改或投票。请先在“对话”和“比较”中积累。")
        elif file:
            content = Path(file).read_bytes()
        else:
            raise self.desk.error("Choose a file with examples first.", "请先选择示例文件。")
        kept = await self.desk.call(visitor, "POST", "/v1/files", data={"purpose": "fine-tune"}, files={"file": ("examples.jsonl", content)})
        settings = {name: value for name, value in (("n_epochs", self.desk.number(epochs)),) if value is not None}
        body = {"model": base or "", "training_file": kept["id"], "method": {"type": method, method: {"hyperparameters": settings}}}
        extra = {"suffix": (suffix or "").strip() or None, "seed": self.desk.number(seed)}
        return body | {name: value for name, value in extra.items() if value is not None}

    async def estimate(self, base: str | None, source: str, file: str | None, method: str, suffix: str, epochs: str, seed: str, visitor: gr.Request) -> str:
        body = await self.body(visitor, base, source, file, method, suffix, epochs, seed)
        known = await self.desk.call(visitor, "POST", "/v1/fine_tuning/estimates", json=body)
        return notice(known["message"])

    async def start(self, base: str | None, source: str, file: str | None, method: str, suffix: str, epochs: str, seed: str, visitor: gr.Request) -> tuple[Any, ...]:
        body = await self.body(visitor, base, source, file, method, suffix, epochs, seed)
        begun = await self.desk.call(visitor, "POST", TUNING, json=body)
        return *await self.runs(begun["id"], visitor), ""

    async def look(self, job: str | None, visitor: gr.Request) -> tuple[str, Any]:
        """The run as it stands; the clock ticks while it runs."""
        say = self.desk.say
        if not job:
            return notice(say("Runs appear here, with their curves.", "训练任务及其曲线会显示在这里。")), gr.Timer(active=False)
        known = await self.desk.call(visitor, "GET", path_of(job))
        events = (await self.desk.call(visitor, "GET", f"{path_of(job)}/events", params={"limit": EVENTS}))["data"]
        rows = [[state(self.desk, known["status"]), text(known["model"]), sign(known["fine_tuned_model"], "good") if known["fine_tuned_model"] else "–"]]
        head = table([say("State", "状态"), say("From", "基础模型"), say("Answers as", "模型名")], rows, say("This run", "此任务"))
        problem = (known.get("error") or {}).get("message")
        told = f'<p role="alert" class="problem">{text(problem)}</p>' if problem else ""
        view = f'<div class="run">{head}{told}{curves(self.desk, events)}{messages(self.desk, events)}</div>'
        return view, gr.Timer(active=known["status"] not in (*OVER, "paused"))

    def doing(self, what: str) -> Any:
        async def done(job: str | None, visitor: gr.Request) -> tuple[str, Any]:
            if not job:
                raise self.desk.error("There is no run yet.", "还没有训练任务。")
            await self.desk.call(visitor, "POST", f"{path_of(job)}/{what}")
            return await self.look(job, visitor)
        return done
