"""The loss of a large vocabulary without its logits: cross-entropy a few rows at a time.

    l_n = log Σ_v exp(h_n·w_v) - h_n·w_{y_n}         ∂l_n/∂h_n = Σ_v p_nv w_v - w_{y_n}

Row n of the gradient depends on row n of the loss alone. So while a chunk's logits are
there, its gradient is made and kept instead of them: [rows, C] in place of [rows, V],
and no second product in the backward pass (the idea of Liger's fused linear
cross-entropy, arXiv:2410.10989, which keeps the gradient of the sum). An output matrix
that is itself trained has its logits made again instead.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

CHUNK = 1 << 23
"""Logits made at once."""


def chunks(hidden: Tensor, vocabulary: int) -> list[slice]:
    """The rows of `hidden` in stretches of at most CHUNK logits."""
    rows = max(CHUNK // vocabulary, 1)
    return [
        slice(start, min(start + rows, len(hidden)))
        for start in range(0, len(hidden), rows)
    ]


def cross_entropy(
    hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor
) -> Tensor:
    """-log p of each row's target in nats: hidden [N, C], weight [V, C], bias [V],
    targets [N] -> [N] in float32.
    """
    result: Tensor = _CrossEntropy.apply(hidden, weight, bias, targets)  # type: ignore[no-untyped-call]
    return result


@torch.no_grad()
def scores(
    hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor
) -> tuple[Tensor, Tensor]:
    """(-log p of each row's target in nats, the likeliest token): [N], [N]."""
    nats, best = list[Tensor](), list[Tensor]()
    for rows in chunks(hidden, len(weight)):
        logits = F.linear(hidden[rows], weight, bias).float()
        nats.append(F.cross_entropy(logits, targets[rows], reduction="none"))
        best.append(logits.argmax(-1))
    return torch.cat(nats), torch.cat(best)


def _softmax_less_target(logits: Tensor, targets: Tensor) -> Tensor:
    """l [N]; `logits` becomes p - onehot(target) in place."""
    rows = torch.arange(len(logits), device=logits.device)
    normaliser = logits.logsumexp(-1)
    nats = normaliser - logits[rows, targets]
    logits.sub_(normaliser[:, None]).exp_()
    logits[rows, targets] -= 1
    return nats


class _CrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor
    ) -> Tensor:
        nats = hidden.new_empty(len(hidden), dtype=torch.float32)
        trained = weight.requires_grad or (bias is not None and bias.requires_grad)
        gradient = (
            torch.empty_like(hidden) if hidden.requires_grad and not trained else None
        )
        for rows in chunks(hidden, len(weight)):
            logits = F.linear(hidden[rows], weight, bias).float()
            nats[rows] = _softmax_less_target(logits, targets[rows])
            if gradient is not None:
                gradient[rows] = (logits.to(weight.dtype) @ weight).to(hidden.dtype)
        if trained:
            ctx.save_for_backward(hidden, weight, bias, targets)
        else:
            ctx.save_for_backward(gradient)
        ctx.trained = trained
        return nats

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        scale = upstream[0][:, None]
        if not ctx.trained:
            (gradient,) = ctx.saved_tensors
            return (
                None if gradient is None else gradient * scale.to(gradient.dtype),
                None,
                None,
                None,
            )
        hidden, weight, bias, targets = ctx.saved_tensors
        like, hidden = hidden.dtype, hidden.to(weight.dtype)  # autocast is over by now
        of_hidden, of_weight = torch.empty_like(hidden), torch.zeros_like(weight)
        of_bias = None if bias is None else torch.zeros_like(bias)
        for rows in chunks(hidden, len(weight)):
            error = F.linear(hidden[rows], weight, bias).float()
            _softmax_less_target(error, targets[rows])
            error = error.mul_(scale[rows]).to(weight.dtype)
            of_hidden[rows] = error @ weight
            of_weight.addmm_(error.T, hidden[rows])
            if of_bias is not None:
                of_bias += error.sum(0)
        return of_hidden.to(like), of_weight, of_bias, None
