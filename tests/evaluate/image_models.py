"""Picture models whose scores are known on paper, to judge the judges by."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from miaobi.data.image.prepared import PictureSpec
from miaobi.evaluate.image.extractors import Extractor, Progress
from miaobi.evaluate.image.subject import ImageSet, ImageSubject
from miaobi.nn.image import to_pixels

SPEC = PictureSpec(1, 8, 8, ("dark", "light"))


class Factors:
    """Factor analysis, whose likelihood is known: x = W z + b + σ ε, so x ~ N(b, W Wᵀ +
    σ² I). `blur` widens its posterior, so that the bound is no longer tight.
    """

    controls = frozenset({"label"})
    latent_shape = (3,)

    def __init__(self, blur: float = 1.0, spec: PictureSpec = SPEC) -> None:
        draw = torch.Generator().manual_seed(0)
        self.spec, self.blur, self.sigma, values = (
            spec,
            blur,
            0.1,
            spec.channels * spec.height * spec.width,
        )
        self.weight, self.start = (
            0.2 * torch.randn(values, 3, generator=draw),
            0.1 * torch.randn(values, generator=draw),
        )
        self.variance = torch.linalg.inv(
            torch.eye(3) + self.weight.T @ self.weight / self.sigma**2
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
        x = self.decode(self.draw(count, generator), label)
        return x + self.sigma * torch.randn(x.shape, generator=generator)

    def draw(self, count: int, generator: torch.Generator | None = None) -> Tensor:
        return torch.randn(count, 3, generator=generator)

    def decode(self, latent: Tensor, label: Tensor | None = None) -> Tensor:
        return (latent @ self.weight.T + self.start).reshape(
            -1, self.spec.channels, self.spec.height, self.spec.width
        )

    def encode(self, pixels: Tensor, label: Tensor | None = None) -> Tensor:
        return (
            (pixels.flatten(1) - self.start)
            @ self.weight
            @ self.variance
            / self.sigma**2
        )

    def log_likelihood(self, pixels: Tensor) -> Tensor:
        covariance = self.weight @ self.weight.T + self.sigma**2 * torch.eye(
            len(self.weight)
        )
        return torch.distributions.MultivariateNormal(
            self.start.double(), covariance.double()
        ).log_prob(pixels.flatten(1).double())

    def bound(
        self,
        pixels: Tensor,
        label: Tensor | None = None,
        samples: int = 200,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        root = torch.linalg.cholesky(self.variance).double() * self.blur
        posterior, found = (
            torch.distributions.MultivariateNormal(
                torch.zeros(3).double(), scale_tril=root
            ),
            [],
        )
        for _ in range(samples):
            noise = torch.randn(len(pixels), 3, generator=generator).double() @ root.T
            z = self.encode(pixels) + noise
            error = (pixels.flatten(1) - self.decode(z.float()).flatten(1)).double()
            joint = torch.distributions.Normal(0.0, self.sigma).log_prob(error).sum(
                1
            ) + torch.distributions.Normal(0.0, 1.0).log_prob(z).sum(1)
            found.append(joint - posterior.log_prob(noise))
        return torch.stack(found).logsumexp(0) - np.log(samples)


def painted(net: Any, count: int, after: ImageSet | None, seed: int) -> np.ndarray:
    return to_pixels(
        net.paint(count, generator=torch.Generator().manual_seed(seed))
    ).numpy()


def projection(width: int = 24) -> Extractor:
    """Features that are a fixed random projection of the pixels."""

    def features(pixels: np.ndarray, told: Progress) -> np.ndarray:
        told(1.0)
        flat = pixels.reshape(len(pixels), -1).astype(np.float32) / 255
        return flat @ np.random.default_rng(7).normal(
            size=(flat.shape[1], width)
        ).astype(np.float32)

    return Extractor(f"projection to {width}", features)


def crowd(net: Factors, count: int, seed: int) -> ImageSet:
    """Read-only, as memory-mapped pictures are."""
    pixels, labels = painted(net, count, None, seed), np.arange(count) % 2
    pixels.flags.writeable = labels.flags.writeable = False
    return ImageSet(pixels, labels)


def subject(
    net: Factors | None = None, samples: ImageSet | None = None, **changes: Any
) -> ImageSubject:
    """A model that is as good as can be: its samples and the data come from one
    distribution; or one whose samples are given.
    """
    net = net or Factors()

    def paint(count: int, after: ImageSet | None, seed: int) -> np.ndarray:
        return (
            painted(net, count, after, seed)
            if samples is None
            else samples.pixels[np.arange(seed, seed + count) % len(samples)]
        )

    made = ImageSubject(
        "factors",
        SPEC,
        paint,
        projection(),
        net,
        "gaussian",
        crowd(net, 300, 1_000_001),
        crowd(net, 120, 2_000_001),
        count=150,
    )
    return replace(made, **changes)
