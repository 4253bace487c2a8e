"""A frozen base in eight or four bits: weights only, in blocks along the inputs, each
with its own scale; any CPU can work with it.

int8   w ≈ q s,          s = max |w| / 127 of a block of 64
int4   w ≈ level[q] s,   s = max |w|; 16 levels that hold equal shares of a normal
       distribution (NF4 of Dettmers et al. 2023, arXiv:2305.14314), two to a byte

A layer is unpacked to float32 in the forward pass and again in the backward pass, so
only one is unpacked at a time. The head, embeddings and norms stay as they are. The
model is loaded whole first: what shrinks is what training holds.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from miaobi.core.errors import Unsupported
from miaobi.core.language import say
from miaobi.tune.learner import Learner
from miaobi.tune.methods.freezing import is_fresh

Bits = Literal["int8", "int4"]
BLOCK = 64
NF4 = (
    -1.0,
    -0.6961928009986877,
    -0.5250730514526367,
    -0.39491748809814453,
    -0.28444138169288635,
    -0.18477343022823334,
    -0.09105003625154495,
    0.0,
    0.07958029955625534,
    0.16093020141124725,
    0.24611230194568634,
    0.33791524171829224,
    0.44070982933044434,
    0.5626170039176941,
    0.7229568362236023,
    1.0,
)


class QuantisedLinear(nn.Linear):
    """y = x Ŵᵀ + b with Ŵ [out, in] in few bits. Gradients reach x only.

    Its weights are no part of a state dict: they follow from the base.
    """

    packed: Tensor
    scale: Tensor
    pairs: Tensor

    def __init__(self, linear: nn.Linear, bits: Bits) -> None:
        nn.Module.__init__(self)
        self.in_features = linear.in_features
        self.out_features = linear.out_features
        self.bits = bits
        packed, scale = pack(linear.weight.detach().float(), bits)
        self.register_buffer("packed", packed, persistent=False)
        self.register_buffer("scale", scale, persistent=False)
        self.register_buffer("pairs", pairs_of_levels(), persistent=False)
        self.register_parameter("bias", linear.bias)
        if linear.bias is not None:
            linear.bias.requires_grad_(False)

    @property
    def weight(self) -> Tensor:  # type: ignore[override]  # nn.Linear has a Parameter
        """Ŵ, unpacked: float32 [out, in]."""
        return unpack(self.packed, self.scale, self.pairs, self.in_features, self.bits)

    def forward(self, input: Tensor) -> Tensor:
        apply: Callable[[Tensor, QuantisedLinear], Tensor] = _Product.apply
        out = apply(input, self)
        return out if self.bias is None else out + self.bias.to(out.dtype)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, {self.bits}"


class _Product(torch.autograd.Function):
    """x Ŵᵀ; saves only the layer for the backward pass, and unpacks it again there."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, layer: QuantisedLinear) -> Tensor:
        ctx.layer = layer
        return F.linear(x, layer.weight.to(x.dtype))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        gradient = gradients[0]
        return gradient @ ctx.layer.weight.to(gradient.dtype), None


def pack(weight: Tensor, bits: Bits) -> tuple[Tensor, Tensor]:
    """Return (codes, scales [out, blocks]) of a matrix [out, in].

    Codes are int8 [out, in] or, two to a byte, uint8 [out, blocks × 32].
    """
    rows, columns = weight.shape
    blocks = F.pad(weight, (0, -columns % BLOCK)).reshape(rows, -1, BLOCK)
    tiny = torch.finfo(torch.float32).tiny
    largest = blocks.abs().amax(2, keepdim=True).clamp(min=tiny)
    if bits == "int8":
        scale = largest / 127
        codes = (blocks / scale).round().to(torch.int8).flatten(1)
        return codes[:, :columns].contiguous(), scale.squeeze(2)
    levels = torch.tensor(NF4, device=weight.device)
    middles = (levels[1:] + levels[:-1]) / 2
    codes = torch.bucketize(blocks / largest, middles).to(torch.uint8).flatten(1)
    return codes[:, 0::2] << 4 | codes[:, 1::2], largest.squeeze(2)


def pairs_of_levels() -> Tensor:
    """Return for each byte the two levels it holds, int64 [256].

    The eight bytes of both levels are one number: looked up ten times as fast as one
    by one.
    """
    levels = torch.tensor(NF4)
    pairs = torch.stack([levels.repeat_interleave(16), levels.repeat(16)], 1)
    return pairs.view(torch.int64).flatten()


def unpack(
    packed: Tensor, scale: Tensor, pairs: Tensor, columns: int, bits: Bits
) -> Tensor:
    """Return the matrix that `pack` stored, float32 [out, columns].

    Args:
        packed: the codes of `pack`.
        scale: the scales of `pack`.
        pairs: what `pairs_of_levels` gives; used for int4.
        columns: the inputs of the layer.
        bits: what it was packed to.
    """
    if bits == "int8":
        values = F.pad(packed, (0, -columns % BLOCK)).float()
    else:
        values = pairs.index_select(0, packed.flatten().int()).view(torch.float32)
    blocks = values.view(len(packed), -1, BLOCK).mul_(scale.unsqueeze(2))
    return blocks.flatten(1)[:, :columns].contiguous()


def quantise(learner: Learner, bits: Bits) -> None:
    """Replace every linear layer but the head by a quantised one.

    Raises Unsupported where there is none.
    """
    net = learner.net
    linear = _linear_layers(learner)
    if not linear:
        raise Unsupported(
            say(
                "This base has no linear layers to quantise.",
                "该基础模型没有可量化的线性层。",
            ),
            say("Take --tune.quantise none.", "请使用 --tune.quantise none。"),
        )
    net.requires_grad_(False)
    # One block of memory for them all: what stays must not lie between what packing
    # frees, or the heap keeps that.
    blocks = sum(
        module.out_features * -(-module.in_features // BLOCK)
        for module in linear.values()
    )
    free_codes = torch.empty(blocks * BLOCK, dtype=torch.uint8)
    free_scales = torch.empty(blocks)
    for name, module in linear.items():
        layer = QuantisedLinear(module, bits)
        layer.packed, free_codes = _copy_into(free_codes, layer.packed)
        layer.scale, free_scales = _copy_into(free_scales, layer.scale)
        net.set_submodule(name, layer)


def _linear_layers(learner: Learner) -> dict[str, nn.Linear]:
    """Return the plain linear layers of the base by name, without the head."""
    net: Any = learner.net
    head: nn.Module | None = None
    if callable(getattr(net, "get_output_embeddings", None)):
        head = net.get_output_embeddings()
    return {
        name: module
        for name, module in learner.net.named_modules()
        if type(module) is nn.Linear
        and module is not head
        and not is_fresh(learner, f"{name}.")
    }


def _copy_into(free: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
    """Return (a copy of the values at the beginning of `free`, the rest of `free`)."""
    target = free[: values.numel()].view(values.dtype).view(values.shape)
    return target.copy_(values), free[values.numel() :]
