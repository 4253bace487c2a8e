"""A frozen base in eight or four bits: weights only, in blocks along the inputs, each
with its own scale; any CPU can work with it.

int8   w ≈ q s,          s = max |w| / 127 of a block of 64
int4   w ≈ level[q] s,   s = max |w|; 16 levels that hold equal shares of a normal distribution (NF4 of Dettmers et al. 2023,
       arXiv:2305.14314), two to a byte

A layer is brought back to float32 when it is used, and again on the way back, so only
one is unpacked at a time. The head, embeddings and norms stay as they are. The model is
loaded whole first: what shrinks is what training holds.
"""

from __future__ import annotations

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
    """y = x Ŵᵀ + b with Ŵ [out, in] kept in few bits. Gradients reach x only.

    Its weights are no part of a state dict: they follow from the base.
    """

    packed: Tensor
    scale: Tensor
    pairs: Tensor

    def __init__(self, linear: nn.Linear, bits: Bits) -> None:
        nn.Module.__init__(self)
        self.in_features, self.out_features, self.bits = (
            linear.in_features,
            linear.out_features,
            bits,
        )
        packed, scale = pack(linear.weight.detach().float(), bits)
        self.register_buffer("packed", packed, persistent=False)
        self.register_buffer("scale", scale, persistent=False)
        self.register_buffer("pairs", pairs_of_levels(), persistent=False)
        self.register_parameter("bias", linear.bias)
        if linear.bias is not None:
            linear.bias.requires_grad_(False)

    @property
    def weight(self) -> Tensor:  # type: ignore[override]
        """Ŵ, unpacked: float32 [out, in]."""
        return unpack(self.packed, self.scale, self.pairs, self.in_features, self.bits)

    def forward(self, input: Tensor) -> Tensor:
        out: Tensor = _Product.apply(input, self)
        return out if self.bias is None else out + self.bias.to(out.dtype)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, {self.bits}"


class _Product(torch.autograd.Function):
    """x Ŵᵀ; keeps nothing for the way back but the layer itself, and unpacks it again there."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, layer: QuantisedLinear) -> Tensor:
        ctx.layer = layer
        return F.linear(x, layer.weight.to(x.dtype))

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        return gradient @ ctx.layer.weight.to(gradient.dtype), None


def pack(weight: Tensor, bits: Bits) -> tuple[Tensor, Tensor]:
    """(codes, scales [out, blocks]) of a matrix [out, in]; codes are int8 [out, in] or,
    two to a byte, uint8 [out, blocks × 32].
    """
    blocks = F.pad(weight, (0, -weight.shape[1] % BLOCK)).unflatten(1, (-1, BLOCK))
    largest = (
        blocks.abs().amax(2, keepdim=True).clamp(min=torch.finfo(torch.float32).tiny)
    )
    if bits == "int8":
        scale = largest / 127
        return (blocks / scale).round().to(torch.int8).flatten(1)[
            :, : weight.shape[1]
        ].contiguous(), scale.squeeze(2)
    levels = torch.tensor(NF4, device=weight.device)
    codes = (
        torch.bucketize(blocks / largest, (levels[1:] + levels[:-1]) / 2)
        .to(torch.uint8)
        .flatten(1)
    )
    return codes[:, 0::2] << 4 | codes[:, 1::2], largest.squeeze(2)


def pairs_of_levels() -> Tensor:
    """For each byte the two levels it holds, the eight bytes of both as one int64
    [256]: looked up ten times as fast as one by one.
    """
    levels = torch.tensor(NF4)
    return (
        torch.stack([levels.repeat_interleave(16), levels.repeat(16)], 1)
        .view(torch.int64)
        .flatten()
    )


def unpack(
    packed: Tensor, scale: Tensor, pairs: Tensor, columns: int, bits: Bits
) -> Tensor:
    """The matrix [out, columns] that `pack` stored, float32."""
    if bits == "int8":
        values = F.pad(packed, (0, -columns % BLOCK)).float()
    else:
        values = pairs.index_select(0, packed.flatten().int()).view(torch.float32)
    blocks = values.view(len(packed), -1, BLOCK).mul_(scale.unsqueeze(2))
    return blocks.flatten(1)[:, :columns].contiguous()


def quantise(learner: Learner, bits: Bits) -> None:
    """Put few bits in the place of every linear layer but the head. Raises Unsupported
    where there is none.
    """
    net: Any = learner.net
    head = (
        net.get_output_embeddings()
        if callable(getattr(net, "get_output_embeddings", None))
        else None
    )
    places = [
        (name, module)
        for name, module in net.named_modules()
        if type(module) is nn.Linear
        and module is not head
        and not is_fresh(learner, f"{name}.")
    ]
    if not places:
        raise Unsupported(
            say(
                "This base has no linear layers to quantise.",
                "该基础模型没有可量化的线性层。",
            ),
            say("Take --tune.quantise none.", "请使用 --tune.quantise none。"),
        )
    net.requires_grad_(False)
    # One stretch of memory for them all: what stays must not lie between what packing
    # frees, or the heap keeps that.
    blocks = sum(
        module.out_features * -(-module.in_features // BLOCK) for _, module in places
    )
    codes, scales = torch.empty(blocks * BLOCK, dtype=torch.uint8), torch.empty(blocks)
    for name, module in places:
        parent, _, leaf = name.rpartition(".")
        layer = QuantisedLinear(module, bits)
        layer.packed, codes = _laid(layer.packed, codes)
        layer.scale, scales = _laid(layer.scale, scales)
        setattr(net.get_submodule(parent), leaf, layer)


def _laid(found: Tensor, room: Tensor) -> tuple[Tensor, Tensor]:
    """(the tensor copied to the beginning of `room`, what is left of it)."""
    place = room[: found.numel()].view(found.dtype).view(found.shape)
    return place.copy_(found), room[found.numel() :]
