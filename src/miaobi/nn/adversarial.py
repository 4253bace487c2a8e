"""The adversary: a critic that learns to distinguish real from generated pictures, and
the loss by which a generator learns to fool it.

    relativistic     L_D = E softplus(D(x̃) - D(x)),   L_G = E softplus(D(x) - D(x̃))   real x, generated x̃, in pairs
    non_saturating   L_D = E softplus(D(x̃)) + E softplus(-D(x)),   L_G = E softplus(-D(x̃))
    penalties        γ/2 E‖∇_x D(x)‖² + γ/2 E‖∇_x̃ D(x̃)‖²                         R1 on real, R2 on generated

Non-saturating: Goodfellow et al. 2014 (arXiv:1406.2661). Pairing: Jolicoeur-Martineau
2019 (arXiv:1807.00734). R1: Mescheder et al. 2018 (arXiv:1801.04406). Pairing with both
penalties, which converges and covers all modes: Huang et al. 2025 (arXiv:2501.05441).
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
"""From a batch: real pictures, generated ones (without gradient), and the context of
both (classes, a source) or None.
"""


class Adversary(nn.Module):
    """Owns its critic: pictures [B, C, H, W], context -> logits [B, ...].

    Args:
        critic: the network that distinguishes.
        game: which pair of losses.
        gamma: weight of the gradient penalties; 0 for none.
        penalty_every: steps between penalties.
        augment: names of nn/augment.py, applied to all that the critic sees.
    """

    def __init__(
        self,
        critic: nn.Module,
        game: Game = "relativistic",
        gamma: float = 0.1,
        penalty_every: int = 4,
        augment: Sequence[str] = (),
    ) -> None:
        super().__init__()
        self.critic = critic
        self.game = game
        self.gamma = gamma
        self.penalty_every = penalty_every
        self.augment = tuple(augment)

    def logits(self, pictures: Tensor, context: Tensor | None) -> Tensor:
        """Return the critic's logits of augmented pictures: large for real ones."""
        logits: Tensor = self.critic(augmented(pictures, self.augment), context)
        return logits

    def fool(self, real: Tensor, generated: Tensor, context: Tensor | None) -> Tensor:
        """Return the generator's loss, summed over pictures.

        Gradients flow into `generated`.
        """
        generated_logits = self.logits(generated, context)
        if self.game == "non_saturating":
            return summed(F.softplus(-generated_logits))
        real_logits = self.logits(real, context)
        return summed(F.softplus(real_logits - generated_logits))

    def phases(self, pair: Pair, begins: float = 0.0) -> list[Phase]:
        """Return the critic's training: its loss every step, the penalties every few."""

        def distinguish(batch: Batch) -> Loss:
            real, generated, context = pair(batch)
            real_logits = self.logits(real, context)
            generated_logits = self.logits(generated, context)
            if self.game == "relativistic":
                losses = F.softplus(generated_logits - real_logits)
            else:
                losses = F.softplus(generated_logits) + F.softplus(-real_logits)
            metrics = {"real": summed(real_logits), "made": summed(generated_logits)}
            return Loss(summed(losses), len(real), metrics)

        def penalise(batch: Batch) -> Loss:
            real, generated, context = pair(batch)
            steepness = self.steepness(real, context)
            steepness = steepness + self.steepness(generated, context)
            weight = 0.5 * self.gamma * self.penalty_every
            return Loss(weight * steepness, len(real))

        critic = Phase("critic", self.critic, distinguish, begins=begins)
        if not self.gamma:
            return [critic]
        penalty = Phase(
            "penalty", self.critic, penalise, self.penalty_every, begins=begins
        )
        return [critic, penalty]

    def steepness(self, pictures: Tensor, context: Tensor | None) -> Tensor:
        """Return Σ_b ‖∇ D(x_b)‖², differentiable.

        In float32 throughout: the rounding of gradients of gradients is the first to
        run away.
        """
        with torch.autocast(pictures.device.type, enabled=False):
            pictures = pictures.detach().float().requires_grad_()
            total = summed(self.logits(pictures, context))
            (gradient,) = torch.autograd.grad(total, pictures, create_graph=True)
            return gradient.square().sum()


def summed(values: Tensor) -> Tensor:
    """Return the sum over pictures of each one's mean: [B, ...] -> scalar."""
    if values.ndim == 1:
        return values.sum()
    return values.flatten(1).mean(1).sum()


class PatchCritic(nn.Module):
    """A critic of overlapping patches (Isola et al. 2017, arXiv:1611.07004).

    Shapes: pictures [B, C, H, W], source [B, C_s, H, W] or None -> logits [B, H/4, W/4].
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
        logits: Tensor = self.head(x)
        return logits[:, 0]
