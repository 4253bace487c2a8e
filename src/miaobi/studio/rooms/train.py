"""Train a model from nothing by a recipe, on its data or one's own: what it would cost
first, then a run with its curves and samples.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gradio as gr

from miaobi.studio.rooms.room import Desk, still_there
from miaobi.studio.rooms.runs import Runs
from miaobi.studio.rooms.work import TRAINING

TITLE = ("Train", "训练")
ORDER = 35
ENDINGS = [".txt", ".jsonl", ".json", ".csv", ".parquet", ".gz", ".zip"]


def build(desk: Desk) -> None:
    say = desk.say
    gr.Markdown(
        say(
            "## Train from nothing\nA recipe says how; its own data or yours "
            "say what. See first what it costs here, then start. It goes on in "
            "the background.",
            "## 从零训练\n配方决定怎样学，自带或您自己的数据决定学什么。"
            "先看在这台机器上的成本，再开始；任务在后台进行。",
        ),
        elem_classes="lead",
    )
    with gr.Row(elem_classes="room"):
        with gr.Column(scale=1, min_width=320, elem_classes="side"):
            recipe = gr.Dropdown([], label=say("Recipe", "配方"), elem_id="recipe")
            file = gr.File(
                label=say(
                    "Your own text, table or ZIP of pictures",
                    "您自己的文本、表格或 ZIP 图片包",
                ),
                file_types=ENDINGS,
                height=150,
                elem_id="data",
            )
            suffix = gr.Textbox(
                label=say("Added to the model's name", "模型名后缀"),
                max_lines=1,
                placeholder="mine",
                elem_id="train-suffix",
            )
            with gr.Row():
                steps = gr.Textbox(
                    "",
                    label=say("Steps", "步数"),
                    placeholder=say("as the recipe says", "按配方"),
                    max_lines=1,
                    elem_id="steps",
                )
                seed = gr.Textbox("", label=say("Seed", "随机种子"), max_lines=1)
            with gr.Row():
                estimate = gr.Button(
                    say("Estimate", "估算成本"), elem_id="train-estimate"
                )
                start = gr.Button(
                    say("Start", "开始"), variant="primary", elem_id="train-start"
                )
            cost = gr.HTML(padding=False, elem_id="train-cost")
        with gr.Column(scale=2, min_width=320):
            runs = Runs(desk, TRAINING, "train")
    room = Train(desk, runs)
    asked = [recipe, file, suffix, steps, seed]
    desk.on_entry(room.enter, [recipe, *runs.shown], [recipe, runs.job])
    estimate.click(room.estimate, asked, [cost], api_visibility="private")
    start.click(room.start, asked, [*runs.shown, cost], api_visibility="private")


class Train:
    def __init__(self, desk: Desk, runs: Runs) -> None:
        self.desk, self.runs = desk, runs

    async def enter(
        self, recipe: str | None, job: str | None, visitor: gr.Request
    ) -> tuple[Any, ...]:
        found = {
            item["id"]: self.named(item)
            for item in (await self.desk.call(visitor, "GET", "/v1/training/recipes"))[
                "data"
            ]
        }
        return gr.Dropdown(
            [(name, id) for id, name in found.items()], value=still_there(recipe, found)
        ), *await self.runs.enter(job, visitor)

    def named(self, recipe: dict[str, Any]) -> str:
        kind = (
            self.desk.say("writes", "文本")
            if recipe["modality"] == "text"
            else self.desk.say("makes pictures", "图片")
        )
        return (
            f"{recipe['id']} · {kind} · {recipe['family']} · "
            f"{recipe['data'] or self.desk.say('your data', '您的数据')}"
        )

    async def body(
        self,
        visitor: gr.Request,
        recipe: str | None,
        file: str | None,
        suffix: str,
        steps: str,
        seed: str,
    ) -> dict[str, Any]:
        """The job to ask for; its data is uploaded on the way."""
        body: dict[str, Any] = {
            "recipe": recipe or "",
            "suffix": (suffix or "").strip() or None,
            "seed": self.desk.number(seed),
        }
        count = self.desk.number(steps)
        if count is not None:
            body["miaobi"] = {"train.max_steps": count}
        if file:
            kept = await self.desk.call(
                visitor,
                "POST",
                "/v1/files",
                data={"purpose": "user_data"},
                files={"file": (Path(file).name, Path(file).read_bytes())},
            )
            body["training_file"] = kept["id"]
        return body

    async def estimate(
        self,
        recipe: str | None,
        file: str | None,
        suffix: str,
        steps: str,
        seed: str,
        visitor: gr.Request,
    ) -> str:
        return await self.runs.estimate(
            await self.body(visitor, recipe, file, suffix, steps, seed), visitor
        )

    async def start(
        self,
        recipe: str | None,
        file: str | None,
        suffix: str,
        steps: str,
        seed: str,
        visitor: gr.Request,
    ) -> tuple[Any, ...]:
        return await self.runs.start(
            await self.body(visitor, recipe, file, suffix, steps, seed), visitor
        )
