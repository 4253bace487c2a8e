"""Cross-entropy over a large vocabulary, a few rows at a time, without all its logits.

    l_n = log Σ_v exp(h_n·w_v) - h_n·w_{y_n}         ∂l_n/∂h_n = Σ_v p_nv w_v - w_{y_n}

Row n of the gradient depends on row n of the loss alone. So while a chunk's logits are
in memory, its gradient is computed and stored in their stead: [rows, C] in place of
[rows, V], and no second product in the backward pass. The idea is that of Liger's fused
linear cross-entropy (arXiv:2410.10989), which stores the gradient of the sum. Where the
output matrix itself is trained, its logits are computed again in the backward pass.

Shapes: hidden [N, C], weight [V, C], bias [V], targets [N].
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

CHUNK = 1 << 23
"""Logits in memory at once."""


def chunks(hidden: Tensor, vocabulary: int) -> list[slice]:
    """Return the rows of `hidden` in slices of at most CHUNK logits."""
    size = max(CHUNK // vocabulary, 1)
    count = len(hidden)
    return [slice(first, min(first + size, count)) for first in range(0, count, size)]


def cross_entropy(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    targets: Tensor,
) -> Tensor:
    """Return -log p of each row's target in nats, float32 [N]."""
    nats: Tensor = _CrossEntropy.apply(hidden, weight, bias, targets)  # type: ignore[no-untyped-call]
    return nats


@torch.no_grad()
def scores(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    targets: Tensor,
) -> tuple[Tensor, Tensor]:
    """Return -log p of each row's target in nats [N], and the likeliest token [N]."""
    nats = list[Tensor]()
    best = list[Tensor]()
    for rows in chunks(hidden, len(weight)):
        logits = F.linear(hidden[rows], weight, bias).float()
        nats.append(F.cross_entropy(logits, targets[rows], reduction="none"))
        best.append(logits.argmax(-1))
    return torch.cat(nats), torch.cat(best)


def _loss_and_error(logits: Tensor, targets: Tensor) -> Tensor:
    """Return l [N]; `logits` becomes its gradient p - onehot(target), in place."""
    rows = torch.arange(len(logits), device=logits.device)
    normaliser = logits.logsumexp(-1)
    nats = normaliser - logits[rows, targets]
    logits.sub_(normaliser[:, None]).exp_()
    logits[rows, targets] -= 1
    return nats


class _CrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        targets: Tensor,
    ) -> Tensor:
        trains_output = weight.requires_grad or (
            bias is not None and bias.requires_grad
        )
        gradient = None
        if hidden.requires_grad and not trains_output:
            gradient = torch.empty_like(hidden)
        nats = hidden.new_empty(len(hidden), dtype=torch.float32)
        for rows in chunks(hidden, len(weight)):
            logits = F.linear(hidden[rows], weight, bias).float()
            nats[rows] = _loss_and_error(logits, targets[rows])
            if gradient is not None:
                error = logits.to(weight.dtype)
                gradient[rows] = (error @ weight).to(hidden.dtype)
        ctx.trains_output = trains_output
        if trains_output:
            ctx.save_for_backward(hidden, weight, bias, targets)
        else:
            ctx.save_for_backward(gradient)
        return nats

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        scale_N1 = upstream[0][:, None]
        if ctx.trains_output:
            hidden, weight, bias, targets = ctx.saved_tensors
            gradients = _output_gradients(hidden, weight, bias, targets, scale_N1)
            return (*gradients, None)
        (gradient,) = ctx.saved_tensors
        if gradient is not None:
            gradient = gradient * scale_N1.to(gradient.dtype)
        return gradient, None, None, None


def _output_gradients(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    targets: Tensor,
    scale_N1: Tensor,
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Return the gradients of hidden, weight and bias from logits computed anew."""
    dtype = hidden.dtype
    hidden = hidden.to(weight.dtype)  # autocast is over by now
    d_hidden = torch.empty_like(hidden)
    d_weight = torch.zeros_like(weight)
    d_bias = None if bias is None else torch.zeros_like(bias)
    for rows in chunks(hidden, len(weight)):
        error = F.linear(hidden[rows], weight, bias).float()
        _loss_and_error(error, targets[rows])
        error = error.mul_(scale_N1[rows]).to(weight.dtype)
        d_hidden[rows] = error @ weight
        d_weight.addmm_(error.T, hidden[rows])
        if d_bias is not None:
            d_bias += error.sum(0)
    return d_hidden.to(dtype), d_weight, d_bias
