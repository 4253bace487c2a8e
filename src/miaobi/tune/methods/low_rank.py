"""A frozen linear layer with a low-rank update in one step forward and one back, in
place of PEFT's five and ten.

    y = x Wᵀ + b + s (x Aᵀ) Bᵀ
    ∂x = ∂y W + s (∂y B) A        ∂A = s (∂y B)ᵀ x        ∂B = s ∂yᵀ (x Aᵀ)

The small products are added to the large one in place, so nothing as wide as y is
written a second time; x Aᵀ is all that is saved beside x. Weights stay PEFT's own
modules: what is saved, merged and switched does not change. Where a layer is in any
other state than training's plain one (dropout, DoRA, several adapters, merged, switched
off, a quantised base, autocast), PEFT's own code runs.
"""

from __future__ import annotations

from collections.abc import Callable
from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def speed_up(net: nn.Module) -> None:
    """Let the LoRA layers of a PEFT model be computed as above."""
    from peft.tuners.lora import Linear

    for module in net.modules():
        if type(module) is Linear and "forward" not in vars(module):
            # mypy takes a method for a constant; PEFT's layers allow one of their own.
            module.forward = MethodType(_forward, module)  # type: ignore[method-assign]


def _forward(layer: Any, x: Tensor, *args: Any, **settings: Any) -> Tensor:
    names = layer.active_adapters
    if args or settings or len(names) != 1 or not _is_plain(layer, names[0], x):
        result: Tensor = type(layer).forward(layer, x, *args, **settings)
        return result
    apply: Callable[..., Tensor] = _LowRank.apply
    return apply(
        x,
        layer.base_layer.weight,
        layer.base_layer.bias,
        layer.lora_A[names[0]].weight,
        layer.lora_B[names[0]].weight,
        layer.scaling[names[0]],
    )


def _is_plain(layer: Any, name: str, x: Tensor) -> bool:
    """Return whether an adapter is in the one state that `_LowRank` computes."""
    base = layer.base_layer
    if type(base) is not nn.Linear or layer.disable_adapters or layer.merged:
        return False
    if name not in layer.lora_A or name in layer.lora_variant:
        return False
    if torch.is_autocast_enabled(x.device.type) or _moves(base):
        return False
    down = layer.lora_A[name]
    up = layer.lora_B[name]
    dropout = layer.lora_dropout[name]
    if not isinstance(dropout, nn.Identity) and dropout.training:
        return False
    same_dtype = base.weight.dtype == down.weight.dtype == up.weight.dtype == x.dtype
    return up.bias is None and same_dtype


def _moves(linear: nn.Linear) -> bool:
    bias_moves = linear.bias is not None and linear.bias.requires_grad
    return linear.weight.requires_grad or bias_moves


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
        ctx.scale = scale
        ctx.shape = x.shape
        return y.view(*x.shape[:-1], -1)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        rows, weight, down, up, inner = ctx.saved_tensors
        needs_x, _, _, needs_down, needs_up, _ = ctx.needs_input_grad
        of_y = gradients[0].reshape(-1, gradients[0].shape[-1])
        of_inner = (of_y @ up).mul_(ctx.scale)
        of_x: Tensor | None = None
        of_down: Tensor | None = None
        of_up: Tensor | None = None
        if needs_x:
            of_x = (of_y @ weight).addmm_(of_inner, down).view(ctx.shape)
        if needs_down:
            of_down = of_inner.T @ rows
        if needs_up:
            # [r, out], then transposed: the product of a wide and a narrow matrix is
            # twice as quick this way round.
            of_up = (inner.T @ of_y).mul_(ctx.scale).T
        return of_x, None, None, of_down, of_up, None
