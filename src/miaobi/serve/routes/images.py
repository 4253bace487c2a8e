"""/v1/images: pictures from words or classes (generations), from pictures (edits, with
or without a mask), and like pictures (variations).

OpenAI's shapes; each picture is published, so its file carries its facts, and "miaobi"
tells what the clients' types do not know.
"""

from __future__ import annotations

import asyncio
import base64
from dataclasses import replace
from typing import Annotated, Any, cast

from fastapi import APIRouter, Form, Request, UploadFile
from fastapi.responses import FileResponse

from miaobi.core.artifacts import Image
from miaobi.core.errors import BadInput
from miaobi.core.language import say
from miaobi.core.requests import ImageRequest
from miaobi.engines.collected import Collected
from miaobi.engines.model import Model
from miaobi.provenance.label import NOTICE
from miaobi.provenance.publish import encode
from miaobi.serve.callers import Caller, CurrentCaller
from miaobi.serve.errors import ApiError
from miaobi.serve.image.fields import (
    Edit,
    Generation,
    ImageFields,
    Variation,
    image_request_of,
)
from miaobi.serve.image.incoming import Incoming, read
from miaobi.serve.image.temporary import KINDS
from miaobi.serve.records import now
from miaobi.serve.services import Services, Serving

router = APIRouter(prefix="/v1/images", tags=["images"])
BATCH = ("/v1/images/generations",)
FORM = "multipart/form-data"


@router.post("/generations")
async def generations(
    fields: Generation, request: Request, services: Serving, caller: CurrentCaller
) -> dict[str, Any]:
    """Pictures of a prompt. For models of classes the prompt is the class's name or
    number; for models of neither it is "*".
    """
    return await _answer(request, services, caller, fields, fields.prompt)


@router.post("/edits")
async def edits(
    fields: Annotated[Edit, Form(media_type=FORM)],
    request: Request,
    services: Serving,
    caller: CurrentCaller,
) -> dict[str, Any]:
    """A picture made of a picture. Transparent parts of `mask`, or else of `image`, are
    repainted by models that can.
    """
    image = await _one(fields, services)
    mask = None
    if fields.mask is not None:
        mask = await _read(fields.mask, "mask", services)
        if mask.mask is None:
            raise BadInput(
                say(
                    "mask has no transparent pixels: nothing would be repainted.",
                    "mask 没有透明像素：没有需要重绘的部分。",
                ),
                say(
                    "Make the parts to repaint transparent, and send it as PNG or WebP.",
                    "请把要重绘的部分设为透明，并以 PNG 或 WebP 发送。",
                ),
            )
    return await _answer(request, services, caller, fields, fields.prompt, image, mask)


@router.post("/variations")
async def variations(
    fields: Annotated[Variation, Form(media_type=FORM)],
    request: Request,
    services: Serving,
    caller: CurrentCaller,
) -> dict[str, Any]:
    """Pictures like a picture; `strength` says how unlike."""
    return await _answer(
        request, services, caller, fields, fields.prompt, await _one(fields, services)
    )


@router.get(
    "/files/{name}",
    name="generated_picture",
    response_class=FileResponse,
    responses={404: {"description": "No such picture, or no longer."}},
)
async def file(name: str, services: Serving) -> FileResponse:
    """A picture whose URL was an answer. The token in its name stands for the key."""
    picture = await asyncio.to_thread(services.temporary_files.find, name)
    if picture is None:
        raise ApiError(
            404,
            say(
                "There is no such picture, or its time is over.",
                "没有这张图片，或其链接已过期。",
            ),
            code="not_found",
        )
    path, left = picture
    kind = KINDS[name.rpartition(".")[2]]
    headers = {
        "Cache-Control": f"private, max-age={int(left)}",
        "Referrer-Policy": "no-referrer",
        "Content-Security-Policy": "default-src 'none'; sandbox",
    }
    return FileResponse(path, media_type=kind, headers=headers)


async def _one(fields: Variation, services: Services) -> Incoming:
    files = [*fields.image, *fields.images]
    if len(files) != 1:
        raise BadInput(
            say(
                f"image holds {len(files)} pictures.",
                f"image 包含 {len(files)} 张图片。",
            ),
            say("Send exactly one.", "请只发送一张。"),
        )
    return await _read(files[0], "image", services)


async def _read(upload: UploadFile, name: str, services: Services) -> Incoming:
    raw = await upload.read()
    return await asyncio.to_thread(read, raw, name, services.settings.limits.pixels)


async def _answer(
    request: Request,
    services: Services,
    caller: Caller,
    fields: ImageFields,
    prompt: str,
    image: Incoming | None = None,
    mask: Incoming | None = None,
) -> dict[str, Any]:
    async with (
        services.admission.slot(caller, fields.model) as slot,
        services.pool.lease(fields.model, ImageRequest) as model,
    ):
        image_request = image_request_of(
            model,
            fields,
            prompt,
            services.settings.limits,
            None if image is None else image.pixels,
            _mask(model, image, mask),
        )
        pictures = await _generate(
            model, image_request, getattr(request.state, "request_id", "")
        )
        slot.add("pictures", len(pictures))
    kind = fields.output_format or "png"
    data = [
        await asyncio.to_thread(
            _datum,
            services,
            request,
            picture,
            kind,
            fields.response_format or "b64_json",
        )
        for picture in pictures
    ]
    height, width = pictures[0].pixels.shape[:2]
    return {
        "created": now(),
        "data": data,
        "output_format": kind,
        "size": f"{width}x{height}",
        "miaobi": {"notice": NOTICE, "model": model.weights.label},
    }


def _mask(model: Model, image: Incoming | None, mask: Incoming | None) -> Any:
    """What is to be repainted: the mask's transparent part, or the picture's own for a
    model that repaints.
    """
    if mask is not None:
        return mask.mask
    return (
        image.mask
        if image is not None and "mask" in model.engine.abilities.controls
        else None
    )


async def _generate(
    model: Model, image_request: ImageRequest, request_id: str
) -> list[Image]:
    collected = Collected(image_request)
    async for chunk in model.engine.generate(image_request):
        collected.add(chunk)
    pictures = cast(list[Image], collected.artifacts(model.facts(image_request)))
    return [
        replace(
            picture,
            facts=replace(
                picture.facts, request_id=request_id or picture.facts.request_id
            ),
        )
        for picture in pictures
    ]


def _datum(
    services: Services, request: Request, picture: Image, kind: str, form: str
) -> dict[str, Any]:
    facts = {"seed": picture.facts.seed, "finish": picture.finish}
    if "label" in picture.facts.parameters:
        facts["label"] = picture.facts.parameters["label"]
    if form == "url":
        return {
            "url": str(
                request.url_for(
                    "generated_picture",
                    name=services.temporary_files.put(picture, kind),
                )
            ),
            "miaobi": facts,
        }
    content = encode([picture], f".{kind}")
    return {"b64_json": base64.b64encode(content).decode("ascii"), "miaobi": facts}
