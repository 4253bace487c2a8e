"""Files that a person adds to a message: texts are read out to the model, pictures are
shown to those that read them.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from typing import Any

from starlette.datastructures import UploadFile

from miaobi.core.errors import BadInput
from miaobi.core.language import say
from miaobi.serve.responses.items import input_text
from miaobi.studio.pages.chat.talkers import Talker

PICTURES = {"PNG": "image/png", "JPEG": "image/jpeg", "WEBP": "image/webp"}
"""Formats that models and browsers read."""


@dataclass(frozen=True)
class Attachment:
    """A file of a message."""

    name: str
    size: int
    part: dict[str, Any]
    """In the shape of /v1/responses."""

    @property
    def note(self) -> dict[str, Any]:
        """What a turn's details say of it."""
        return {"name": self.name, "size": self.size}


async def attachments(
    files: Sequence[UploadFile], talker: Talker, pixels: int
) -> list[Attachment]:
    """Return what was added to a message.

    Args:
        files: as they came; an empty one is what a form without files sends
        talker: the model that is to read them
        pixels: of one picture, at most

    Raises BadInput for a file that `talker` cannot read.
    """
    read = list[Attachment]()
    for file in files:
        content = await file.read()
        name = (file.filename or "").replace("\x00", "")[:200]
        if name:
            part = _part(name, content, talker, pixels)
            read.append(Attachment(name, len(content), part))
    return read


def _part(name: str, content: bytes, talker: Talker, pixels: int) -> dict[str, Any]:
    kind = _picture(content, pixels)
    if kind is not None and not talker.reads_pictures:
        raise BadInput(
            say(
                f"{name}: {talker.name} reads no pictures.",
                f"{name}：{talker.name} 不能读取图片。",
            ),
            say(
                "Choose a model that does, or send text.", "请换一个模型，或发送文本。"
            ),
        )
    if kind is not None:
        data = base64.b64encode(content).decode()
        url = f"data:{kind};base64,{data}"
        return {"type": "input_image", "image_url": url, "detail": "auto"}
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = "\x00"
    if "\x00" in text:
        raise BadInput(
            say(
                f"{name} is neither text in UTF-8 nor a PNG, JPEG or WebP picture.",
                f"{name} 既不是 UTF-8 文本，也不是 PNG、JPEG 或 WebP 图片。",
            ),
            say("Save it as text and add it again.", "请存为文本后重新添加。"),
        )
    return input_text(f"{name}:\n\n{text}")


def _picture(content: bytes, pixels: int) -> str | None:
    """Return the media type of a picture; None for what is none, or is too large."""
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(BytesIO(content), formats=list(PICTURES)) as picture:
            if picture.width * picture.height > pixels:
                return None
            return PICTURES[str(picture.format)]
    except (UnidentifiedImageError, OSError, ValueError, Image.DecompressionBombError):
        return None
