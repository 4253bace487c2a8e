"""A variational autoencoder: pictures through a few numbers that follow a normal distribution.

    log p(x) ≥ E_q[log p(x|z)] - β KL(q(z|x) ‖ p(z)),   p(z) = N(0, I),   q(z|x) = N(μ(x), diag σ²(x))
    KL = ½ Σ_d (μ_d² + σ_d² - 1 - log σ_d²)

Kingma & Welling 2014 (arXiv:1312.6114). β: Higgins et al. 2017. KL warm-up: Sønderby et
al. 2016 (arXiv:1602.02282).
Free bits: Kingma et al. 2016 (arXiv:1606.04934). Conditional: Sohn et al. 2015. What is evaluated is the importance-weighted bound
log 1/K Σ_k p(x, z_k) / q(z_k|x), z_k ~ q  (Burda et al. 2016, arXiv:1509.00519), nearer to log p(x) the larger K.

Shapes: x [B, C, H, W] in [-1, 1]; z, μ, log σ² [B, D].
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from miaobi.data.image.prepared import PictureSpec
from miaobi.nn import folder as folders
from miaobi.nn.convolution import Decoder, Encoder, floor_of
from miaobi.nn.image import labels_for, need_classes, to_pixels
from miaobi.nn.objective import Batch, Loss, Objective, Phase

NAME, MODALITY, DATA = "vae", "image", "pictures"
HALF_STEP = 1 / 255
"""Half the distance between two of the 256 values of a pixel, in [-1, 1]."""


@dataclass(frozen=True)
class Config:
    latent_size: int = 32
    """Numbers that a picture goes through."""
    width: int = 32
    """Channels at the largest size; doubled at every halving, up to four times."""
    patch: int = 2
    """Pixels of a side that are read and written as one place: 1 is finest, 2 four
    times quicker.
    """
    likelihood: Literal["bernoulli", "gaussian"] = "gaussian"
    """bernoulli: a pixel is black or white. gaussian: one of 256 values, of a normal
    distribution with one learned width.
    """
    beta: float = 1.0
    """Weight of the KL term: above 1 for a tidier latent space, below 1 for sharper
    reconstructions.
    """
    kl_warmup: float = 0.1
    """Share of the run over which the KL term's weight rises from 0."""
    free_bits: float = 0.0
    """Nats of each latent dimension that cost nothing; 0.05 to 0.25 keeps dimensions from dying."""
    conditional: bool = False
    """Tell encoder and decoder the class."""
    dropout: float = 0.0
    """On what encoder and decoder pass through their linear layers; for small data."""


class VAE(nn.Module):
    controls = frozenset[str]()

    def __init__(self, config: Config, spec: PictureSpec) -> None:
        super().__init__()
        self.config, self.spec, self.latent_shape = config, spec, (config.latent_size,)
        self.floor = floor_of(spec, config.patch)
        channels = self.floor.widths(config.width)
        flat = channels[-1] * self.floor.height * self.floor.width
        self.encoder, self.decoder = (
            kind(spec.channels, channels, config.patch) for kind in (Encoder, Decoder)
        )
        self.to_latent = nn.Linear(flat, 2 * config.latent_size)
        self.from_latent = nn.Linear(config.latent_size, flat)
        self.log_sigma = nn.Parameter(
            torch.tensor(-2.0), requires_grad=config.likelihood == "gaussian"
        )
        if config.conditional:
            self.class_moments = nn.Embedding(len(spec.classes), flat)
            self.class_start = nn.Embedding(len(spec.classes), flat)
            self.controls = frozenset({"label"})
        with torch.no_grad():
            self.to_latent.weight.mul_(0.1)

    def posterior(self, x: Tensor, label: Tensor | None) -> tuple[Tensor, Tensor]:
        """μ, log σ² of q(z|x)."""
        features = self.encoder(x).flatten(1)
        if self.config.conditional:
            features = features + self.class_moments(label)
        features = F.dropout(features, self.config.dropout, self.training)
        mean, log_variance = self.to_latent(features).chunk(2, 1)
        return mean, log_variance.clamp(-10, 4)

    def output(self, z: Tensor, label: Tensor | None) -> Tensor:
        """What the likelihood is made of: logits (bernoulli) or means (gaussian), [B, C, H, W]."""
        start = self.from_latent(z)
        if self.config.conditional:
            start = start + self.class_start(label)
        start = F.dropout(start, self.config.dropout, self.training)
        return self.decoder(
            start.unflatten(1, (-1, self.floor.height, self.floor.width))
        )

    def log_likelihood(self, x: Tensor, output: Tensor) -> Tensor:
        """log p(x|z) in nats, [B]."""
        if self.config.likelihood == "bernoulli":
            return (
                -F.binary_cross_entropy_with_logits(
                    output, (x + 1) / 2, reduction="none"
                )
                .flatten(1)
                .sum(1)
            )
        return log_of_bin(x, output, self.log_sigma).flatten(1).sum(1)

    def encode(self, pixels: Tensor, label: Tensor | None = None) -> Tensor:
        return self.posterior(pixels, label)[0]

    def decode(self, latent: Tensor, label: Tensor | None = None) -> Tensor:
        output = self.output(
            latent, labels_for(self, len(latent), label, None, latent.device)
        )
        return (
            2 * output.sigmoid() - 1
            if self.config.likelihood == "bernoulli"
            else output
        )

    def draw(self, count: int, generator: torch.Generator | None = None) -> Tensor:
        return torch.randn(
            count,
            self.config.latent_size,
            generator=generator,
            device=self.log_sigma.device,
        )

    def paint(
        self,
        count: int,
        *,
        label: Tensor | None = None,
        source: Tensor | None = None,
        truncation: float = 1.0,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        latent = self.draw(count, generator)
        return self.decode(
            truncation * latent,
            labels_for(self, count, label, generator, latent.device),
        )

    def bound(
        self,
        pixels: Tensor,
        label: Tensor | None = None,
        samples: int = 200,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        mean, log_variance = self.posterior(pixels, label)
        weights = []
        for _ in range(samples):
            noise = torch.randn(mean.shape, generator=generator, device=mean.device)
            z = mean + noise * (0.5 * log_variance).exp()
            log_ratio = 0.5 * (noise.square() + log_variance - z.square()).sum(
                1
            )  # log p(z) - log q(z|x)
            weights.append(
                self.log_likelihood(pixels, self.output(z, label)) + log_ratio
            )
        return torch.stack(weights).logsumexp(0) - math.log(samples)


def log_of_bin(x: Tensor, mean: Tensor, log_sigma: Tensor) -> Tensor:
    """log of the probability that a normal distribution gives to the 1/256 of [-1, 1]
    around each pixel's value.

    The first and the last bin reach to infinity, so the 256 probabilities add up to 1.
    Far from the mean, where both ends' cumulative values round to the same number, the
    density times the bin's width stands in.
    """
    scale = (-log_sigma).exp() * 0.5**0.5
    above = torch.erf((x - mean + HALF_STEP) * scale).masked_fill(
        x > 1 - HALF_STEP, 1.0
    )
    below = torch.erf((x - mean - HALF_STEP) * scale).masked_fill(
        x < HALF_STEP - 1, -1.0
    )
    mass = 0.5 * (above - below)
    density = (
        -((x - mean) * scale).square()
        - log_sigma
        - 0.5 * math.log(2 * math.pi)
        + math.log(2 * HALF_STEP)
    )
    return torch.where(mass > 1e-4, mass.clamp(min=1e-5).log(), density)


class Variational(Objective):
    """Maximises the bound. Metrics: reconstruction and kl, nats a picture."""

    unit = "pictures"

    def __init__(self, net: VAE) -> None:
        super().__init__()
        self.net = net

    def phases(self) -> list[Phase]:
        return [Phase("model", self.net, self.loss)]

    def loss(self, batch: Batch) -> Loss:
        config = self.net.config
        weight = config.beta * min(
            1.0, self.progress / config.kl_warmup if config.kl_warmup else 1.0
        )
        return self._bound(batch, weight, config.free_bits)

    def validate(self, batch: Batch) -> Loss:
        """The plain bound, whatever training weighs its terms with."""
        return self._bound(batch, 1.0, 0.0)

    def _bound(self, batch: Batch, weight: float, free: float) -> Loss:
        x, label = batch["pixels"], batch["label"]
        mean, log_variance = self.net.posterior(x, label)
        z = mean + torch.randn_like(mean) * (0.5 * log_variance).exp()
        error = -self.net.log_likelihood(x, self.net.output(z, label)).sum()
        kl_D = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).sum(0)
        total = error + weight * kl_D.clamp(min=free * len(x)).sum()
        return Loss(total, len(x), {"reconstruction": error, "kl": kl_D.sum()})


def build(config: Config, spec: PictureSpec) -> Variational:
    if config.conditional:
        need_classes(spec)
    return Variational(VAE(config, spec))


def save(objective: Variational, folder: Path) -> None:
    folders.write(objective.net, NAME, folder)


def load(folder: Path) -> nn.Module:
    config, spec = folders.settings(folder)
    return folders.weights(VAE(Config(**config), spec), folder)


@torch.no_grad()
def sample(objective: Variational, dataset: Any, config: Any) -> Tensor:
    """Rows of pictures, uint8 [rows, columns, H, W, C]: held-out ones, their
    reconstructions, and new ones.
    """
    net, columns = objective.net, 8
    batch = dataset.batch("validation", 0, columns, 0)
    x, label = (batch[name].to(net.log_sigma.device) for name in ("pixels", "label"))
    rows = [x, net.decode(net.encode(x, label), label)]
    new = net.paint(
        max(config.pictures, 1), generator=torch.Generator(x.device).manual_seed(0)
    )
    rows += [part for part in new.split(len(x)) if len(part) == len(x)]
    return torch.stack([to_pixels(row) for row in rows])
