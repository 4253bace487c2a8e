"""What people thought of answers: how much there is, the latest, and the tuning set it makes."""

from __future__ import annotations

from typing import Any

import gradio as gr

from miaobi.studio.rooms.drawing import notice, sign, table, text, when
from miaobi.studio.rooms.keeping import folder_of, keep
from miaobi.studio.rooms.room import QUIET, Desk

TITLE = ("Feedback", "反馈")
ORDER = 45
PATH = "/v1/feedback"
SHOWN = 50
CUT = 160
"""Characters of a text that a table shows."""


def build(desk: Desk) -> None:
    say = desk.say
    gr.Markdown(
        say(
            "## Feedback\nThumbs, edits and votes from Chat and Compare. As a "
            "set of pairs or of thumbs they tune the next model, in the room "
            "“Tune” or anywhere.",
            "## 反馈\n来自“对话”与“比较”的点赞、修改和投票。"
            "导出为成对偏好或单条评分，即可在“调优”页或别处用来训练下一个模"
            "型。",
        ),
        elem_classes="lead",
    )
    listing = gr.HTML(padding=False, elem_id="feedback")
    with gr.Row(elem_classes="bar"):
        shape = gr.Radio(
            [
                (say("pairs: edits and votes", "成对：修改与投票"), "pairs"),
                (say("thumbs", "单条评分"), "thumbs"),
            ],
            value="pairs",
            label=say("Shape", "形式"),
            scale=3,
        )
        export = gr.Button(
            say("Make the set", "生成数据集"),
            variant="primary",
            scale=1,
            elem_id="export",
        )
        download = gr.DownloadButton(
            say("Download", "下载"), visible=False, scale=1, elem_id="download"
        )

    async def show(visitor: gr.Request) -> tuple[str, Any]:
        found = await desk.call(visitor, "GET", PATH, params={"limit": SHOWN})
        return _listing(desk, found["data"], found["counts"]), gr.DownloadButton(
            visible=False
        )

    async def made(wanted: str, visitor: gr.Request) -> Any:
        content = await desk.content(
            visitor, f"{PATH}/export", params={"shape": wanted}
        )
        if not content:
            raise desk.error(
                "There is no feedback of this kind yet.", "还没有这种反馈。"
            )
        lines = content.count(b"\n")
        return gr.DownloadButton(
            say(
                f"Download {wanted}.jsonl ({lines})",
                f"下载 {wanted}.jsonl（{lines} 条）",
            ),
            visible=True,
            value=keep(folder_of(desk.settings.folder), f"{wanted}.jsonl", content),
        )

    desk.on_entry(show, [listing, download])
    export.click(made, [shape], [download], **QUIET)


def _listing(desk: Desk, found: list[dict[str, Any]], counts: dict[str, int]) -> str:
    say = desk.say
    if not found:
        return notice(
            say(
                "No feedback yet. Give an answer a thumb, word it better, or vote in “Compare”.",
                "还没有反馈。给回答点赞、修改它的措辞，或在“比较”中投票。",
            )
        )
    kinds = {
        "thumb": say("thumb", "评分"),
        "edit": say("edit", "修改"),
        "vote": say("vote", "投票"),
    }
    total = " ".join(
        sign(f"{kinds[kind]} {count}") for kind, count in sorted(counts.items())
    )
    rows = [
        [
            sign(kinds[item["kind"]])
            + text(
                {True: "👍", False: "👎"}.get(item["label"], "")
                if item["kind"] == "thumb"
                else ""
            ),
            text(item["model"]),
            text(_cut(item["messages"][-1]["content"])),
            text(_cut(item["chosen"])),
            text(_cut(item["rejected"] or "–")),
            text(when(item["created_at"])),
        ]
        for item in found
    ]
    heads = [
        say("Kind", "类型"),
        say("Model", "模型"),
        say("Question", "问题"),
        say("Answer", "回答"),
        say("Rejected", "被否决的"),
        say("Given", "时间"),
    ]
    return f'<p class="ready">{total}</p>' + table(
        heads, rows, say("Latest feedback", "最近的反馈")
    )


def _cut(value: str) -> str:
    return value if len(value) <= CUT else value[:CUT] + "…"
