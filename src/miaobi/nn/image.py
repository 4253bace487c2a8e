"""Protocols of a trained picture model: what `load` of a picture family returns.

Every model paints. One with a latent space also draws from it and decodes; some encode;
one with a likelihood bounds it. `isinstance(net, Encodes)` says whether a model does.
Pixels are float32 in [-1, 1], [B, C, H, W]. Labels are int64 [B], numbers of
`spec.classes`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from miaobi.core.artifacts import Artifact, Facts, Image
from miaobi.core.errors import BadInput
from miaobi.core.language import say
from miaobi.data.dataset import Batch
from miaobi.data.image.prepared import PictureSpec
from miaobi.provenance.sheet import sheet


@dataclass(frozen=True)
class Conditions:
    """What pictures are to be of; what is None is left to the model.

    Shapes: label [count]; source [count, C_source, H, W] in [-1, 1].
    """

    label: Tensor | None = None
    """Classes; drawn at random when None and there are classes."""
    source: Tensor | None = None
    """Pictures to start from, for models that translate or restore one."""
    prompt: Sequence[str] | None = None
    """A caption for each picture."""
    guidance_scale: float | None = None
    """How closely to follow the conditions."""
    steps: int | None = None
    """Steps of denoising."""
    sampler: str | None = None
    """How noise is taken away (nn/diffusion.py)."""
    truncation: float = 1.0
    """ψ in (0, 1], towards the average."""


UNCONDITIONAL = Conditions()

CONDITIONS = {
    "label": "label",
    "image": "source",
    "prompt": "prompt",
    "guidance_scale": "guidance_scale",
    "num_inference_steps": "steps",
    "scheduler": "sampler",
    "truncation": "truncation",
}
"""Fields of an ImageRequest, and the conditions that they set."""


@runtime_checkable
class Paints(Protocol):
    """A picture model."""

    spec: PictureSpec
    controls: frozenset[str]
    """Those of CONDITIONS that it supports."""

    def paint(
        self,
        count: int,
        conditions: Conditions = UNCONDITIONAL,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Return pictures [count, C, H, W].

        Args:
            count: how many.
            conditions: those that it supports.
            generator: for all random draws.
        """
        ...


@runtime_checkable
class HasLatents(Protocol):
    """A model whose pictures come from points of a latent space."""

    latent_shape: tuple[int, ...]

    def draw(self, count: int, generator: torch.Generator | None = None) -> Tensor:
        """Return points drawn from the prior, [count, *latent_shape]."""
        ...

    def decode(self, latent: Tensor, label: Tensor | None = None) -> Tensor:
        """Return pictures [B, C, H, W] of points [B, *latent_shape]; differentiable."""
        ...


@runtime_checkable
class Denoises(Protocol):
    """A model that takes noise away step by step, from noise alone or from a picture.

    `draw` is asked for the noise that a sampler adds on the way.
    """

    def denoise(
        self,
        noise: Tensor,
        conditions: Conditions,
        draw: Callable[[Tensor], Tensor] = torch.randn_like,
    ) -> Tensor:
        """Return pictures of noise [B, C, H, W] under those conditions it supports."""
        ...

    def repaint(
        self,
        noise: Tensor,
        source: Tensor,
        conditions: Conditions,
        strength: float,
        mask: Tensor | None,
        draw: Callable[[Tensor], Tensor] = torch.randn_like,
    ) -> Tensor:
        """Return pictures that begin with `source` under noise.

        Args:
            noise: [B, C, H, W].
            source: [B, C, H, W] in [-1, 1].
            conditions: those that it supports.
            strength: share of the way to noise that the source is taken: 0 returns it,
                1 does not look at it.
            mask: [1 or B, 1, H, W]: what is above 0 is painted anew, all else stays to
                the bit; None for the whole picture.
            draw: of further noise.
        """
        ...


@runtime_checkable
class Encodes(Protocol):
    """A model that finds the latent points of pictures."""

    def encode(self, pixels: Tensor, label: Tensor | None = None) -> Tensor:
        """Return the likeliest points [B, *latent_shape] of pictures [B, C, H, W]."""
        ...


@runtime_checkable
class HasBound(Protocol):
    """A model that bounds log p(x) from below."""

    def bound(
        self,
        pixels: Tensor,
        label: Tensor | None = None,
        samples: int = 200,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Return the importance-weighted bound in nats, [B], of `samples` draws.

        Burda et al. 2016, arXiv:1509.00519.
        """
        ...


def offered(net: Paints) -> frozenset[str]:
    """Return the fields of an ImageRequest that a model supports beyond size and seed.

    One that encodes as well as decodes makes variations of an image; one that takes
    noise away, repaints it.
    """
    if isinstance(net, Denoises):
        return net.controls | {"image", "strength", "mask"}
    if varies(net):
        return net.controls | {"image", "strength"}
    return net.controls


def varies(net: Paints) -> bool:
    """Return whether a model makes variations of an image."""
    has_latents = isinstance(net, HasLatents) and isinstance(net, Encodes)
    return has_latents and "image" not in net.controls


def labels_for(
    net: Paints,
    count: int,
    label: Tensor | None,
    generator: torch.Generator | None,
    device: torch.device,
) -> Tensor | None:
    """Return `label`, or random classes [count] where a conditional model has none.

    Args:
        net: the model.
        count: how many pictures.
        label: [count] or None.
        generator: for the random draws.
        device: of the classes that are drawn.
    """
    if label is not None or "label" not in net.controls:
        return label
    classes = len(net.spec.classes)
    where = generator.device if generator else device
    drawn = torch.randint(classes, (count,), generator=generator, device=where)
    return drawn.to(device)


def captions_of(batch: Batch) -> list[str]:
    """Return the captions of a batch; empty texts where the data has none."""
    if "caption" not in batch:
        return [""] * len(batch["pixels"])
    rows = batch["caption"].cpu().numpy()
    return [row.tobytes().rstrip(b"\0").decode() for row in rows]


def need_classes(spec: PictureSpec) -> None:
    """Raise BadInput for a conditional model of pictures without classes."""
    if not spec.classes:
        raise BadInput(
            say(
                "model.conditional is set, but the pictures have no classes.",
                "设置了 model.conditional，但图片没有类别。",
            ),
            say(
                "Put each class in a folder of its own, or leave model.conditional out.",
                "请把每一类放进各自的文件夹，或去掉 model.conditional。",
            ),
        )


def sheet_of(
    rows: Sequence[Tensor], titles: Sequence[str], columns: Sequence[str] = ()
) -> list[Artifact]:
    """Return rows of pictures on one sheet: the `sample` of a family.

    Args:
        rows: each [columns, C, H, W]
        titles: what each row shows, to its left; those below the last have none
        columns: what each column shows, such as the classes, or nothing
    """
    pixels = to_pixels(torch.cat(list(rows))).numpy()
    beside = [*titles, *[""] * (len(rows) - len(titles))]
    return [
        Image(
            sheet(
                pixels,
                columns=len(rows[0]),
                rows_labels=beside,
                columns_labels=columns or None,
            ),
            Facts(""),
        )
    ]


def to_pixels(pictures: Tensor) -> Tensor:
    """Return float [-1, 1] [B, C, H, W] as uint8 [B, H, W, C], as artifacts hold them."""
    pixels = pictures.detach().float().clamp(-1, 1).add(1).mul(127.5).round()
    return pixels.to(torch.uint8).permute(0, 2, 3, 1).cpu().contiguous()


def from_pixels(pixels: Tensor) -> Tensor:
    """Return uint8 [B, H, W, C] as float [-1, 1] [B, C, H, W]."""
    return from_planes(pixels.permute(0, 3, 1, 2))


def from_planes(planes: Tensor) -> Tensor:
    """Return uint8 [B, C, H, W], as prepared data holds them, as float [-1, 1]."""
    return planes.float().div(127.5).sub(1)
