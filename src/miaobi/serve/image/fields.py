"""The fields of /v1/images, OpenAI's and ours, and the `ImageRequest` that they become.

A model of texts takes `prompt` as a text; a model of classes takes it as the class's
name or number ("7"); for a model of neither it is "" or "*", since OpenAI's clients
demand a prompt. "" and "*" draw the class at random.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import UploadFile
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field
from starlette.datastructures import UploadFile as Upload

from miaobi.core.errors import BadInput, Unsupported
from miaobi.core.language import say
from miaobi.core.requests import ImageRequest
from miaobi.engines.model import Model
from miaobi.serve.settings import Limits

ANYTHING = ("", "*")
OURS = (
    "negative_prompt",
    "label",
    "seed",
    "num_inference_steps",
    "guidance_scale",
    "strength",
    "truncation",
    "scheduler",
    "upscale",
    "style",
)
"""Fields of ImageRequest that are passed on as they are."""
LONG = 32_000
"""Characters of a prompt, as at OpenAI."""


def _no_stream(stream: bool | None) -> bool | None:
    if stream:
        raise ValueError(
            say(
                "pictures are not streamed here. Leave stream out.",
                "此处不支持流式返回图片，请去掉 stream。",
            )
        )
    return stream


def _file(value: Any) -> Any:
    if not isinstance(value, Upload):
        raise ValueError(say("it must be sent as a file.", "必须以文件形式发送。"))
    return value


Sent = Annotated[UploadFile, BeforeValidator(_file)]


class ImageFields(BaseModel):
    """The fields that all three have. Unknown ones are refused by name; those of OpenAI
    that would change nothing here are taken at the value that asks for nothing; `user`
    and `safety_identifier` are taken and not kept.
    """

    model_config = ConfigDict(extra="forbid", protected_namespaces=())

    model: str = Field(min_length=1, max_length=255)
    n: int | None = Field(None, ge=1, le=128)
    size: (
        Annotated[str, Field(pattern=r"^(auto|[1-9][0-9]{0,4}x[1-9][0-9]{0,4})$")]
        | None
    ) = Field(None, description="auto, or WIDTHxHEIGHT.")
    response_format: Literal["b64_json", "url"] | None = None
    output_format: Literal["png", "jpeg", "webp"] | None = None
    quality: Literal["auto"] | None = None
    background: Literal["auto", "opaque"] | None = None
    stream: Annotated[bool | None, AfterValidator(_no_stream)] = None
    user: str | None = Field(None, max_length=512)
    safety_identifier: str | None = Field(None, max_length=512)
    seed: int | None = Field(None, ge=0, lt=2**63)
    label: str | None = Field(None, max_length=255)
    negative_prompt: str | None = Field(None, max_length=LONG)
    num_inference_steps: int | None = Field(None, ge=1, le=1000)
    guidance_scale: float | None = Field(None, ge=0, le=100)
    strength: float | None = Field(None, ge=0, le=1)
    truncation: float | None = Field(None, gt=0, le=1)
    scheduler: str | None = Field(None, max_length=255)
    upscale: int | None = Field(None, ge=2, le=8, description="2, 3, 4 or 8.")
    style: str | None = Field(
        None, pattern=r"^[0-9]{1,2}$", description="The number of a built-in style."
    )


class Generation(ImageFields):
    model_config = ConfigDict(strict=True)

    prompt: str = Field(max_length=LONG)
    moderation: Literal["auto"] | None = None
    partial_images: Literal[0] | None = None


class Variation(ImageFields):
    """A multipart form, so numbers come as text."""

    image: list[Sent] = Field([], max_length=16)
    images: list[Sent] = Field([], alias="image[]", max_length=16)
    prompt: str = Field("", max_length=LONG)


class Edit(Variation):
    mask: Sent | None = None


def image_request_of(
    model: Model,
    fields: ImageFields,
    prompt: str,
    limits: Limits,
    image: Any = None,
    mask: Any = None,
) -> ImageRequest:
    """The request for `model`. Raises BadInput and Unsupported, naming the field."""
    count = fields.n or 1
    if count > limits.n:
        raise BadInput(
            say(
                f"n is {count}; this server makes at most {limits.n} at a time.",
                f"n 为 {count}；此服务器一次最多生成 {limits.n} 张。",
            ),
            say("Send several requests.", "请分多次请求。"),
        )
    controls: dict[str, Any] = {
        name: getattr(fields, name)
        for name in OURS
        if getattr(fields, name) is not None
    }
    controls |= {"n": count, **_size(fields.size, count, limits)}
    controls |= {
        name: pixels
        for name, pixels in (("image", image), ("mask", mask))
        if pixels is not None
    }
    conditioned_prompt = _conditioned_prompt(model, prompt, controls)
    request: ImageRequest = model.request(conditioned_prompt, **controls)
    return request


def _size(size: str | None, count: int, limits: Limits) -> dict[str, int]:
    if size in (None, "auto"):
        return {}
    width, height = map(int, str(size).split("x"))
    if width * height * count > limits.pixels:
        raise BadInput(
            say(
                f"{count} of size {size} are more than {limits.pixels:,} pixels, the most of one request.",
                f"{count} 张 size 为 {size} 的图片超过一次请求的上限 {limits.pixels:,} 像素。",
            ),
            say(
                "Ask for smaller pictures, or for fewer at a time.",
                "请减小图片尺寸，或一次少要几张。",
            ),
        )
    return {"width": width, "height": height}


def _conditioned_prompt(
    model: Model, prompt: str, controls: dict[str, Any]
) -> str | None:
    """The prompt for a model of words; for a model of classes, `label` is set from it."""
    able = model.engine.abilities.controls
    if "prompt" in able:
        return prompt or None
    if prompt in ANYTHING:
        return None
    if "label" not in able:
        raise Unsupported(
            say(
                f"{model.name} takes no words; the prompt is {prompt[:80]!r}.",
                f"{model.name} 不接受文字；收到的 prompt 为 {prompt[:80]!r}。",
            ),
            say('Send "*" as the prompt.', '请把 prompt 设为 "*"。'),
        )
    if controls.setdefault("label", prompt) != prompt:
        raise BadInput(
            say(
                f"prompt is {prompt[:80]!r} and label {controls['label']!r}; {model.name} takes one class.",
                f"prompt 为 {prompt[:80]!r}，而 label 为 {controls['label']!r}；{model.name} 只接受一个类别。",
            ),
            say("Leave one of them out.", "请去掉其中一个。"),
        )
    return None
