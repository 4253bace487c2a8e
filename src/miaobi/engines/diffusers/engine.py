"""What the diffusers engine does: a request becomes the arguments of the pipeline for
its task, called for a few images at a time.

Image i of seed s is drawn from a CPU generator of its own, seeded s + i: it does not
depend on the device, nor on how many are asked for but for rounding (a level or so of
255), and a single one has the pixels of the pipeline called directly with that
generator.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import aclosing
from dataclasses import dataclass, replace
from inspect import Parameter, signature
from pathlib import Path
from typing import Any, NamedTuple

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
from miaobi.data.image.masks import outside_kept, read_mask
from miaobi.engines.diffusers import schedulers
from miaobi.engines.moderation.images import Checker
from miaobi.engines.worker import Send, Worker
from miaobi.models.pipelines import Pipelines, Task, multiple

FIELDS = (
    "prompt",
    "negative_prompt",
    "width",
    "height",
    "num_inference_steps",
    "guidance_scale",
    "strength",
)
"""Fields that pipelines take under the same name."""

IMAGE_FIELDS = ("image", "mask", "control_image")
"""Fields that hold images."""

TASK_FIELDS: Mapping[Task, frozenset[str]] = {
    "text": frozenset(),
    "image": frozenset({"image"}),
    "mask": frozenset({"image", "mask"}),
}
"""The image fields of each task."""

BATCH = 4
"""Images of one call: in less than half the time of four calls (bench/diffusers_engine.py)."""

DECODER_BYTES = 60
"""Of memory, for each pixel and channel of the decoder's last and widest layers, in
float32 (measured on tiny weights at 256 and 512 pixels a side).
"""


class Size(NamedTuple):
    """Of an image, in pixels."""

    height: int
    width: int


@dataclass(frozen=True)
class Call:
    """A pipeline and its arguments."""

    pipeline: Any
    arguments: Mapping[str, Any]
    size: Size | None
    """What its images are cut to."""
    original: np.ndarray | None = None
    """What stays outside a mask, uint8 [H, W, 3]."""
    mask: np.ndarray | None = None
    """White where the picture is repainted, uint8 [H, W, 3]."""

    @property
    def parameters(self) -> Mapping[str, Parameter]:
        """What the pipeline takes."""
        return parameters_of(self.pipeline)


class DiffusersEngine:
    """Loaded pipelines, and a check of what they make."""

    takes = ImageRequest

    def __init__(
        self, name: str, pipelines: Pipelines, checker: Checker | None
    ) -> None:
        self.name = name
        self.pipelines = pipelines
        self.checker = checker
        self._scheduler = pipelines.own.components.get("scheduler")
        self.abilities = Abilities(self._controls())
        self._worker = Worker("diffusers")

    def _controls(self) -> frozenset[str]:
        """Every field that one of the tasks takes."""
        controls = {"n", "seed"}
        if self._scheduler is not None:
            controls.add("scheduler")
        if self.pipelines.controlnet is not None:
            controls.add("control_image")
        for task, image_fields in TASK_FIELDS.items():
            pipeline = self.pipelines.of(task)
            if pipeline is not None:
                controls |= image_fields
                controls |= {name for name in FIELDS if applies(pipeline, name)}
        return frozenset(controls)

    async def generate(self, request: Request) -> AsyncIterator[Chunk]:
        image_request = accepted(request, ImageRequest, self.abilities, "diffusers")
        async with aclosing(
            self._worker.stream(lambda send: self._paint(image_request, send))
        ) as chunks:
            async for chunk in chunks:
                yield chunk

    def _paint(self, request: ImageRequest, send: Send) -> None:
        call = self.call(request)
        batch_size = BATCH if "num_images_per_prompt" in call.parameters else 1
        self._check_memory(call, min(batch_size, request.n))
        for first in range(0, request.n, batch_size):
            indices = range(first, min(first + batch_size, request.n))
            if self._scheduler is not None:
                call.pipeline.scheduler = schedulers.make(
                    self._scheduler, request.scheduler
                )
            images = self._run(call, request.seed or 0, indices, send)
            for index, pixels in zip(indices, images, strict=True):
                send(self._chunk(index, pixels))

    def _chunk(self, index: int, pixels: np.ndarray) -> Chunk:
        """The last chunk of an image, after the check."""
        parameters = dict(self.pipelines.notes)
        if self.checker is None:
            artifact = Image(pixels, Facts(self.name, parameters=parameters))
            return Chunk(index, artifact=artifact, finish="stop")
        verdict = self.checker(pixels)
        parameters["unsafe_probability"] = verdict.probability
        artifact = Image(verdict.pixels, Facts(self.name, parameters=parameters))
        return Chunk(index, artifact=artifact, finish=verdict.finish)

    def _check_memory(self, call: Call, count: int) -> None:
        """Raise DoesNotFit where decoding alone would take more than the free memory.

        What the system gives too freely it takes back by ending the process.
        """
        if call.pipeline.device.type != "cpu":
            return
        height, width = call.size or (
            call.arguments.get("height", 0),
            call.arguments.get("width", 0),
        )
        vae = call.pipeline.components.get("vae")
        channels = 0
        if vae is not None:
            channels = vae.config.get("block_out_channels", (0,))[0]
        needed = DECODER_BYTES * channels * height * width * count
        free = psutil.virtual_memory().available
        if needed > free:
            raise DoesNotFit(
                say(
                    f"{count} of {width} x {height} pixels would take about "
                    f"{needed / 1e9:.1f} GB; {free / 1e9:.1f} GB are free.",
                    f"{count} 张 {width} x {height} 像素的图片约需 {needed / 1e9:.1f} GB；可用 {free / 1e9:.1f} GB。",
                ),
                say(
                    "Ask for smaller pictures, or for fewer at a time.",
                    "请减小图片尺寸，或一次少要几张。",
                ),
            )

    def _run(
        self, call: Call, seed: int, indices: range, send: Send
    ) -> list[np.ndarray]:
        """The images of one call, uint8 [H, W, C] each."""

        def send_progress(share: float) -> None:
            for index in indices:
                send(Chunk(index, progress=share))

        def after_step(
            pipeline: Any, step: int, time: Any, tensors: dict[str, Any]
        ) -> dict[str, Any]:
            total = _step_count(pipeline)
            send_progress((step + 1) / (total + 1))  # decoding is the last step
            return tensors

        arguments = dict(call.arguments)
        if "callback_on_step_end" in call.parameters:
            arguments["callback_on_step_end"] = after_step
        generators = [
            torch.Generator("cpu").manual_seed(seed + index) for index in indices
        ]
        if len(generators) > 1:
            arguments["num_images_per_prompt"] = len(generators)
            arguments["generator"] = generators
        else:
            arguments["generator"] = generators[0]
        send_progress(0.0)
        output = _call(call.pipeline, arguments)
        images = output.images if "images" in output else output.frames[0][:1]
        pixels = [
            (np.asarray(values) * 255).round().astype(np.uint8) for values in images
        ]
        if call.size is None:
            return pixels
        height, width = call.size
        pixels = [image[:height, :width] for image in pixels]
        if call.original is None or call.mask is None:
            return pixels
        # Encoding and decoding change every pixel a little, masked or not.
        return [outside_kept(image, call.original, call.mask) for image in pixels]

    def call(self, request: ImageRequest) -> Call:
        """Return the pipeline for a request and what to call it with.

        Raises BadInput or Unsupported, naming the field.
        """
        pipeline = self._pipeline(request)
        pixels = {
            name: READERS.get(name, _read)(source, name)
            for name, source in self._sources(request).items()
        }
        images, size = self._images(pipeline, request, pixels)
        if size is None:
            arguments = self._arguments(pipeline, request)
        else:
            # The images decide on the size.
            sizeless = replace(request, width=None, height=None)
            arguments = self._arguments(pipeline, sizeless)
        parameters = parameters_of(pipeline)
        if "num_frames" in parameters:
            arguments["num_frames"] = 1
        if size is not None and {"height", "width"} <= set(parameters):
            step = multiple(pipeline)
            arguments["height"] = _rounded_up(size.height, step)
            arguments["width"] = _rounded_up(size.width, step)
        return Call(
            pipeline,
            arguments | images,
            size,
            pixels.get("image"),
            pixels.get("mask"),
        )

    def _pipeline(self, request: ImageRequest) -> Any:
        """The pipeline for the request's task. Raises Unsupported."""
        task: Task = "text"
        source = "prompt"
        if request.mask is not None:
            task = source = "mask"
        elif request.image is not None:
            task = source = "image"
        has_control = request.control_image is not None
        pipeline = self.pipelines.of(task, has_control)
        if pipeline is None:
            if has_control:
                source += " + control_image"
            kind = type(self.pipelines.own).__name__
            raise Unsupported(
                say(
                    f"{self.name} ({kind}) cannot make pictures from {source}.",
                    f"{self.name}（{kind}）不能由 {source} 生成图片。",
                ),
                say("Choose another model for it.", "请为此选用其他模型。"),
            )
        return pipeline

    def _arguments(self, pipeline: Any, request: ImageRequest) -> dict[str, Any]:
        """What the request sets of FIELDS, checked."""
        values = {name: getattr(request, name) for name in FIELDS}
        arguments = {name: value for name, value in values.items() if value is not None}
        for name in arguments:
            if not applies(pipeline, name):
                kind = type(pipeline).__name__
                raise Unsupported(
                    say(
                        f"{self.name} ({kind}) does not support {name} here.",
                        f"{self.name}（{kind}）在此不支持 {name}。",
                    ),
                    say("Leave it out.", "请去掉它。"),
                )
        self._check_multiples(pipeline, request)
        parameters = parameters_of(pipeline)
        if request.strength is not None:
            steps = request.num_inference_steps
            if steps is None:
                steps = parameters["num_inference_steps"].default
            _check_strength(request.strength, steps)
        scale = request.guidance_scale
        if request.negative_prompt and scale is not None and scale <= 1:
            request.refuse("negative_prompt", f"guidance_scale {scale:g}")
        if "prompt" in parameters:
            arguments.setdefault("prompt", "")
        return arguments

    def _check_multiples(self, pipeline: Any, request: ImageRequest) -> None:
        step = multiple(pipeline)
        for name, side in (("width", request.width), ("height", request.height)):
            if side is not None and side % step:
                lower = side // step * step or step
                upper = (side // step + 1) * step
                raise BadInput(
                    say(
                        f"{name} is {side}; {self.name} makes multiples of {step}.",
                        f"{name} 为 {side}；{self.name} 只能生成 {step} 的倍数。",
                    ),
                    say(f"Take {lower} or {upper}.", f"请用 {lower} 或 {upper}。"),
                )

    def _sources(self, request: ImageRequest) -> dict[str, Path | np.ndarray]:
        """The request's images that are there, by their fields."""
        sources = {name: getattr(request, name) for name in IMAGE_FIELDS}
        return {name: value for name, value in sources.items() if value is not None}

    def _images(
        self,
        pipeline: Any,
        request: ImageRequest,
        pixels: Mapping[str, np.ndarray],
    ) -> tuple[dict[str, Any], Size | None]:
        """The request's images as the pipeline's arguments, and their common size.

        Each is filled up to the multiples that the pipeline works in.
        """
        if not pixels:
            return {}, None
        size = _common_size(pixels)
        _check_sides(request, next(iter(pixels)), size)
        step = multiple(pipeline)
        images = {
            name: Pillow.fromarray(_filled(array, step))
            for name, array in pixels.items()
        }
        arguments = {}
        if "image" in images:
            arguments["image"] = images["image"]
        if "mask" in images:
            arguments["mask_image"] = images["mask"].convert("L")
        if "control_image" in images:
            own_argument = "control_image" in parameters_of(pipeline)
            argument = "control_image" if own_argument else "image"
            arguments[argument] = images["control_image"]
        return arguments, size

    def close(self) -> None:
        self._worker.close()


def parameters_of(pipeline: Any) -> Mapping[str, Parameter]:
    """Return what a pipeline takes."""
    return signature(pipeline.__call__).parameters


def _step_count(pipeline: Any) -> int:
    """Some pipelines count their steps; the others run over the scheduler's."""
    if "num_timesteps" in dir(pipeline):
        return int(pipeline.num_timesteps)
    return len(pipeline.scheduler.timesteps)


def applies(pipeline: Any, name: str) -> bool:
    """Return whether a field has an effect on a pipeline, and is not merely accepted.

    Where guidance by a negative prompt is a scale of its own (`true_cfg_scale`) that is
    off by default, a negative prompt would be ignored; where the network was distilled
    without guidance (`guidance_embeds`), so would the scale.
    """
    parameters = parameters_of(pipeline)
    if name == "negative_prompt" and "true_cfg_scale" in parameters:
        return name in parameters and parameters["true_cfg_scale"].default > 1
    transformer = pipeline.components.get("transformer")
    if name == "guidance_scale" and transformer is not None:
        distilled = transformer.config.get("guidance_embeds") is False
        return name in parameters and not distilled
    return name in parameters


def _call(pipeline: Any, arguments: Mapping[str, Any]) -> Any:
    """The pipeline's output. Raises BadInput or DoesNotFit for what it refuses."""
    try:
        return pipeline(**arguments, output_type="np")
    except (ValueError, TypeError) as error:
        kind = type(pipeline).__name__
        raise BadInput(
            say(
                f"{kind} refused the request: {error}",
                f"{kind} 拒绝了该请求：{error}",
            ),
            say("Change the control it names.", "请修改其中提到的参数。"),
        ) from error
    except RuntimeError as error:
        if "memory" not in str(error):
            raise
        reason = str(error).strip()
        raise DoesNotFit(
            say(
                f"Memory does not suffice for this picture: {reason}",
                f"内存不足以生成此图片：{reason}",
            ),
            say(
                'Ask for a smaller width and height, or open the model with dtype="bfloat16".',
                '请减小 width 与 height，或用 dtype="bfloat16" 打开模型。',
            ),
        ) from None


def _check_strength(strength: float, steps: int) -> None:
    """Raise BadInput where no step is left.

    Of `steps`, the last strength x steps are taken; a request that leaves none would
    return its image, or fail.
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


def _read(image: Path | np.ndarray, name: str) -> np.ndarray:
    """A file is called by its path in errors, pixels by the field they came in."""
    return read_picture(image, "" if isinstance(image, Path) else name)


def _read_mask(mask: Path | np.ndarray, name: str) -> np.ndarray:
    """As `_read`, of the part that is to be repainted."""
    return read_mask(mask, "" if isinstance(mask, Path) else name)


READERS = {"mask": _read_mask}
"""What reads a field whose images are no ordinary ones."""


def _common_size(pixels: Mapping[str, np.ndarray]) -> Size:
    """Raise BadInput where one image is not as large as the first."""
    (first, first_pixels), *others = pixels.items()
    size = Size(*first_pixels.shape[:2])
    for name, array in others:
        height, width = array.shape[:2]
        if (height, width) != size:
            raise BadInput(
                say(
                    f"The {name} has {width} x {height} pixels, the {first} {size.width} x {size.height}.",
                    f"{name} 为 {width} x {height} 像素，{first} 为 {size.width} x {size.height} 像素。",
                ),
                say("Give them the same size.", "请让两者大小一致。"),
            )
    return size


def _check_sides(request: ImageRequest, image_field: str, size: Size) -> None:
    """Raise BadInput where width or height contradicts the image."""
    sides = (
        ("height", request.height, size.height),
        ("width", request.width, size.width),
    )
    for name, value, side in sides:
        if value not in (None, side):
            raise BadInput(
                say(
                    f"{name} is {value}; the {image_field} has {side}, and decides.",
                    f"{name} 为 {value}；而 {image_field} 为 {side}，以它为准。",
                ),
                say(
                    f"Leave {name} out, or resize the {image_field} first.",
                    f"请去掉 {name}，或先缩放 {image_field}。",
                ),
            )


def _rounded_up(side: int, step: int) -> int:
    return -(-side // step) * step


def _filled(pixels: np.ndarray, step: int) -> np.ndarray:
    """Continued to the right and below by its edge, up to the next multiples of `step`."""
    below, right = (-side % step for side in pixels.shape[:2])
    return np.pad(pixels, ((0, below), (0, right), (0, 0)), mode="edge")
