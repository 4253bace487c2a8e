"""Protocols of a trained picture model: what `load` of a picture family returns.

Every model paints. One with a latent space also draws from it and decodes; some encode;
one with a likelihood bounds it. `isinstance(net, Encodes)` says whether a model does.
Pixels are float32 in [-1, 1], [B, C, H, W]. Labels are int64 [B], numbers of
`spec.classes`.
"""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from miaobi.core.errors import BadInput
from miaobi.core.language import say
from miaobi.data.image.prepared import PictureSpec


@runtime_checkable
class Paints(Protocol):
    """A picture model."""

    spec: PictureSpec
    controls: frozenset[str]
    """Fields of ImageRequest that it supports: "label", "image", "truncation"."""

    def paint(
        self,
        count: int,
        *,
        label: Tensor | None = None,
        source: Tensor | None = None,
        truncation: float = 1.0,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Return pictures [count, C, H, W].

        Args:
            count: how many.
            label: [count]; drawn at random when None and there are classes.
            source: [count, C_source, H, W], for models that translate a picture.
            truncation: ψ in (0, 1], towards the average.
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
    return torch.randint(classes, (count,), generator=generator, device=device)


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
