"""What the engine for picture families does: from labels and seeds to pictures, by the
protocols of nn/image.py.

Picture i of seed s is made of a generator of its own, seeded s + i, so it does not
depend on how many are asked for; facts record that number and the class. Pixels keep
the model's channels: [H, W, 1] for grey, [H, W, 3] for colour.

A model that encodes as well as draws makes pictures like one it is given: z' = sqrt(1 -
s²) z + s ε, where z is that picture's point, ε a point of the prior and s the strength;
z' has the variance of the prior wherever z has.
"""

from __future__ import annotations

import json
import math
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, cast

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
    Encodes,
    HasLatents,
    Paints,
    from_planes,
    labels_for,
    to_pixels,
)

BATCH = 64
"""Pictures decoded together at most."""
STRENGTH = 0.3
"""How unlike the picture that is given, where nothing is said."""


@dataclass(frozen=True)
class Source:
    """The picture a translator is given, [1, C, H, W], and which part of the canvas it
    fills (rows, columns).
    """

    pixels: Tensor
    part: tuple[slice, slice]


class PicturesEngine:
    """`net`: the family's model (nn/image.py). `spec`: what its pictures are."""

    modality = "image"

    def __init__(self, weights: Weights, device: str) -> None:
        self.weights, self.device = weights, torch.device(device)
        self.net = cast(
            Paints,
            families.get(weights.family).load(weights.path).eval().to(self.device),
        )
        self.spec = self.net.spec
        self.varies = (
            isinstance(self.net, HasLatents)
            and isinstance(self.net, Encodes)
            and "image" not in self.net.controls
        )
        own = {"n", "seed", "width", "height"} | (
            {"image", "strength"} if self.varies else set()
        )
        self.abilities = Abilities(frozenset(own) | self.net.controls)
        preprocessing = weights.path / "preprocessor_config.json"
        self.fit: Fit = (
            json.loads(preprocessing.read_text(encoding="utf-8"))["fit"]
            if preprocessing.exists()
            else "pad"
        )
        self._worker = Worker("pictures")

    async def generate(self, request: Request) -> AsyncIterator[Chunk]:
        asked = accepted(request, ImageRequest, self.abilities, "pictures")
        self._check_size(asked)
        number = self.number(str(asked.label)) if asked.label is not None else None
        source = (
            self.source(asked)
            if "image" in self.net.controls or asked.image is not None
            else None
        )
        if source is not None and self.varies:
            self._check_like(asked)
        async with aclosing(
            self._worker.stream(lambda send: self._paint(asked, number, source, send))
        ) as chunks:
            async for chunk in chunks:
                yield chunk

    def _check_size(self, request: ImageRequest) -> None:
        for name in ("width", "height"):
            wanted, own = getattr(request, name), getattr(self.spec, name)
            if wanted not in (None, own):
                raise Unsupported(
                    say(
                        f"{name} is {wanted}; {self.weights.name} paints "
                        f"{self.spec.width} x {self.spec.height} pixels and no "
                        "other size.",
                        f"{name} 为 {wanted}；{self.weights.name} 只能生成 "
                        f"{self.spec.width} x {self.spec.height} 像素的图片。",
                    ),
                    say(
                        "Leave it out, and enlarge the result with --upscale.",
                        "请去掉它，之后可用 --upscale 放大。",
                    ),
                )

    def _check_like(self, request: ImageRequest) -> None:
        """Raise for a picture to be like that leaves the model guessing."""
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
        """The number of a class, from its name or number. Raises BadInput with the
        nearest names.
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
        """The request's picture at the model's size, as its training pictures were fitted."""
        if request.image is None:
            raise BadInput(
                say(
                    f"{self.weights.name} turns one picture into another, and there is no image.",
                    f"{self.weights.name} 把一张图片变成另一张，但没有给出 image。",
                ),
                say("Give one: --image picture.png", "请给出图片：--image picture.png"),
            )
        picture = Pillow.fromarray(read_picture(request.image))
        height, width = self.spec.height, self.spec.width
        left, top, across, down = (
            padded(picture, height, width)
            if self.fit == "pad"
            else (0, 0, width, height)
        )
        planes = self.planes(picture, self.spec.source_channels or self.spec.channels)
        return Source(planes, (slice(top, top + down), slice(left, left + across)))

    def planes(self, picture: Pillow.Image, channels: int) -> Tensor:
        """A picture as the model sees it, [1, channels, H, W]: of its size, fitted as
        its training pictures were.
        """
        pixels = with_channels(
            fitted(picture, self.spec.height, self.spec.width, self.fit), channels
        )
        return from_planes(torch.from_numpy(np.array(pixels))[None]).to(self.device)

    def points(
        self, seeds: Sequence[int], number: int | None
    ) -> tuple[Tensor, Tensor | None]:
        """The latent points and the classes of these seeds' pictures; `number` is the
        class that was asked for.
        """
        net: Any = self.net
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
        together = (
            isinstance(self.net, HasLatents)
            and request.truncation is None
            and (source is None or self.varies)
        )
        size = BATCH if together else 1
        for first in range(0, request.n, size):
            indices = range(first, min(first + size, request.n))
            seeds = [(request.seed or 0) + index for index in indices]
            if together:
                points, labels = self.points(seeds, number)
                if source is not None:
                    points = self._near(
                        source,
                        points,
                        labels,
                        STRENGTH if request.strength is None else request.strength,
                    )
                painted = cast(HasLatents, self.net).decode(points, labels)
            else:
                generator = self._generator(seeds[0])
                labels = self._labels(number, [generator])
                painted = self.net.paint(
                    1,
                    label=labels,
                    source=source.pixels if source else None,
                    truncation=request.truncation or 1.0,
                    generator=generator,
                )
            for at, index in enumerate(indices):
                send(
                    Chunk(
                        index,
                        artifact=self._picture(
                            painted[at],
                            None if labels is None else int(labels[at]),
                            source,
                        ),
                        finish="stop",
                    )
                )

    def _near(
        self, source: Source, points: Tensor, labels: Tensor | None, strength: float
    ) -> Tensor:
        """Points [B, ...] around the picture's own."""
        own = cast(Encodes, self.net).encode(
            source.pixels.expand(len(points), -1, -1, -1), labels
        )
        near: Tensor = math.sqrt(1 - strength * strength) * own + strength * points
        return near

    def _labels(
        self, number: int | None, generators: list[torch.Generator]
    ) -> Tensor | None:
        """Numbers of classes, drawn where none was asked for; None for a model that takes none."""
        if "label" not in self.net.controls:
            return None
        if number is not None:
            return torch.full((len(generators),), number, device=self.device)
        return torch.cat(
            [
                cast(Tensor, labels_for(self.net, 1, None, generator, self.device))
                for generator in generators
            ]
        )

    def _picture(
        self, painted: Tensor, label: int | None, source: Source | None
    ) -> Image:
        pixels = to_pixels(painted[None])[0].numpy()
        known = {} if label is None else {"label": self.spec.classes[label]}
        return Image(
            pixels[source.part].copy() if source else pixels,
            Facts(self.weights.name, parameters=known),
        )

    def close(self) -> None:
        self._worker.close()
