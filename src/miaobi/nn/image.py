"""What a trained picture model can do, whatever its family: what `load` of a picture
family returns.

Pixels here are float32 in [-1, 1], shape [B, C, H, W]. Labels are int64 [B], numbers of
`spec.classes`. Every picture model paints. Those with a latent space also draw from it
and decode; those that encode, encode; those with a likelihood bound it. Code that needs
one of these asks with `isinstance(net, Encodes)`.
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
    """A picture model. `controls`: the names of ImageRequest fields it honours
    ("label", "image", "truncation").
    """

    spec: PictureSpec
    controls: frozenset[str]

    def paint(
        self,
        count: int,
        *,
        label: Tensor | None = None,
        source: Tensor | None = None,
        truncation: float = 1.0,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """`count` pictures [count, C, H, W]. label: [count], drawn at random when None
        and there are classes.

        source: [count, C_source, H, W], for models that translate a picture.
            truncation: ψ in (0, 1], towards the average.
        """
        ...


@runtime_checkable
class HasLatents(Protocol):
    """A model whose pictures come from points of a latent space."""

    latent_shape: tuple[int, ...]

    def draw(self, count: int, generator: torch.Generator | None = None) -> Tensor:
        """Points of the prior, [count, *latent_shape]."""
        ...

    def decode(self, latent: Tensor, label: Tensor | None = None) -> Tensor:
        """Pictures [B, C, H, W] of points [B, *latent_shape]; differentiable."""
        ...


@runtime_checkable
class Encodes(Protocol):
    """A model that finds the latent point of a picture."""

    def encode(self, pixels: Tensor, label: Tensor | None = None) -> Tensor:
        """[B, C, H, W] -> [B, *latent_shape]: the best guess, without noise."""
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
        """The importance-weighted bound (Burda et al. 2016, arXiv:1509.00519) in nats,
        [B], of `samples` draws.
        """
        ...


def labels_for(
    net: Paints,
    count: int,
    label: Tensor | None,
    generator: torch.Generator | None,
    device: torch.device,
) -> Tensor | None:
    """`label` as it was given; [count] classes drawn at random for a model that asks
    for them and was told none.
    """
    if label is not None or "label" not in net.controls:
        return label
    return torch.randint(
        len(net.spec.classes), (count,), generator=generator, device=device
    )


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
    """float [-1, 1] [B, C, H, W] -> uint8 [B, H, W, C], as artifacts hold them."""
    return (
        pictures.detach()
        .float()
        .clamp(-1, 1)
        .add(1)
        .mul(127.5)
        .round()
        .to(torch.uint8)
        .permute(0, 2, 3, 1)
        .cpu()
        .contiguous()
    )


def from_pixels(pixels: Tensor) -> Tensor:
    """uint8 [B, H, W, C] -> float [-1, 1] [B, C, H, W]."""
    return from_planes(pixels.permute(0, 3, 1, 2))


def from_planes(planes: Tensor) -> Tensor:
    """uint8 [B, C, H, W], as prepared data holds them -> float [-1, 1]."""
    return planes.float().div(127.5).sub(1)
