"""The models of this server: where each version came from, how it scores, which one its
name means now.
"""

from __future__ import annotations

from typing import Any

import gradio as gr

from miaobi.studio.drawing import lineage, notice, sign, size, table, text, when
from miaobi.studio.room import Desk

TITLE = ("Models", "模型")
ORDER = 50
STORE = "/v1/store/models"


def build(desk: Desk) -> None:
    say = desk.say
    gr.Markdown(
        say(
            "## Models\nEvery version made here, and what it came from. "
            "Promoting a version makes its bare name mean it, without a "
            "request lost.",
            "## 模型\n这里制作的每个版本及其来源。设为正式版后，模型名即指该版本，不会中断任何请求。",
        ),
        elem_classes="lead",
    )
    listing = gr.HTML(padding=False)
    with gr.Row(equal_height=True, elem_classes="bar"):
        chosen = gr.Dropdown(
            [], label=say("Version", "版本"), scale=3, elem_id="version"
        )
        promote = gr.Button(say("Promote", "设为正式版"), variant="primary", scale=1)
        back = gr.Button(say("Roll back", "退回上一正式版"), scale=1)

    async def show(visitor: gr.Request) -> tuple[str, Any]:
        made = (await desk.call(visitor, "GET", STORE))["data"]
        served = [
            item["id"]
            for item in (await desk.call(visitor, "GET", "/v1/models"))["data"]
        ]
        names = [item["id"] for item in made]
        return _listing(desk, made, served), gr.Dropdown(
            names, value=names[-1] if names else None
        )

    async def promoted(version: str, visitor: gr.Request) -> tuple[str, Any]:
        name, _, number = _picked(desk, version).partition("@")
        done = await desk.call(
            visitor, "POST", f"{STORE}/{name}/promote", json={"version": int(number)}
        )
        gr.Info(done["message"], title="")
        return await show(visitor)

    async def rolled_back(version: str, visitor: gr.Request) -> tuple[str, Any]:
        done = await desk.call(
            visitor,
            "POST",
            f"{STORE}/{_picked(desk, version).partition('@')[0]}/rollback",
        )
        gr.Info(done["message"], title="")
        return await show(visitor)

    desk.on_entry(show, [listing, chosen])
    promote.click(promoted, [chosen], [listing, chosen], api_visibility="private")
    back.click(rolled_back, [chosen], [listing, chosen], api_visibility="private")


def _picked(desk: Desk, version: str | None) -> str:
    if not version:
        raise desk.error("Choose a version first.", "请先选择版本。")
    return version


def _listing(desk: Desk, made: list[dict[str, Any]], served: list[str]) -> str:
    say, parents = desk.say, {item["id"]: item["parents"] for item in made}
    own = {item["name"] for item in made}
    others = [name for name in served if name.partition("@")[0] not in own]
    rows = [
        [
            f"<b>{text(item['id'])}</b>"
            + (sign(say("production", "正式版"), "good") if item["production"] else "")
            + (sign(say("latest", "最新")) if item["latest"] else ""),
            text(item["family"]),
            lineage(item["id"], parents)
            if item["parents"]
            else text(say("from scratch", "从头训练")),
            "<br>".join(
                f"{text(name)} {value:.4g}" for name, value in item["metrics"].items()
            )
            or "–",
            text(size(item["bytes"])),
            text(when(item["created"])),
        ]
        for item in made
    ]
    heads = [
        say("Model", "模型"),
        say("Family", "模型族"),
        say("Lineage", "来源"),
        say("Scores", "得分"),
        say("Size", "大小"),
        say("Made", "时间"),
    ]
    listed = (
        table(heads, rows, say("Models made here", "这里制作的模型"))
        if rows
        else notice(
            say(
                "Nothing was made here yet. Tune a model in the room “Tune”.",
                "这里还没有制作过模型。请到“调优”页调优一个模型。",
            )
        )
    )
    ready = "".join(sign(name) for name in others)
    return listed + (
        f'<p class="ready">{text(say("Also served:", "另可直接使用："))} {ready}</p>'
        if ready
        else ""
    )
