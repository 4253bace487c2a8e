"""Image models whose scores are known on paper, to test metrics by."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.distributions import MultivariateNormal, Normal

from miaobi.data.image.prepared import PictureSpec
from miaobi.evaluate.image.extractors import Extractor, Progress
from miaobi.evaluate.image.subject import ImageSet, ImageSubject
from miaobi.nn.image import UNCONDITIONAL, Conditions, to_pixels

SPEC = PictureSpec(1, 8, 8, ("dark", "light"))


class Factors:
    """Factor analysis, whose likelihood is known: x = W z + b + σ ε, so x ~ N(b, W Wᵀ +
    σ² I). `blur` widens its posterior, so that the bound is no longer tight.
    """

    controls = frozenset({"label"})
    latent_shape = (3,)
    sigma = 0.1

    def __init__(self, blur: float = 1.0, spec: PictureSpec = SPEC) -> None:
        self.spec = spec
        self.blur = blur
        values = spec.channels * spec.height * spec.width
        draw = torch.Generator().manual_seed(0)
        self.weight = 0.2 * torch.randn(values, 3, generator=draw)
        self.bias = 0.1 * torch.randn(values, generator=draw)
        precision = torch.eye(3) + self.weight.T @ self.weight / self.sigma**2
        self.variance = torch.linalg.inv(precision)

    def paint(
        self,
        count: int,
        conditions: Conditions = UNCONDITIONAL,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        x = self.decode(self.draw(count, generator), conditions.label)
        return x + self.sigma * torch.randn(x.shape, generator=generator)

    def draw(self, count: int, generator: torch.Generator | None = None) -> Tensor:
        return torch.randn(count, 3, generator=generator)

    def decode(self, latent: Tensor, label: Tensor | None = None) -> Tensor:
        shape = (-1, self.spec.channels, self.spec.height, self.spec.width)
        return (latent @ self.weight.T + self.bias).reshape(shape)

    def encode(self, pixels: Tensor, label: Tensor | None = None) -> Tensor:
        centred = pixels.flatten(1) - self.bias
        return centred @ self.weight @ self.variance / self.sigma**2

    def log_likelihood(self, pixels: Tensor) -> Tensor:
        noise = self.sigma**2 * torch.eye(len(self.weight))
        covariance = self.weight @ self.weight.T + noise
        likelihood = MultivariateNormal(self.bias.double(), covariance.double())
        return likelihood.log_prob(pixels.flatten(1).double())

    def bound(
        self,
        pixels: Tensor,
        label: Tensor | None = None,
        samples: int = 200,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        root = torch.linalg.cholesky(self.variance).double() * self.blur
        posterior = MultivariateNormal(torch.zeros(3).double(), scale_tril=root)
        terms = list[Tensor]()
        for _ in range(samples):
            noise = torch.randn(len(pixels), 3, generator=generator).double() @ root.T
            z = self.encode(pixels) + noise
            error = (pixels.flatten(1) - self.decode(z.float()).flatten(1)).double()
            likelihood = Normal(0.0, self.sigma).log_prob(error).sum(1)
            prior = Normal(0.0, 1.0).log_prob(z).sum(1)
            terms.append(likelihood + prior - posterior.log_prob(noise))
        return torch.stack(terms).logsumexp(0) - np.log(samples)


def paint(net: Factors, count: int, seed: int) -> np.ndarray:
    generator = torch.Generator().manual_seed(seed)
    return to_pixels(net.paint(count, generator=generator)).numpy()


def projection(width: int = 24) -> Extractor:
    """Return features that are a fixed random projection of the pixels."""

    def features(pixels: np.ndarray, progress: Progress) -> np.ndarray:
        progress(1.0)
        flat = pixels.reshape(len(pixels), -1).astype(np.float32) / 255
        matrix = np.random.default_rng(7).normal(size=(flat.shape[1], width))
        projected: np.ndarray = flat @ matrix.astype(np.float32)
        return projected

    return Extractor(f"projection to {width}", features)


def image_set(net: Factors, count: int, seed: int) -> ImageSet:
    """Return images of two classes by turns; read-only, as memory-mapped ones are."""
    pixels = paint(net, count, seed)
    labels = np.arange(count) % 2
    pixels.flags.writeable = False
    labels.flags.writeable = False
    return ImageSet(pixels, labels)


def subject(
    net: Factors | None = None, samples: ImageSet | None = None, **changes: Any
) -> ImageSubject:
    """Return a model that is as good as can be, or one with these samples.

    The samples of a perfect model and its data come from one distribution.
    """
    net = net or Factors()

    def paint_samples(count: int, conditions: ImageSet | None, seed: int) -> np.ndarray:
        if samples is None:
            return paint(net, count, seed)
        rows = np.arange(seed, seed + count) % len(samples)
        return samples.pixels[rows]

    perfect = ImageSubject(
        "factors",
        SPEC,
        paint_samples,
        projection(),
        net,
        "gaussian",
        training=image_set(net, 300, 1_000_001),
        held_out=image_set(net, 120, 2_000_001),
        count=150,
    )
    return replace(perfect, **changes)
