"""Paint: from words or a class, from a picture, or over the part of a picture that was
drawn over. A grid, and the session's history.
"""

from __future__ import annotations

import base64
import io
import json
import re
from typing import Any

import gradio as gr
import numpy as np
from PIL import Image

from miaobi.studio.rooms.drawing import table, text
from miaobi.studio.rooms.keeping import folder_of, keep
from miaobi.studio.rooms.room import QUIET, Desk, still_there

TITLE = ("Pictures", "图片")
ORDER = 30
REMEMBERED = 60
"""Pictures of a session that its history shows."""
SIZES = ["auto", "256x256", "512x512", "768x768", "1024x1024", "512x768", "768x512"]


def build(desk: Desk) -> None:
    say = desk.say
    with gr.Row(elem_classes="room"):
        with gr.Column(scale=1, min_width=300, elem_classes="side"):
            model = gr.Dropdown([], label=say("Model", "模型"), elem_id="picture-model")
            prompt = gr.Textbox(
                label=say("What to make", "图片内容"),
                lines=2,
                max_lines=6,
                elem_id="picture-prompt",
                info=say(
                    "words, or a class by name or number; empty leaves it to chance",
                    "一句描述，或类别的名称或编号；留空则随机",
                ),
            )
            with gr.Row(elem_classes="ask"):
                paint = gr.Button(
                    say("Generate", "开始生成"),
                    variant="primary",
                    elem_id="paint",
                    scale=2,
                )
                stop = gr.Button(
                    say("Stop", "停止"), elem_id="stop-painting", scale=1, min_width=90
                )
            with gr.Row():
                count = gr.Slider(
                    1, 16, 4, step=1, label=say("How many", "张数"), buttons=[]
                )
                seed = gr.Textbox("", label=say("Seed", "随机种子"), max_lines=1)
            with gr.Accordion(say("Start from a picture", "从图片开始"), open=False):
                source = gr.ImageEditor(
                    label=say(
                        "A picture; draw over what shall be repainted",
                        "放入一张图片；涂抹要重绘的部分",
                    ),
                    type="pil",
                    image_mode="RGBA",
                    sources=("upload", "clipboard"),
                    layers=False,
                    transforms=(),
                    format="png",
                    height=320,
                    buttons=[],
                    elem_id="source",
                    brush=gr.Brush(
                        default_size=24, colors=["#ad3b27"], color_mode="fixed"
                    ),
                )
                strength = gr.Slider(
                    0,
                    1,
                    0.6,
                    step=0.05,
                    label=say("How far from it", "变化程度"),
                    buttons=[],
                )
            with gr.Accordion(say("Settings", "设置"), open=False):
                negative = gr.Textbox(
                    label=say("What to keep away from", "不要出现什么")
                )
                size = gr.Dropdown(
                    SIZES,
                    value="auto",
                    label=say("Size", "尺寸"),
                    allow_custom_value=True,
                )
                steps = gr.Textbox("", label=say("Steps", "步数"), max_lines=1)
                guidance = gr.Textbox(
                    "", label=say("Guidance", "引导强度"), max_lines=1
                )
        with gr.Column(scale=2, min_width=320):
            gallery = gr.Gallery(
                label=say("Pictures, AI-generated", "图片（由AI生成）"),
                show_label=False,
                columns=4,
                height="auto",
                object_fit="contain",
                interactive=False,
                format="png",
                buttons=["download", "fullscreen"],
                elem_id="pictures",
                elem_classes="generated grid",
            )
            with gr.Accordion(say("This session", "本次会话"), open=False):
                earlier = gr.Gallery(
                    label=say(
                        "Made in this session, AI-generated",
                        "本次会话的图片（由AI生成）",
                    ),
                    show_label=False,
                    columns=6,
                    height="auto",
                    object_fit="contain",
                    interactive=False,
                    format="png",
                    buttons=["download"],
                    elem_id="history",
                    elem_classes="generated grid",
                )
                facts = gr.HTML(padding=False)
                again = gr.Button(
                    say("Use these settings", "使用这些设置"), visible=False
                )
    history, chosen = gr.State([]), gr.State(None)
    fields = {
        "model": model,
        "prompt": prompt,
        "negative_prompt": negative,
        "size": size,
        "n": count,
        "seed": seed,
        "num_inference_steps": steps,
        "guidance_scale": guidance,
        "strength": strength,
    }
    room = Pictures(desk, list(fields))
    desk.on_entry(room.models, [model], [model])
    run = gr.on(
        [paint.click, prompt.submit],
        room.paint,
        [history, source, *fields.values()],
        [gallery, earlier, history],
        api_visibility="private",
        show_progress="full",
        show_progress_on=gallery,
    )
    stop.click(None, None, None, cancels=[run], api_visibility="private")
    earlier.select(room.look, [history], [facts, again, chosen], **QUIET)
    again.click(room.use, [chosen], list(fields.values()), **QUIET)


class Pictures:
    def __init__(self, desk: Desk, names: list[str]) -> None:
        self.desk, self.names = desk, names

    async def models(self, chosen: str | None, visitor: gr.Request) -> Any:
        found = await self.desk.models(visitor, "image")
        return gr.Dropdown(found, value=still_there(chosen, found))

    async def paint(
        self,
        history: list[dict[str, Any]],
        source: dict[str, Any] | None,
        model: str | None,
        prompt: str | None,
        negative: str | None,
        size: str,
        n: int,
        seed: str | None,
        steps: str | None,
        guidance: str | None,
        strength: float,
        visitor: gr.Request,
    ) -> tuple[Any, ...]:
        given = dict(
            zip(
                self.names,
                (
                    model or "",
                    (prompt or "").strip(),
                    (negative or "").strip(),
                    size,
                    int(n),
                    self.desk.number(seed),
                    self.desk.number(steps),
                    self.desk.number(guidance, float),
                    strength,
                ),
                strict=True,
            )
        )
        if source is None or source["background"] is None:
            source = None
            given.pop("strength")
        body = {
            name: value
            for name, value in given.items()
            if value not in (None, "") or name in ("model", "prompt")
        }
        if source is None:
            body["prompt"] = body["prompt"] or "*"
            answer = await self.desk.call(
                visitor, "POST", "/v1/images/generations", json=body
            )
        else:
            mask = drawn(source)
            files = {
                "image": (
                    "image.png",
                    png(source["background"].convert("RGB")),
                    "image/png",
                )
            } | ({"mask": ("mask.png", png(mask), "image/png")} if mask else {})
            to = "edits" if mask or body["prompt"] else "variations"
            answer = await self.desk.call(
                visitor,
                "POST",
                f"/v1/images/{to}",
                data={name: str(value) for name, value in body.items()},
                files=files,
            )
        made = [self.kept(given, item) for item in answer["data"]]
        history = [*made, *history][:REMEMBERED]
        return _shown(made), _shown(history), history

    def kept(self, given: dict[str, Any], item: dict[str, Any]) -> dict[str, Any]:
        """The file as the API answered it, with its label and facts untouched, and how
        it came to be.
        """
        own = item.get("miaobi", {})
        settings = {**given, "seed": own.get("seed", given["seed"]), "n": 1}
        name = re.sub(r"[^\w.-]+", "-", f"{given['model']}-{settings['seed']}")
        path = keep(
            folder_of(self.desk.settings.folder),
            f"{name}.png",
            base64.b64decode(item["b64_json"]),
        )
        return {"path": path, "settings": settings, "label": own.get("label")}

    def look(
        self, history: list[dict[str, Any]], selected: gr.SelectData
    ) -> tuple[Any, ...]:
        picture = history[selected.index]
        rows = [
            [text(name), text(value)]
            for name, value in {
                **picture["settings"],
                "class": picture["label"],
            }.items()
            if value not in (None, "")
        ]
        say = self.desk.say
        return (
            table(
                [say("Setting", "设置"), say("Value", "值")],
                rows,
                say("How it was made", "生成方式"),
            ),
            gr.Button(visible=True),
            json.dumps(picture["settings"]),
        )

    def use(self, chosen: str) -> list[Any]:
        settings = json.loads(chosen)
        typed = ("seed", "num_inference_steps", "guidance_scale")
        return [
            ""
            if name in typed and settings[name] is None
            else str(settings[name])
            if name in typed
            else settings.get(name, gr.skip())
            for name in self.names
        ]


def _shown(pictures: list[dict[str, Any]]) -> list[tuple[str, str]]:
    return [
        (
            item["path"],
            " · ".join(
                str(part)
                for part in (item["label"], item["settings"]["seed"])
                if part is not None
            ),
        )
        for item in pictures
    ]


def png(picture: Image.Image) -> bytes:
    out = io.BytesIO()
    picture.save(out, "PNG")
    return out.getvalue()


def drawn(source: dict[str, Any]) -> Image.Image | None:
    """OpenAI's mask: transparent where the visitor drew. None where nothing was drawn."""
    size = source["background"].size
    touched = np.zeros(size[::-1], bool)
    for layer in source["layers"]:
        touched |= np.asarray(layer.convert("RGBA").resize(size))[..., 3] > 0
    if not touched.any():
        return None
    pixels = np.zeros((*touched.shape, 4), np.uint8)
    pixels[~touched] = (0, 0, 0, 255)
    return Image.fromarray(pixels)
