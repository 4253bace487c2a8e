"""The adversary: a critic that learns to tell real pictures from made ones, and the
loss by which a generator learns to fool it.

    relativistic     L_D = E softplus(D(x̃) - D(x)),   L_G = E softplus(D(x) - D(x̃))       real x and made x̃ in pairs
    non_saturating   L_D = E softplus(D(x̃)) + E softplus(-D(x)),   L_G = E softplus(-D(x̃))
    penalties        γ/2 E‖∇_x D(x)‖² + γ/2 E‖∇_x̃ D(x̃)‖²                               R1 on real, R2 on made pictures

Non-saturating: Goodfellow et al. 2014 (arXiv:1406.2661). Pairing: Jolicoeur-Martineau
2019 (arXiv:1807.00734). R1: Mescheder et al. 2018 (arXiv:1801.04406). Pairing with both
penalties, which converges and keeps all modes: Huang et al. 2025 (arXiv:2501.05441).
The penalties are taken every few steps, that much stronger (Karras et al. 2020,
arXiv:1912.04958).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from miaobi.nn.augment import augmented
from miaobi.nn.convolution import SLOPE, channels_last, conv
from miaobi.nn.objective import Batch, Loss, Phase

Game = Literal["relativistic", "non_saturating"]
Pair = Callable[[Batch], tuple[Tensor, Tensor, Tensor | None]]
"""From a batch: real pictures, made ones (without gradient), and what both are judged
with (classes, a source) or None.
"""


class Adversary(nn.Module):
    """Owns its critic: pictures [B, C, H, W], context -> logits [B, ...]."""

    def __init__(
        self,
        critic: nn.Module,
        game: Game = "relativistic",
        gamma: float = 0.1,
        penalty_every: int = 4,
        augment: Sequence[str] = (),
    ) -> None:
        super().__init__()
        self.critic, self.game, self.gamma, self.penalty_every, self.augment = (
            critic,
            game,
            gamma,
            penalty_every,
            tuple(augment),
        )

    def judge(self, pictures: Tensor, context: Tensor | None) -> Tensor:
        return self.critic(augmented(pictures, self.augment), context)

    def fool(self, real: Tensor, made: Tensor, context: Tensor | None) -> Tensor:
        """The generator's loss, summed over pictures; gradients flow into `made`."""
        logits = self.judge(made, context)
        if self.game == "relativistic":
            return summed(F.softplus(self.judge(real, context) - logits))
        return summed(F.softplus(-logits))

    def phases(self, pair: Pair, begins: float = 0.0) -> list[Phase]:
        """The critic's own training: telling apart every step, the penalties every few."""

        def tell_apart(batch: Batch) -> Loss:
            real, made, context = pair(batch)
            of_real, of_made = self.judge(real, context), self.judge(made, context)
            losses = (
                F.softplus(of_made - of_real)
                if self.game == "relativistic"
                else F.softplus(of_made) + F.softplus(-of_real)
            )
            return Loss(
                summed(losses),
                len(real),
                {"real": summed(of_real), "made": summed(of_made)},
            )

        def stay_smooth(batch: Batch) -> Loss:
            real, made, context = pair(batch)
            steep = self.steepness(real, context) + self.steepness(made, context)
            return Loss(0.5 * self.gamma * self.penalty_every * steep, len(real))

        found = [Phase("critic", self.critic, tell_apart, begins=begins)]
        return (
            [
                *found,
                Phase(
                    "penalty",
                    self.critic,
                    stay_smooth,
                    self.penalty_every,
                    begins=begins,
                ),
            ]
            if self.gamma
            else found
        )

    def steepness(self, pictures: Tensor, context: Tensor | None) -> Tensor:
        """Σ_b ‖∇ D(x_b)‖², differentiable. In float32 throughout: the rounding of
        gradients of gradients is what runs away first.
        """
        with torch.autocast(pictures.device.type, enabled=False):
            pictures = pictures.detach().float().requires_grad_()
            (gradient,) = torch.autograd.grad(
                summed(self.judge(pictures, context)), pictures, create_graph=True
            )
            return gradient.square().sum()


def summed(values: Tensor) -> Tensor:
    """The sum over pictures of each one's mean over places."""
    return values.flatten(1).mean(1).sum() if values.ndim > 1 else values.sum()


class PatchCritic(nn.Module):
    """Judges overlapping patches, not the whole: pictures [B, C, H, W], source [B, C_s,
    H, W] or None -> logits [B, H/4, W/4].

    Isola et al. 2017 (arXiv:1611.07004).
    """

    def __init__(self, channels: int, width: int = 32) -> None:
        super().__init__()
        self.stem = nn.Conv2d(channels, width, 4, 2, 1)
        self.middle = nn.Conv2d(width, 2 * width, 4, 2, 1)
        self.last = conv(2 * width, 4 * width)
        self.head = nn.Conv2d(4 * width, 1, 3, padding=1)
        channels_last(self)

    def forward(self, pictures: Tensor, source: Tensor | None) -> Tensor:
        x = pictures if source is None else torch.cat([pictures, source], 1)
        for layer in (self.stem, self.middle, self.last):
            x = F.leaky_relu(layer(x), SLOPE)
        return self.head(x)[:, 0]
