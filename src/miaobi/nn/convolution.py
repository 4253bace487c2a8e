"""Convolutional trunks that the picture families share: residual blocks without
normalisation, down to a few places and up again.

    x ← s(x) + W_2 * σ(W_1 * σ(x)),   W_2 = 0 at the start, s the identity or a 1 × 1 convolution, σ leaky ReLU

Zero-initialised residuals make normalisation needless (Zhang et al. 2019,
arXiv:1901.09321), which adversarial penalties want gone (Huang et al. 2025,
arXiv:2501.05441). Kernels lie channels-last: on a CPU, up to four times quicker.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from miaobi.core.errors import BadInput
from miaobi.core.language import say
from miaobi.data.image.prepared import PictureSpec

SLOPE = 0.2
FINE = 8
"""Channels at full size, where squares of pixels were laid out."""
WIDEST_FLOOR = 8
"""Halving goes on until a side is at most this."""


class Residual(nn.Module):
    """x [B, C_in, H, W] -> [B, C_out, H', W']; resample "up" doubles the sides before
    the block, "down" halves them after it.
    """

    def __init__(self, inner: int, outer: int, resample: str = "") -> None:
        super().__init__()
        self.resample = resample
        self.first, self.second = conv(inner, outer), conv(outer, outer)
        self.skip = (
            nn.Conv2d(inner, outer, 1, bias=False) if inner != outer else nn.Identity()
        )
        nn.init.zeros_(self.second.weight)

    def forward(self, x: Tensor) -> Tensor:
        skip = self.skip(x)
        if self.resample == "up":
            skip, x = doubled(skip), doubled(x)
        x = skip + self.second(F.leaky_relu(self.first(F.leaky_relu(x, SLOPE)), SLOPE))
        return F.avg_pool2d(x, 2) if self.resample == "down" else x


def conv(inner: int, outer: int) -> nn.Conv2d:
    """3 × 3, keeping the sides, weights scaled to keep the variance through a leaky
    ReLU (He et al. 2015).
    """
    made = nn.Conv2d(inner, outer, 3, padding=1)
    nn.init.kaiming_normal_(made.weight, SLOPE)
    nn.init.zeros_(made.bias)
    return made


def doubled(x: Tensor) -> Tensor:
    return F.interpolate(x, scale_factor=2, mode="nearest")


class Encoder(nn.Module):
    """pictures [B, C, H, W] -> [B, widths[-1], h, w], with h = H / (patch · 2^L) and L
    = len(widths) - 1.

    Squares of `patch` pixels are read as one place with patch² as many channels (Shi et
    al. 2016, arXiv:1609.05158), which spares the convolutions at full size, the
    dearest.
    """

    def __init__(self, channels: int, widths: Sequence[int], patch: int) -> None:
        super().__init__()
        self.patch, self.stem = patch, conv(channels * patch**2, widths[0])
        self.blocks = nn.Sequential(
            *(Residual(a, b, "down") for a, b in itertools.pairwise(widths)),
            Residual(widths[-1], widths[-1]),
        )
        channels_last(self)

    def forward(self, x: Tensor) -> Tensor:
        return F.leaky_relu(
            self.blocks(self.stem(F.pixel_unshuffle(x, self.patch))), SLOPE
        )


class Decoder(nn.Module):
    """[B, widths[-1], h, w] -> [B, C, H, W]: an encoder of the same widths, backwards.
    No bound on the output.
    """

    def __init__(self, channels: int, widths: Sequence[int], patch: int) -> None:
        super().__init__()
        rising = widths[::-1]
        self.blocks = nn.Sequential(
            Residual(rising[0], rising[0]),
            *(Residual(a, b, "up") for a, b in itertools.pairwise(rising)),
        )
        self.laid_out = LaidOut(widths[0], channels, patch)
        channels_last(self)

    def forward(self, x: Tensor) -> Tensor:
        return self.laid_out(F.leaky_relu(self.blocks(x), SLOPE))


class LaidOut(nn.Module):
    """Places as squares of pixels: [B, inner, h, w] -> [B, C, h · patch, w · patch].

    Every square comes from one place; a small convolution at full size then sees over
    its borders, or they would show.
    """

    def __init__(self, inner: int, channels: int, patch: int) -> None:
        super().__init__()
        self.patch = patch
        self.squares = nn.Conv2d(inner, FINE * patch**2, 1)
        self.head = nn.Conv2d(FINE, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(
            F.leaky_relu(F.pixel_shuffle(self.squares(x), self.patch), SLOPE)
        )


def channels_last(module: nn.Module) -> None:
    module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


@dataclass(frozen=True)
class Floor:
    """How pictures of a size go down: `levels` halvings of squares of `patch` pixels,
    to `height` × `width` places.
    """

    levels: int
    height: int
    width: int

    def widths(self, base: int, most: int = 4) -> list[int]:
        """Channels of each level: `base`, doubling at every halving, up to `most` times `base`."""
        return [base * min(2**level, most) for level in range(self.levels + 1)]


def floor_of(spec: PictureSpec, patch: int = 1, smallest: int = 4) -> Floor:
    """Halved as long as both sides divide and stay at `smallest` or more.

    Raises BadInput where that leaves a side above eight: such a size does not divide
    far enough. And for pictures of several shapes.
    """
    if spec.buckets:
        raise BadInput(
            say(
                "This family paints one size, and the pictures were prepared in several shapes (data.buckets).",
                "此模型族只画一种尺寸，而图片按多种宽高比准备（data.buckets）。",
            ),
            say("Leave data.buckets out.", "请去掉 data.buckets。"),
        )
    levels, height, width = 0, spec.height // patch, spec.width // patch
    while height % 2 == 0 and width % 2 == 0 and min(height, width) >= 2 * smallest:
        levels, height, width = levels + 1, height // 2, width // 2
    if min(height, width) > WIDEST_FLOOR or spec.height % patch or spec.width % patch:
        near = max(16, round(spec.height / 16) * 16)
        raise BadInput(
            say(
                f"Pictures of {spec.height} × {spec.width} cannot be halved "
                f"down to {WIDEST_FLOOR} or fewer places (model.patch {patch}).",
                f"{spec.height} × {spec.width} 的图片无法逐次减半到 {WIDEST_FLOOR} 以内（model.patch 为 {patch}）。",
            ),
            say(
                f"Take another size, such as --data.image_size {near}.",
                f"请换一个尺寸，例如 --data.image_size {near}。",
            ),
        )
    return Floor(levels, height, width)
