"""Muon: momentum, orthogonalised by a Newton–Schulz iteration, for the hidden matrices
of a network.

M ← μM + G,   U = μM + G (Nesterov),   W ← W - η √max(1, rows/columns) · NS(U) - ηλW
NS pushes the singular values of U / ‖U‖_F towards 1 by five steps of X ← aX + (bA + cA²)X with A = XXᵀ.

Source: Jordan et al. 2024, https://kellerjordan.github.io/posts/muon/.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

COEFFICIENTS = (3.4445, -4.7750, 2.0315)


def orthogonalised(matrices_BMN: Tensor, steps: int = 5) -> Tensor:
    """Return matrices [B, M, N] with their singular values brought near 1, in their own
    precision.
    """
    a, b, c = COEFFICIENTS
    tall = matrices_BMN.size(1) > matrices_BMN.size(2)
    x = matrices_BMN.mT if tall else matrices_BMN
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
    for _ in range(steps):
        gram = x @ x.mT
        polynomial = torch.baddbmm(gram, gram, gram, beta=b, alpha=c)
        x = torch.baddbmm(x, polynomial, x, beta=a)
    return x.mT if tall else x


class Muon(torch.optim.Optimizer):
    """Muon over matrices; those of equal shape are orthogonalised in one batch.
    Convolution kernels count as [out, the rest].
    """

    def __init__(
        self,
        params: Iterable[Tensor] | Iterable[dict[str, Any]],
        lr: float = 0.02,
        momentum: float = 0.95,
        weight_decay: float = 0.0,
    ) -> None:
        defaults = {
            "lr": lr,
            "momentum": momentum,
            "weight_decay": weight_decay,
        }
        super().__init__(params, defaults)

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Take one step. A closure is not supported: the loop computes the gradients."""
        for group in self.param_groups:
            parameters = [item for item in group["params"] if item.grad is not None]
            if not parameters:
                continue
            updates = self._nesterov(parameters, group["momentum"])
            if group["weight_decay"]:
                torch._foreach_mul_(parameters, 1 - group["lr"] * group["weight_decay"])
            for indices in _by_shape(updates).values():
                _apply(
                    [parameters[index] for index in indices],
                    [updates[index] for index in indices],
                    group["lr"],
                )

    def _nesterov(self, parameters: list[Tensor], momentum: float) -> list[Tensor]:
        """Add the gradients to the momenta; return μM + G of each parameter."""
        gradients = [item.grad for item in parameters if item.grad is not None]
        momenta = [
            self.state[item].setdefault("momentum", torch.zeros_like(item))
            for item in parameters
        ]
        torch._foreach_mul_(momenta, momentum)
        torch._foreach_add_(momenta, gradients)
        return list(torch._foreach_add(gradients, momenta, alpha=momentum))


def _by_shape(updates: list[Tensor]) -> dict[tuple[int, int], list[int]]:
    """Indices of the updates by their shape as matrices, (rows, columns)."""
    indices = defaultdict[tuple[int, int], list[int]](list)
    for index, update in enumerate(updates):
        indices[update.size(0), update[0].numel()].append(index)
    return indices


def _apply(parameters: list[Tensor], updates: list[Tensor], rate: float) -> None:
    """W ← W - η √max(1, rows/columns) · NS(U), for parameters of one shape."""
    rows, columns = updates[0].size(0), updates[0][0].numel()
    matrices = torch.stack([update.reshape(rows, columns) for update in updates])
    changes = orthogonalised(matrices)
    changes *= -rate * max(1, rows / columns) ** 0.5
    shaped = [
        change.view_as(parameter)
        for change, parameter in zip(changes, parameters, strict=True)
    ]
    torch._foreach_add_(parameters, shaped)
