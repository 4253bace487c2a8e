"""What the engine for image families does: from labels and seeds to images, by the
protocols of nn/image.py.

Image i of seed s is made with a generator of its own, seeded s + i, so it does not
depend on how many are asked for; facts record that seed and the class. Pixels keep the
model's channels: [H, W, 1] for grey, [H, W, 3] for colour.

A model that encodes as well as decodes makes variations of an image: z' = sqrt(1 - s²) z
+ s ε, where z is that image's latent point, ε a point of the prior and s the strength;
z' has the variance of the prior wherever z has. A model that takes noise away repaints
an image, or the part of it that a mask names.
"""

from __future__ import annotations

import json
import math
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np
import torch
from PIL import Image as Pillow
from torch import Tensor

from miaobi.core.artifacts import Facts, Image
from miaobi.core.engine import Abilities, Chunk, Weights, accepted
from miaobi.core.errors import BadInput, Unsupported, nearest
from miaobi.core.language import say
from miaobi.core.requests import ImageRequest, Request
from miaobi.data.image.files import read_picture
from miaobi.data.image.shapes import Fit, fitted, padded, with_channels
from miaobi.engines.worker import Send, Worker
from miaobi.families import families
from miaobi.nn.image import (
    Conditions,
    Denoises,
    Encodes,
    HasLatents,
    Paints,
    from_planes,
    labels_for,
    offered,
    to_pixels,
    varies,
)

BATCH = 64
"""Images decoded together at most."""

ALWAYS = frozenset({"n", "seed", "width", "height"})
"""Fields that every model of a family supports."""

DRAWN_ALONE = {"truncation", "prompt", "guidance_scale", "num_inference_steps"}
"""Conditions that a latent point does not hold: such an image is painted by itself."""

STRENGTH = 0.3
"""How unlike the source a variation is, unless the request says."""

REPAINTED = 0.6
"""How far to noise an image is taken that is painted over, unless the request says."""


Make = Callable[
    [ImageRequest, Sequence[int], "int | None", "Source | None"],
    tuple[Tensor, "Tensor | None"],
]
"""Makes the images of a request for some seeds, with their classes."""


@dataclass(frozen=True)
class Source:
    """The image that a model starts from."""

    pixels: Tensor
    """[1, C, H, W] in [-1, 1]."""
    area: tuple[slice, slice]
    """The part of the canvas (rows, columns) that it fills."""
    mask: Tensor | None = None
    """[1, 1, H, W]: 1 where it is painted anew."""


class PicturesEngine:
    """A bundle of an image family.

    Attributes:
        net: The family's model (nn/image.py).
        spec: What its images are.
        varies: Whether it makes variations of an image.
    """

    takes = ImageRequest

    def __init__(self, weights: Weights, device: str) -> None:
        self.weights = weights
        self.device = torch.device(device)
        net = families.get(weights.family).load(weights.path)
        self.net = cast(Paints, net.eval().to(self.device))
        self.spec = self.net.spec
        self.varies = varies(self.net)
        self.abilities = Abilities(offered(self.net) | ALWAYS)
        self.fit = _fit(weights.path)
        self._worker = Worker("pictures")

    async def generate(self, request: Request) -> AsyncIterator[Chunk]:
        image_request = accepted(request, ImageRequest, self.abilities, "pictures")
        self._check_size(image_request)
        number = None
        if image_request.label is not None:
            number = self.number(str(image_request.label))
        source = None
        if "image" in self.net.controls or image_request.image is not None:
            source = self.source(image_request)
            if self.varies:
                self._check_variation(image_request)
        async with aclosing(
            self._worker.stream(
                lambda send: self._paint(image_request, number, source, send)
            )
        ) as chunks:
            async for chunk in chunks:
                yield chunk

    def _check_size(self, request: ImageRequest) -> None:
        sizes = (
            ("width", request.width, self.spec.width),
            ("height", request.height, self.spec.height),
        )
        for name, value, own in sizes:
            if value not in (None, own):
                raise Unsupported(
                    say(
                        f"{name} is {value}; {self.weights.name} makes "
                        f"{self.spec.width} x {self.spec.height} pixels and no "
                        "other size.",
                        f"{name} 为 {value}；{self.weights.name} 只能生成 "
                        f"{self.spec.width} x {self.spec.height} 像素的图片。",
                    ),
                    say(
                        "Leave it out, and enlarge the result with --upscale.",
                        "请去掉它，之后可用 --upscale 放大。",
                    ),
                )

    def _check_variation(self, request: ImageRequest) -> None:
        """Raise for a variation that leaves the model guessing."""
        if request.truncation is not None:
            request.refuse("image", "truncation")
        if "label" in self.net.controls and request.label is None:
            raise BadInput(
                say(
                    f"{self.weights.name} has to know the class of the image.",
                    f"{self.weights.name} 需要知道图片的类别。",
                ),
                say(
                    f"Give label, one of {', '.join(self.spec.classes[:12])}.",
                    f"请给出 label，可选：{'、'.join(self.spec.classes[:12])}。",
                ),
            )

    def number(self, label: str) -> int:
        """Return the number of a class, from its name or number.

        Raises BadInput with the nearest names.
        """
        if label in self.spec.classes:
            return self.spec.classes.index(label)
        if label.isdecimal() and int(label) < len(self.spec.classes):
            return int(label)
        raise BadInput(
            say(
                f"{self.weights.name} knows no class {label!r}.",
                f"{self.weights.name} 没有名为 {label!r} 的类别。",
            ),
            nearest(label, self.spec.classes),
        )

    def source(self, request: ImageRequest) -> Source:
        """Return the request's image at the model's size.

        It is fitted as the training images were.
        """
        if request.image is None:
            raise BadInput(
                say(
                    f"{self.weights.name} turns one picture into another, and there is no image.",
                    f"{self.weights.name} 把一张图片变成另一张，但没有给出 image。",
                ),
                say("Give one: --image picture.png", "请给出图片：--image picture.png"),
            )
        image = Pillow.fromarray(read_picture(request.image))
        left, top = 0, 0
        height, width = self.spec.height, self.spec.width
        if self.fit == "pad":
            left, top, width, height = padded(image, height, width)
        planes = self.planes(image, self.spec.source_channels or self.spec.channels)
        area = (slice(top, top + height), slice(left, left + width))
        return Source(planes, area, self.mask(request, image))

    def mask(self, request: ImageRequest, image: Pillow.Image) -> Tensor | None:
        """Return the request's mask at the model's size: 1 where any of it is white.

        It is fitted as its image is. Raises BadInput for one of another size.
        """
        if request.mask is None:
            return None
        mask = Pillow.fromarray(read_picture(request.mask))
        if mask.size != image.size:
            raise BadInput(
                say(
                    f"The mask has {mask.width} × {mask.height} pixels and the image {image.width} × {image.height}.",
                    f"蒙版为 {mask.width} × {mask.height} 像素，图片为 {image.width} × {image.height} 像素。",
                ),
                say(
                    "Give a mask of the image's size: white is painted anew.",
                    "请提供与图片同样大小的蒙版：白色部分会重画。",
                ),
                field="mask",
            )
        planes = self.planes(mask, 1)
        return (planes > -1).float()

    def planes(self, picture: Pillow.Image, channels: int) -> Tensor:
        """Return an image as the model sees it, [1, channels, H, W] in [-1, 1].

        It is fitted as the training images were.
        """
        pixels = fitted(picture, self.spec.height, self.spec.width, self.fit)
        planes = with_channels(pixels, channels)
        return from_planes(torch.from_numpy(np.array(planes))[None]).to(self.device)

    def points(
        self, seeds: Sequence[int], number: int | None
    ) -> tuple[Tensor, Tensor | None]:
        """Return the latent points [B, ...] and the classes [B] of these seeds' images.

        Args:
            seeds: One an image.
            number: The class that all are to be of; drawn at random when None.
        """
        net = cast(HasLatents, self.net)
        generators = [self._generator(seed) for seed in seeds]
        labels = self._labels(number, generators)
        return torch.cat([net.draw(1, generator) for generator in generators]), labels

    def _generator(self, seed: int) -> torch.Generator:
        return torch.Generator(self.device).manual_seed(seed)

    @torch.inference_mode()
    def _paint(
        self,
        request: ImageRequest,
        number: int | None,
        source: Source | None,
        send: Send,
    ) -> None:
        make, together = self._way(request, source)
        for first in range(0, request.n, together):
            indices = range(first, min(first + together, request.n))
            seeds = [(request.seed or 0) + index for index in indices]
            images, labels = make(request, seeds, number, source)
            for row, index in enumerate(indices):
                label = None if labels is None else int(labels[row])
                artifact = self._artifact(images[row], label, source)
                send(Chunk(index, artifact=artifact, finish="stop"))

    def _way(self, request: ImageRequest, source: Source | None) -> tuple[Make, int]:
        """Return what makes images, and how many at once."""
        if isinstance(self.net, Denoises):
            return self._denoise, BATCH
        plain = not DRAWN_ALONE & request.changed().keys()
        decodes = isinstance(self.net, HasLatents) and plain
        if decodes and (source is None or self.varies):
            return self._decode, BATCH
        return self._paint_one, 1

    def _denoise(
        self,
        request: ImageRequest,
        seeds: Sequence[int],
        number: int | None,
        source: Source | None,
    ) -> tuple[Tensor, Tensor | None]:
        """Images [B, C, H, W] from noise, each from a generator of its own."""
        net = cast(Denoises, self.net)
        generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        labels = self._labels(number, generators)

        def draw(like: Tensor) -> Tensor:
            rows = [
                torch.randn(like.shape[1:], generator=generator)
                for generator in generators
            ]
            return torch.stack(rows).to(self.device)

        spec = self.spec
        noise = draw(torch.empty(1, spec.channels, spec.height, spec.width))
        conditions = Conditions(
            label=labels,
            guidance_scale=request.guidance_scale,
            steps=request.num_inference_steps,
            sampler=request.scheduler,
        )
        if source is None:
            return net.denoise(noise, conditions, draw), labels
        strength = request.strength
        if strength is None:
            strength = REPAINTED if source.mask is None else 1.0
        pixels = source.pixels.expand(len(seeds), -1, -1, -1)
        painted = net.repaint(noise, pixels, conditions, strength, source.mask, draw)
        return painted, labels

    def _decode(
        self,
        request: ImageRequest,
        seeds: Sequence[int],
        number: int | None,
        source: Source | None,
    ) -> tuple[Tensor, Tensor | None]:
        """Images [B, C, H, W] from latent points, and their classes."""
        points, labels = self.points(seeds, number)
        if source is not None:
            strength = STRENGTH if request.strength is None else request.strength
            points = self._variations(source, points, labels, strength)
        return cast(HasLatents, self.net).decode(points, labels), labels

    def _paint_one(
        self,
        request: ImageRequest,
        seeds: Sequence[int],
        number: int | None,
        source: Source | None,
    ) -> tuple[Tensor, Tensor | None]:
        """The image [1, C, H, W] of the only seed, and its class."""
        (seed,) = seeds
        generator = self._generator(seed)
        labels = self._labels(number, [generator])
        conditions = Conditions(
            label=labels,
            source=source.pixels if source else None,
            prompt=[request.prompt] if request.prompt else None,
            guidance_scale=request.guidance_scale,
            steps=request.num_inference_steps,
            truncation=request.truncation or 1.0,
        )
        return self.net.paint(1, conditions, generator), labels

    def _variations(
        self, source: Source, points: Tensor, labels: Tensor | None, strength: float
    ) -> Tensor:
        """Points [B, ...] around the source's own."""
        pixels = source.pixels.expand(len(points), -1, -1, -1)
        own = cast(Encodes, self.net).encode(pixels, labels)
        return math.sqrt(1 - strength * strength) * own + strength * points

    def _labels(
        self, number: int | None, generators: list[torch.Generator]
    ) -> Tensor | None:
        """Numbers of classes, drawn at random unless `number` says; None for a model
        without classes.
        """
        if "label" not in self.net.controls:
            return None
        if number is not None:
            return torch.full((len(generators),), number, device=self.device)
        labels = [
            labels_for(self.net, 1, None, generator, self.device)
            for generator in generators
        ]
        return torch.cat(cast(list[Tensor], labels))

    def _artifact(
        self, image: Tensor, label: int | None, source: Source | None
    ) -> Image:
        pixels = to_pixels(image[None])[0].numpy()
        if source is not None:
            pixels = pixels[source.area].copy()
        parameters = {} if label is None else {"label": self.spec.classes[label]}
        return Image(pixels, Facts(self.weights.name, parameters=parameters))

    def close(self) -> None:
        self._worker.close()


def _fit(folder: Path) -> Fit:
    """How the model's training images were brought to its size."""
    preprocessing = folder / "preprocessor_config.json"
    if not preprocessing.exists():
        return "pad"
    fit: Fit = json.loads(preprocessing.read_text(encoding="utf-8"))["fit"]
    return fit
