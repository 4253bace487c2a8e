"""A variational autoencoder: pictures through a few numbers that follow a normal distribution.

    log p(x) ≥ E_q[log p(x|z)] - β KL(q(z|x) ‖ p(z)),   p(z) = N(0, I),   q(z|x) = N(μ(x), diag σ²(x))
    KL = ½ Σ_d (μ_d² + σ_d² - 1 - log σ_d²)

Kingma & Welling 2014 (arXiv:1312.6114). β: Higgins et al. 2017. KL warm-up: Sønderby et
al. 2016 (arXiv:1602.02282). Free bits: Kingma et al. 2016 (arXiv:1606.04934).
Conditional: Sohn et al. 2015. Evaluation uses the importance-weighted bound

    log 1/K Σ_k p(x, z_k) / q(z_k|x),   z_k ~ q

which is nearer to log p(x) the larger K is (Burda et al. 2016, arXiv:1509.00519).
Shapes: x [B, C, H, W] in [-1, 1]; z, μ, log σ² [B, D].
"""

from __future__ import annotations

import math
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from miaobi.core.artifacts import Artifact
from miaobi.core.language import say
from miaobi.data.dataset import Dataset
from miaobi.data.image.prepared import PictureSpec
from miaobi.families.config import VAEConfig as Config
from miaobi.nn import folder as folders
from miaobi.nn.convolution import Decoder, Encoder, base_resolution
from miaobi.nn.image import (
    UNCONDITIONAL,
    Conditions,
    labels_for,
    need_classes,
    offered,
    sheet_of,
)
from miaobi.nn.objective import Batch, Loss, Objective, Phase
from miaobi.nn.sample import PictureSample as Sample

NAME, MODALITY, DATA = "vae", "image", "pictures"
HALF_STEP = 1 / 255
"""Half the distance between two of the 256 values of a pixel, in [-1, 1]."""


class VAE(nn.Module):
    """Encoder, latent space, decoder."""

    controls = frozenset[str]()

    def __init__(self, config: Config, spec: PictureSpec) -> None:
        super().__init__()
        self.config = config
        self.spec = spec
        self.latent_shape = (config.latent_size,)
        self.base = base_resolution(spec, config.patch)
        channels = self.base.widths(config.width)
        flat = channels[-1] * self.base.height * self.base.width
        self.encoder = Encoder(spec.channels, channels, config.patch)
        self.decoder = Decoder(spec.channels, channels, config.patch)
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
        """Return μ, log σ² of q(z|x)."""
        features = self.encoder(x).flatten(1)
        if self.config.conditional:
            features = features + self.class_moments(label)
        features = F.dropout(features, self.config.dropout, self.training)
        mean, log_variance = self.to_latent(features).chunk(2, 1)
        return mean, log_variance.clamp(-10, 4)

    def output(self, z: Tensor, label: Tensor | None) -> Tensor:
        """Return what the likelihood needs of each pixel, [B, C, H, W].

        Logits (bernoulli) or means (gaussian).
        """
        flat: Tensor = self.from_latent(z)
        if self.config.conditional:
            flat = flat + self.class_start(label)
        flat = F.dropout(flat, self.config.dropout, self.training)
        features = flat.view(len(flat), -1, self.base.height, self.base.width)
        output: Tensor = self.decoder(features)
        return output

    def log_likelihood(self, x: Tensor, output: Tensor) -> Tensor:
        """Return log p(x|z) in nats, [B], from what the method `output` returns."""
        if self.config.likelihood == "bernoulli":
            loss = F.binary_cross_entropy_with_logits(
                output, (x + 1) / 2, reduction="none"
            )
            return -loss.flatten(1).sum(1)
        return log_of_bin(x, output, self.log_sigma).flatten(1).sum(1)

    def encode(self, pixels: Tensor, label: Tensor | None = None) -> Tensor:
        """Return the mean of q(z|x)."""
        mean, _ = self.posterior(pixels, label)
        return mean

    def decode(self, latent: Tensor, label: Tensor | None = None) -> Tensor:
        """Return the mean of p(x|z), in [-1, 1]."""
        label = labels_for(self, len(latent), label, None, latent.device)
        output = self.output(latent, label)
        if self.config.likelihood == "bernoulli":
            return 2 * output.sigmoid() - 1
        return output

    def draw(self, count: int, generator: torch.Generator | None = None) -> Tensor:
        """Return draws of p(z)."""
        return torch.randn(
            count,
            self.config.latent_size,
            generator=generator,
            device=self.log_sigma.device,
        )

    def paint(
        self,
        count: int,
        conditions: Conditions = UNCONDITIONAL,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        latent = self.draw(count, generator)
        label = labels_for(self, count, conditions.label, generator, latent.device)
        return self.decode(conditions.truncation * latent, label)

    def bound(
        self,
        pixels: Tensor,
        label: Tensor | None = None,
        samples: int = 200,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Return log 1/K Σ_k p(x, z_k) / q(z_k|x) in nats, [B], with K = `samples`."""
        mean, log_variance = self.posterior(pixels, label)
        sigma = (0.5 * log_variance).exp()
        log_weights = list[Tensor]()
        for _ in range(samples):
            noise = torch.randn(mean.shape, generator=generator, device=mean.device)
            z = mean + noise * sigma
            # log p(z) - log q(z|x)
            log_ratio = 0.5 * (noise.square() + log_variance - z.square()).sum(1)
            output = self.output(z, label)
            log_p = self.log_likelihood(pixels, output)
            log_weights.append(log_p + log_ratio)
        return torch.stack(log_weights).logsumexp(0) - math.log(samples)


def log_of_bin(x: Tensor, mean: Tensor, log_sigma: Tensor) -> Tensor:
    """Return the log-probability of each pixel's bin under N(mean, sigma²).

    A bin is the 1/256 of [-1, 1] around a pixel's value. The first and the last reach to
    infinity, so the 256 probabilities add up to 1. Far from the mean, where both ends'
    cumulative values round to the same number, the density times the bin's width is used.
    """
    scale = (-log_sigma).exp() * 0.5**0.5
    distance = x - mean
    above = torch.erf((distance + HALF_STEP) * scale)
    above = above.masked_fill(x > 1 - HALF_STEP, 1.0)
    below = torch.erf((distance - HALF_STEP) * scale)
    below = below.masked_fill(x < HALF_STEP - 1, -1.0)
    mass = 0.5 * (above - below)
    log_density = (
        -(distance * scale).square()
        - log_sigma
        - 0.5 * math.log(2 * math.pi)
        + math.log(2 * HALF_STEP)
    )
    return torch.where(mass > 1e-4, mass.clamp(min=1e-5).log(), log_density)


class Variational(Objective):
    """Maximises the bound. Metrics: reconstruction and kl, nats a picture."""

    unit = "pictures"

    def __init__(self, net: VAE) -> None:
        super().__init__()
        self.net = net
        self.controls = offered(self.net)

    def phases(self) -> list[Phase]:
        return [Phase("model", self.net, self.loss)]

    def loss(self, batch: Batch) -> Loss:
        config = self.net.config
        warmup = 1.0
        if config.kl_warmup:
            warmup = min(1.0, self.progress / config.kl_warmup)
        return self._bound(batch, config.beta * warmup, config.free_bits)

    def validate(self, batch: Batch) -> Loss:
        """Return the plain bound, whatever weights training uses."""
        return self._bound(batch, 1.0, 0.0)

    def _bound(self, batch: Batch, kl_weight: float, free_bits: float) -> Loss:
        x = batch["pixels"]
        label = batch["label"]
        mean, log_variance = self.net.posterior(x, label)
        noise = torch.randn_like(mean)
        z = mean + noise * (0.5 * log_variance).exp()
        output = self.net.output(z, label)
        error = -self.net.log_likelihood(x, output).sum()
        kl_BD = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance)
        kl_D = kl_BD.sum(0)
        paid_D = kl_D.clamp(min=free_bits * len(x))
        total = error + kl_weight * paid_D.sum()
        metrics = {
            "reconstruction": error,
            "kl": kl_D.sum(),
        }
        return Loss(total, len(x), metrics)


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
def sample(objective: Variational, dataset: Dataset, config: Sample) -> list[Artifact]:
    """Return rows of pictures.

    Held-out pictures, their reconstructions, and new pictures.
    """
    net = objective.net
    device = net.log_sigma.device
    batch = dataset.batch("validation", 0, 8, 0)
    x = batch["pixels"].to(device)
    label = batch["label"].to(device)
    rows = [x, net.decode(net.encode(x, label), label)]
    generator = torch.Generator(device).manual_seed(0)
    new = net.paint(max(config.pictures, 1), generator=generator)
    rows += [row for row in torch.split(new, len(x)) if len(row) == len(x)]
    titles = [say("held out", "留出"), say("restored", "重建"), say("new", "新图")]
    return sheet_of(rows, titles[: len(rows)])
