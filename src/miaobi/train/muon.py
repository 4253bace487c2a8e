"""Muon: momentum, orthogonalised by a Newton–Schulz iteration, for the hidden matrices
of a network.

M ← μM + G,   U = μM + G (Nesterov),   W ← W - η √max(1, rows/columns) · NS(U) - ηλW
NS pushes the singular values of U / ‖U‖_F towards 1 by five steps of X ← aX + (bA + cA²)X with A = XXᵀ.

Source: Jordan et al. 2024, https://kellerjordan.github.io/posts/muon/.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

import torch
from torch import Tensor

COEFFICIENTS = (3.4445, -4.7750, 2.0315)


def orthogonalised(matrices_BMN: Tensor, steps: int = 5) -> Tensor:
    """Each of a batch of matrices with its singular values brought near 1, in the
    precision they have.
    """
    a, b, c = COEFFICIENTS
    tall = matrices_BMN.size(1) > matrices_BMN.size(2)
    x = matrices_BMN.mT if tall else matrices_BMN
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
    for _ in range(steps):
        gram = x @ x.mT
        x = torch.baddbmm(
            x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a
        )
    return x.mT if tall else x


class Muon(torch.optim.Optimizer):
    """Matrices of equal shape are orthogonalised in one batch. Convolution kernels
    count as [out, the rest].
    """

    def __init__(
        self,
        params: Iterable[Tensor],
        lr: float = 0.02,
        momentum: float = 0.95,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(
            params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay}
        )

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        for group in self.param_groups:
            parameters = [item for item in group["params"] if item.grad is not None]
            if not parameters:
                continue
            gradients = [item.grad for item in parameters]
            momenta = [
                self.state[item].setdefault("momentum", torch.zeros_like(item))
                for item in parameters
            ]
            torch._foreach_mul_(momenta, group["momentum"])
            torch._foreach_add_(momenta, gradients)
            updates = torch._foreach_add(gradients, momenta, alpha=group["momentum"])
            if group["weight_decay"]:
                torch._foreach_mul_(parameters, 1 - group["lr"] * group["weight_decay"])
            shapes = defaultdict[tuple[int, int], list[int]](list)
            for place, update in enumerate(updates):
                shapes[update.size(0), update[0].numel()].append(place)
            for (rows, columns), places in shapes.items():
                whole = orthogonalised(
                    torch.stack(
                        [updates[place].reshape(rows, columns) for place in places]
                    )
                )
                whole *= -group["lr"] * max(1, rows / columns) ** 0.5
                torch._foreach_add_(
                    [parameters[place] for place in places],
                    [
                        part.view_as(parameters[place])
                        for place, part in zip(places, whole)
                    ],
                )
