"""What the diffusers engine does: a request becomes the arguments of the pipeline that
serves its task, a few pictures at a time.

Picture i of seed s is drawn from a CPU generator of its own, seeded s + i: it does not
depend on the device, nor on how many are asked for but for rounding (a level or so of
255), and a single one has the pixels of the pipeline called directly with that
generator.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing
from dataclasses import dataclass, replace
from inspect import signature
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
from PIL import Image as Pillow

from miaobi.core.artifacts import Facts, Image
from miaobi.core.engine import Abilities, Chunk, accepted
from miaobi.core.errors import BadInput, DoesNotFit, Unsupported
from miaobi.core.language import say
from miaobi.core.requests import ImageRequest, Request
from miaobi.data.image.files import read_picture
from miaobi.engines.diffusers import schedulers as diffusers_schedulers
from miaobi.engines.moderation.images import Checker
from miaobi.engines.worker import Send, Worker
from miaobi.models.pipelines import Pipelines, Task, multiple

WORDS = (
    "prompt",
    "negative_prompt",
    "width",
    "height",
    "num_inference_steps",
    "guidance_scale",
    "strength",
)
"""Fields that pipelines take under the same name."""
TOGETHER = 4
"""Pictures of one call: in less than half the time of four calls (bench/diffusers_engine.py)."""

BYTES = 60
"""Of memory, for each pixel and channel of the decoder's last and widest floor, in
float32 (measured on tiny weights at 256 and 512 pixels a side).
"""


@dataclass(frozen=True)
class Call:
    """A pipeline, what it is called with, and the size (height, width) that its
    pictures are cut to.
    """

    pipeline: Any
    arguments: dict[str, Any]
    size: tuple[int, int] | None

    @property
    def takes(self) -> set[str]:
        return set(signature(self.pipeline.__call__).parameters)


class DiffusersEngine:
    modality = "image"

    def __init__(
        self, name: str, pipelines: Pipelines, checker: Checker | None
    ) -> None:
        self.name, self.pipelines, self.checker = name, pipelines, checker
        self._scheduler = pipelines.own.components.get("scheduler")
        self.abilities = Abilities(self._controls())
        self._worker = Worker("diffusers")

    def _controls(self) -> frozenset[str]:
        """Every field that one of the tasks takes."""
        found = {"n", "seed"} | (
            {"scheduler"} if self._scheduler is not None else set()
        )
        tasks: dict[Task, set[str]] = {
            "text": set(),
            "image": {"image"},
            "mask": {"image", "mask"},
        }
        for task, given in tasks.items():
            pipeline = self.pipelines.of(task)
            if pipeline is not None:
                found |= given | {name for name in WORDS if honours(pipeline, name)}
        return frozenset(
            found
            | ({"control_image"} if self.pipelines.controlnet is not None else set())
        )

    async def generate(self, request: Request) -> AsyncIterator[Chunk]:
        asked = accepted(request, ImageRequest, self.abilities, "diffusers")
        async with aclosing(
            self._worker.stream(lambda send: self._paint(asked, send))
        ) as chunks:
            async for chunk in chunks:
                yield chunk

    def _paint(self, request: ImageRequest, send: Send) -> None:
        call = self.call(request)
        together = TOGETHER if "num_images_per_prompt" in call.takes else 1
        self._check_memory(call, min(together, request.n))
        for first in range(0, request.n, together):
            indices = range(first, min(first + together, request.n))
            if self._scheduler is not None:
                call.pipeline.scheduler = diffusers_schedulers.make(
                    self._scheduler, request.scheduler
                )
            for index, pixels in zip(
                indices,
                self._drawn(call, request.seed or 0, indices, send),
                strict=True,
            ):
                verdict = self.checker(pixels) if self.checker else None
                known = self.pipelines.notes | (
                    {"unsafe_probability": verdict.probability} if verdict else {}
                )
                send(
                    Chunk(
                        index,
                        artifact=Image(
                            verdict.pixels if verdict else pixels,
                            Facts(self.name, parameters=known),
                        ),
                        finish=verdict.finish if verdict else "stop",
                    )
                )

    def _check_memory(self, call: Call, count: int) -> None:
        """Raise DoesNotFit for `count` pictures that decoding alone would take more
        than the free memory for: what the system gives too freely it takes back by
        ending the process.
        """
        vae, (height, width) = (
            call.pipeline.components.get("vae"),
            call.size
            or (call.arguments.get("height", 0), call.arguments.get("width", 0)),
        )
        channels = (
            vae.config.get("block_out_channels", (0,))[0] if vae is not None else 0
        )
        wanted, free = (
            BYTES * channels * height * width * count,
            psutil.virtual_memory().available,
        )
        if wanted > free and call.pipeline.device.type == "cpu":
            raise DoesNotFit(
                say(
                    f"{count} of {width} x {height} pixels would take about "
                    f"{wanted / 1e9:.1f} GB; {free / 1e9:.1f} GB are free.",
                    f"{count} 张 {width} x {height} 像素的图片约需 {wanted / 1e9:.1f} GB；可用 {free / 1e9:.1f} GB。",
                ),
                say(
                    "Ask for smaller pictures, or for fewer at a time.",
                    "请减小图片尺寸，或一次少要几张。",
                ),
            )

    def _drawn(
        self, call: Call, seed: int, indices: range, send: Send
    ) -> list[np.ndarray]:
        """The pictures of one call, uint8 [H, W, C] each."""

        def tell(share: float) -> None:
            for index in indices:
                send(Chunk(index, progress=share))

        def report(
            pipeline: Any, step: int, time: Any, tensors: dict[str, Any]
        ) -> dict[str, Any]:
            total = (
                pipeline.num_timesteps
                if "num_timesteps" in dir(pipeline)
                else len(pipeline.scheduler.timesteps)
            )
            tell((step + 1) / (total + 1))  # decoding is the last step
            return tensors

        arguments = call.arguments | (
            {"callback_on_step_end": report}
            if "callback_on_step_end" in call.takes
            else {}
        )
        generators = [
            torch.Generator("cpu").manual_seed(seed + index) for index in indices
        ]
        if len(generators) > 1:
            arguments |= {"num_images_per_prompt": len(generators)}
        tell(0.0)
        try:
            made = call.pipeline(
                **arguments,
                generator=generators if len(generators) > 1 else generators[0],
                output_type="np",
            )
        except (ValueError, TypeError) as error:
            raise BadInput(
                say(
                    f"{type(call.pipeline).__name__} refused the request: {error}",
                    f"{type(call.pipeline).__name__} 拒绝了该请求：{error}",
                ),
                say("Change the control it names.", "请修改其中提到的参数。"),
            ) from error
        except RuntimeError as error:
            if "memory" not in str(error):
                raise
            raise DoesNotFit(
                say(
                    f"Memory does not suffice for this picture: {str(error).splitlines()[0]}",
                    f"内存不足以生成此图片：{str(error).splitlines()[0]}",
                ),
                say(
                    'Ask for a smaller width and height, or open the model with dtype="bfloat16".',
                    '请减小 width 与 height，或用 dtype="bfloat16" 打开模型。',
                ),
            ) from None
        found = made.images if "images" in made else made.frames[0][:1]
        pictures = [
            (np.asarray(values) * 255).round().astype(np.uint8) for values in found
        ]
        return (
            pictures
            if call.size is None
            else [pixels[: call.size[0], : call.size[1]] for pixels in pictures]
        )

    def call(self, request: ImageRequest) -> Call:
        """The pipeline for a request and what to call it with. Raises BadInput or
        Unsupported, naming the field.
        """
        task: Task = (
            "mask"
            if request.mask is not None
            else "image"
            if request.image is not None
            else "text"
        )
        control = request.control_image is not None
        pipeline = self.pipelines.of(task, control)
        if pipeline is None:
            what = {"text": "prompt", "image": "image", "mask": "mask"}[task] + (
                " + control_image" if control else ""
            )
            raise Unsupported(
                say(
                    f"{self.name} ({type(self.pipelines.own).__name__}) cannot paint from {what}.",
                    f"{self.name}（{type(self.pipelines.own).__name__}）不能由 {what} 生成图片。",
                ),
                say("Choose another model for it.", "请为此选用其他模型。"),
            )
        pictures, size = self._pictures(pipeline, request)
        arguments = self._words(
            pipeline, replace(request, width=None, height=None) if pictures else request
        )
        takes = signature(pipeline.__call__).parameters
        if "num_frames" in takes:
            arguments["num_frames"] = 1
        if pictures and {"height", "width"} <= set(takes):
            step = multiple(pipeline)
            arguments |= {
                name: -(-side // step) * step
                for name, side in zip(("height", "width"), size or (), strict=True)
            }
        return Call(pipeline, arguments | pictures, size)

    def _words(self, pipeline: Any, request: ImageRequest) -> dict[str, Any]:
        given = {
            name: getattr(request, name)
            for name in WORDS
            if getattr(request, name) is not None
        }
        for name in given:
            if not honours(pipeline, name):
                raise Unsupported(
                    say(
                        f"{self.name} ({type(pipeline).__name__}) does not heed {name} here.",
                        f"{self.name}（{type(pipeline).__name__}）在此不支持 {name}。",
                    ),
                    say("Leave it out.", "请去掉它。"),
                )
        step = multiple(pipeline)
        for name in ("width", "height"):
            side = given.get(name, step)
            if side % step:
                raise BadInput(
                    say(
                        f"{name} is {side}; {self.name} paints multiples of {step}.",
                        f"{name} 为 {side}；{self.name} 只能生成 {step} 的倍数。",
                    ),
                    say(
                        f"Take {side // step * step or step} or {(side // step + 1) * step}.",
                        f"请用 {side // step * step or step} 或 {(side // step + 1) * step}。",
                    ),
                )
        if request.strength is not None:
            _check_strength(
                request.strength,
                request.num_inference_steps
                or signature(pipeline.__call__)
                .parameters["num_inference_steps"]
                .default,
            )
        if (
            request.negative_prompt
            and request.guidance_scale is not None
            and request.guidance_scale <= 1
        ):
            request.refuse(
                "negative_prompt", f"guidance_scale {request.guidance_scale:g}"
            )
        if "prompt" in signature(pipeline.__call__).parameters:
            given.setdefault("prompt", "")
        return given

    def _pictures(
        self, pipeline: Any, request: ImageRequest
    ) -> tuple[dict[str, Any], tuple[int, int] | None]:
        """The request's pictures, each filled up to the multiples the pipeline works
        in, and their common size.
        """
        names = [
            name
            for name in ("image", "mask", "control_image")
            if getattr(request, name) is not None
        ]
        pixels = {name: _read(getattr(request, name), name) for name in names}
        if not pixels:
            return {}, None
        first = names[0]
        size = pixels[first].shape[:2]
        for name in names:
            if pixels[name].shape[:2] != size:
                raise BadInput(
                    _sizes(name, pixels[name], first, pixels[first]),
                    say("Give them the same size.", "请让两者大小一致。"),
                )
        for name, side in (("height", size[0]), ("width", size[1])):
            if getattr(request, name) not in (None, side):
                raise BadInput(
                    say(
                        f"{name} is {getattr(request, name)}; the {first} has {side}, and decides.",
                        f"{name} 为 {getattr(request, name)}；而 {first} 为 {side}，以它为准。",
                    ),
                    say(
                        f"Leave {name} out, or resize the {first} first.",
                        f"请去掉 {name}，或先缩放 {first}。",
                    ),
                )
        step, takes = multiple(pipeline), signature(pipeline.__call__).parameters
        filled = {
            name: Pillow.fromarray(_filled(array, step))
            for name, array in pixels.items()
        }
        named = {
            "mask": "mask_image",
            "control_image": "control_image" if "control_image" in takes else "image",
        }
        return {
            named.get(name, name): picture.convert("L") if name == "mask" else picture
            for name, picture in filled.items()
        }, (size[0], size[1])

    def close(self) -> None:
        self._worker.close()


def honours(pipeline: Any, name: str) -> bool:
    """Whether a pipeline heeds a field, and does not merely accept it.

    Where guidance by a negative prompt is a scale of its own (`true_cfg_scale`) that is
    off by default, a negative prompt would be ignored; where the network was distilled
    without guidance (`guidance_embeds`), so would the scale.
    """
    takes = signature(pipeline.__call__).parameters
    if (
        name == "negative_prompt"
        and "true_cfg_scale" in takes
        and takes["true_cfg_scale"].default <= 1
    ):
        return False
    transformer = pipeline.components.get("transformer")
    if (
        name == "guidance_scale"
        and transformer is not None
        and transformer.config.get("guidance_embeds") is False
    ):
        return False
    return name in takes


def _check_strength(strength: float, steps: int) -> None:
    """Of `steps`, the last strength x steps are taken; a request that leaves none would
    return its picture, or fail.
    """
    if int(strength * steps) < 1:
        raise BadInput(
            say(
                f"strength is {strength:g}: of {steps} steps it leaves none.",
                f"strength 为 {strength:g}：{steps} 步中一步也不剩。",
            ),
            say(
                f"Give at least {1 / steps:.2g}, or more num_inference_steps.",
                f"请至少给出 {1 / steps:.2g}，或增加 num_inference_steps。",
            ),
        )


def _read(picture: Any, name: str) -> np.ndarray:
    """A file is called by its path in errors, pixels by the field they came in."""
    return read_picture(picture, "" if isinstance(picture, Path) else name)


def _filled(pixels: np.ndarray, step: int) -> np.ndarray:
    """Continued to the right and below by its edge, up to the next multiples of `step`."""
    down, across = (-side % step for side in pixels.shape[:2])
    return np.pad(pixels, ((0, down), (0, across), (0, 0)), mode="edge")


def _sizes(name: str, pixels: np.ndarray, other: str, others: np.ndarray) -> str:
    (height, width), (high, wide) = pixels.shape[:2], others.shape[:2]
    return say(
        f"The {name} has {width} x {height} pixels, the {other} {wide} x {high}.",
        f"{name} 为 {width} x {height} 像素，{other} 为 {wide} x {high} 像素。",
    )
