"""A frozen linear layer with a low-rank update in one step forward and one back, in
place of PEFT's five and ten.

    y = x Wᵀ + b + s (x Aᵀ) Bᵀ
    ∂x = ∂y W + s (∂y B) A        ∂A = s (∂y B)ᵀ x        ∂B = s ∂yᵀ (x Aᵀ)

The small products add onto the large one where it lies, so nothing as wide as y is
written a second time; x Aᵀ is all that is kept beside x. Weights stay PEFT's own
modules: what is saved, merged and switched does not change. Where a layer is in any
other state than training's plain one (dropout, DoRA, several adapters, merged, switched
off, a quantised base, autocast), PEFT's own code runs.
"""

from __future__ import annotations

from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def quicken(net: nn.Module) -> None:
    """Let the LoRA layers of a PEFT model be worked out as above."""
    from peft.tuners.lora import Linear

    for module in net.modules():
        if type(module) is Linear and "forward" not in vars(module):
            module.forward = MethodType(_forward, module)  # type: ignore[method-assign]


def _forward(layer: Any, x: Tensor, *args: Any, **settings: Any) -> Tensor:
    name = layer.active_adapters[0] if len(layer.active_adapters) == 1 else None
    if args or settings or name is None or not _plain(layer, name, x):
        result: Tensor = type(layer).forward(layer, x, *args, **settings)
        return result
    base = layer.base_layer
    return _LowRank.apply(
        x,
        base.weight,
        base.bias,
        layer.lora_A[name].weight,
        layer.lora_B[name].weight,
        layer.scaling[name],
    )


def _plain(layer: Any, name: str, x: Tensor) -> bool:
    base = layer.base_layer
    if (
        type(base) is not nn.Linear
        or name not in layer.lora_A
        or name in layer.lora_variant
        or layer.disable_adapters
        or layer.merged
    ):
        return False
    if (
        base.weight.requires_grad
        or (base.bias is not None and base.bias.requires_grad)
        or torch.is_autocast_enabled(x.device.type)
    ):
        return False
    dropout, down, up = layer.lora_dropout[name], layer.lora_A[name], layer.lora_B[name]
    still = isinstance(dropout, nn.Identity) or not dropout.training
    return (
        still
        and up.bias is None
        and base.weight.dtype == down.weight.dtype == up.weight.dtype == x.dtype
    )


class _LowRank(torch.autograd.Function):
    """x [..., in], weight [out, in], down A [r, in], up B [out, r] -> [..., out]."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        down: Tensor,
        up: Tensor,
        scale: float,
    ) -> Tensor:
        rows = x.reshape(-1, x.shape[-1])
        inner = rows @ down.T
        y = F.linear(rows, weight, bias).addmm_(inner, up.T, alpha=scale)
        ctx.save_for_backward(rows, weight, down, up, inner)
        ctx.scale, ctx.shape = scale, x.shape
        return y.view(*x.shape[:-1], -1)

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        rows, weight, down, up, inner = ctx.saved_tensors
        given = upstream[0].reshape(-1, upstream[0].shape[-1])
        of_inner = (given @ up).mul_(ctx.scale)
        of_x = (
            (given @ weight).addmm_(of_inner, down).view(ctx.shape)
            if ctx.needs_input_grad[0]
            else None
        )
        of_down = of_inner.T @ rows if ctx.needs_input_grad[3] else None
        # [r, out] and turned: the product of a wide and a narrow matrix is twice as
        # quick this way round.
        of_up = (inner.T @ given).mul_(ctx.scale).T if ctx.needs_input_grad[4] else None
        return of_x, None, None, of_down, of_up, None
