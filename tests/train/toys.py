"""A GAN on two-dimensional points, a ragged regression and a language model of letters:
the smallest things that exercise every part of the loop.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from miaobi.data.text.tokens import TokenSpec
from miaobi.families import gpt
from miaobi.nn.objective import Batch, Loss, Objective, Phase


class Points:
    """A ring of eight Gaussians. Batches are a pure function of (split, index, size, seed)."""

    spec = None
    fingerprint = "points"
    folder = Path()

    def batch(self, split: str, index: int, size: int, seed: int) -> Batch:
        number = hash((split == "train", index, seed)) % 2**31
        generator = torch.Generator().manual_seed(number)
        angle = torch.randint(0, 8, (size,), generator=generator) * (torch.pi / 4)
        centre = torch.stack([angle.cos(), angle.sin()], 1)
        spread = 0.05 * torch.randn(size, 2, generator=generator)
        return {
            "x": centre + spread,
            "z": torch.randn(size, 4, generator=generator),
        }

    def batches(self, split: str, size: int) -> Iterator[Batch]:
        return (self.batch(split, index, size, 1) for index in range(4))

    def save(self, folder: Path) -> None:
        """Points need no preprocessing."""


def mlp(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(inputs, 32),
        nn.LeakyReLU(0.2),
        nn.Linear(32, 32),
        nn.LeakyReLU(0.2),
        nn.Linear(32, outputs),
    )


class PointGAN(Objective):
    """Relativistic pairing (Jolicoeur-Martineau 2018) with a lazy R1 penalty (Mescheder
    et al. 2018) every fourth step.
    """

    def __init__(self) -> None:
        super().__init__()
        self.generator = mlp(4, 2)
        self.discriminator = mlp(2, 1)
        self.noise = nn.Dropout(0.1)

    def phases(self) -> list[Phase]:
        return [
            Phase("discriminator", self.discriminator, self.discriminator_loss),
            Phase("penalty", self.discriminator, self.r1, every=4),
            Phase("generator", self.generator, self.generator_loss),
        ]

    def gap(self, batch: Batch) -> Tensor:
        fake = self.generator(self.noise(batch["z"]))
        return self.discriminator(batch["x"]) - self.discriminator(fake)

    def discriminator_loss(self, batch: Batch) -> Loss:
        gap = self.gap(batch)
        total = F.softplus(-gap).sum()
        return Loss(total, len(gap), {"gap": gap.sum()})

    def generator_loss(self, batch: Batch) -> Loss:
        gap = self.gap(batch)
        return Loss(F.softplus(gap).sum(), len(gap))

    def r1(self, batch: Batch) -> Loss:
        x = batch["x"].clone().requires_grad_()
        score = self.discriminator(x).sum()
        (gradient,) = torch.autograd.grad(score, x, create_graph=True)
        return Loss(0.2 * gradient.square().sum(), len(x))


class Ragged(Objective):
    """Linear regression in which only some rows count, a different number in every batch."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Linear(2, 1)

    def phases(self) -> list[Phase]:
        return [Phase("model", self.net, self.loss)]

    def loss(self, batch: Batch) -> Loss:
        counted = batch["z"][:, 0] > 0
        error = self.net(batch["x"]).squeeze(1) - batch["x"].sum(1)
        return Loss(error[counted].square().sum(), int(counted.sum()))


class Letters(Points):
    """Alphabets that begin anywhere, with a different number of letters to learn."""

    LENGTH = 8

    def batch(self, split: str, index: int, size: int, seed: int) -> Batch:
        number = hash((split == "train", index, seed)) % 2**31
        generator = torch.Generator().manual_seed(number)
        first = torch.randint(0, 26, (size, 1), generator=generator)
        letters = (first + torch.arange(self.LENGTH + 1)) % 26
        ids, targets = letters[:, :-1], letters[:, 1:].clone()
        targets[: index % size, -3:] = -100
        return {"ids": ids.contiguous(), "targets": targets}


def letters_gpt(dropout: float) -> Objective:
    """A language model for Letters."""
    spec = TokenSpec(26, Letters.LENGTH, 0, 0, 0, "letters")
    config = gpt.Config(num_layers=2, hidden_size=32, dropout=dropout)
    return gpt.build(config, spec)
