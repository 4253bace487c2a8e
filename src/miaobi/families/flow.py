"""Rectified flow: a network that sees a picture through noise, and from which pictures
are made by taking noise away step by step.

    x_t = (1 - t) x_0 + t ε,   t = logistic(N(μ, 1)),   ε ~ N(0, I)
    loss = ‖v̂ - v‖²,   v = ε - x_0                          (prediction: velocity)
         = ‖x̂_0 - x_0‖² / max(t, 0.05)²                     (x, the same error of v)
         = ‖ε̂ - ε‖²                                         (epsilon, with DDPM's path)

Liu et al. 2022 (arXiv:2209.03003); times by Esser et al. 2024 (arXiv:2403.03206); to
predict x_0 suits large patches (Li and He 2025, arXiv:2511.13720); DDPM: Ho et al. 2020
(arXiv:2006.11239). Paths, guidance and samplers are in nn/diffusion.py.

The network is a U-Net (Ronneberger et al. 2015, arXiv:1505.04597) on squares of `patch`
pixels; time and class scale and shift each block. A class is left out now and then, so
that the model can be guided (Ho and Salimans 2022, arXiv:2207.12598).

Shapes: x [B, C, H, W] in [-1, 1]; t [B] in [0, 1]; classes [B], their number for none.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from miaobi.core.artifacts import Artifact
from miaobi.core.errors import BadInput, nearest
from miaobi.core.language import say
from miaobi.data.dataset import Dataset
from miaobi.data.image.prepared import PictureSpec
from miaobi.families.config import FlowConfig as Config
from miaobi.nn import diffusion
from miaobi.nn import folder as folders
from miaobi.nn.convolution import base_resolution, channels_last, upsample2x
from miaobi.nn.diffusion import Denoiser, Guidance, Kept, Noise
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

NAME, MODALITY, DATA = "flow", "image", "pictures"
GROUPS = 8
"""Of each normalisation, or as many as divide its channels."""
WAVES = 64
"""Sines and cosines that a time is written as."""
NEAREST = 0.05
"""σ below which the error of x_0 weighs no more."""


class Block(nn.Module):
    """x [B, C_in, H, W], e [B, E] -> [B, C_out, H, W]; the identity at first.

    Args:
        inner: C_in.
        outer: C_out.
        embedding: E.
        dropout: before the last convolution.
    """

    def __init__(self, inner: int, outer: int, embedding: int, dropout: float) -> None:
        super().__init__()
        self.norm_in = nn.GroupNorm(math.gcd(GROUPS, inner), inner)
        self.conv_in = nn.Conv2d(inner, outer, 3, padding=1)
        self.modulation = nn.Linear(embedding, 2 * outer)
        self.norm_out = nn.GroupNorm(math.gcd(GROUPS, outer), outer)
        self.drop = nn.Dropout(dropout)
        self.conv_out = nn.Conv2d(outer, outer, 3, padding=1)
        self.skip = nn.Conv2d(inner, outer, 1) if inner != outer else nn.Identity()
        nn.init.zeros_(self.conv_out.weight)

    def forward(self, x: Tensor, e: Tensor) -> Tensor:
        hidden = self.conv_in(F.silu(self.norm_in(x)))
        scale, shift = self.modulation(e)[:, :, None, None].chunk(2, 1)
        hidden = F.silu(self.norm_out(hidden) * (1 + scale) + shift)
        output: Tensor = self.skip(x) + self.conv_out(self.drop(hidden))
        return output


class UNet(nn.Module):
    """x [B, C, H, W], t [B], classes [B] -> [B, C, H, W]; zero at first."""

    def __init__(self, config: Config, spec: PictureSpec) -> None:
        super().__init__()
        widths = base_resolution(spec, config.patch).widths(config.width)
        size = 4 * config.width
        self.patch = config.patch
        self.classes = nn.Embedding(len(spec.classes) + 1, size)
        self.time = nn.Sequential(
            nn.Linear(WAVES, size),
            nn.SiLU(),
            nn.Linear(size, size),
        )

        def block(inner: int, outer: int) -> Block:
            return Block(inner, outer, size, config.dropout)

        channels = spec.channels * config.patch**2
        self.stem = nn.Conv2d(channels, widths[0], 3, padding=1)
        self.falling = nn.ModuleList(block(width, width) for width in widths)
        self.downsample = nn.ModuleList(
            nn.Conv2d(a, b, 3, stride=2, padding=1)
            for a, b in itertools.pairwise(widths)
        )
        self.middle = block(widths[-1], widths[-1])
        self.rising = nn.ModuleList(block(2 * width, width) for width in widths)
        self.upsample = nn.ModuleList(
            nn.Conv2d(b, a, 3, padding=1) for a, b in itertools.pairwise(widths)
        )
        self.last = block(widths[0], widths[0])
        self.head = nn.Conv2d(widths[0], channels, 3, padding=1)
        nn.init.zeros_(self.head.weight)
        channels_last(self)

    def forward(self, x: Tensor, t: Tensor, label: Tensor) -> Tensor:
        e = F.silu(self.time(waves(t)) + self.classes(label))
        x = self.stem(F.pixel_unshuffle(x, self.patch))
        skips = list[Tensor]()
        for level, block in enumerate(self.falling):
            if level:
                x = self.downsample[level - 1](x)
            x = block(x, e)
            skips.append(x)
        x = self.middle(x, e)
        for level in reversed(range(len(skips))):
            x = self.rising[level](torch.cat([x, skips[level]], 1), e)
            if level:
                x = self.upsample[level - 1](upsample2x(x))
        x = self.head(F.silu(self.last(x, e)))
        return F.pixel_shuffle(x, self.patch).float()


def waves(t: Tensor) -> Tensor:
    """Return times [B] as sines and cosines [B, WAVES] (Vaswani et al. 2017, section 3.5)."""
    half = WAVES // 2
    exponents = torch.arange(half, device=t.device) / half
    angles = 1000 * t[:, None] * torch.exp(-math.log(10_000) * exponents)
    return torch.cat([angles.sin(), angles.cos()], 1)


class Flow(nn.Module):
    """The trained model."""

    def __init__(self, config: Config, spec: PictureSpec) -> None:
        super().__init__()
        self.config = config
        self.spec = spec
        self.schedule = diffusion.SCHEDULES[config.schedule]
        self.latent_shape = (spec.channels, spec.height, spec.width)
        self.controls = frozenset({"num_inference_steps", "scheduler"})
        if config.conditional:
            self.controls |= {"label", "guidance_scale"}
        self.net = UNet(config, spec if config.conditional else without_classes(spec))

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device

    @property
    def no_class(self) -> int:
        """The class of pictures of any class."""
        return self.net.classes.num_embeddings - 1

    def estimate(self, x: Tensor, t: Tensor, label: Tensor) -> Tensor:
        """Return x̂_0 [B, C, H, W] of x_t, times [B] and classes [B]."""
        output: Tensor = self.net(x, t, label)
        at = t[:, None, None, None]
        if self.config.prediction == "velocity":
            return self.schedule.data_of_velocity(x, output, at)
        if self.config.prediction == "epsilon":
            return self.schedule.data_of_noise(x, output, at)
        return output

    def denoiser(self, label: Tensor | None, conditions: Conditions) -> Denoiser:
        """Return what the model sees of pictures of these classes [B], guided."""

        def towards(classes: Tensor | None) -> Denoiser:
            def denoise(x: Tensor, t: Tensor) -> Tensor:
                chosen = classes
                if chosen is None:
                    chosen = torch.full((len(x),), self.no_class, device=x.device)
                return self.estimate(x, t.expand(len(x)).to(x.device), chosen)

            return denoise

        scale = conditions.guidance_scale
        if scale is None:
            scale = self.config.guidance_scale
        if label is None or scale == 1:
            return towards(label)
        return Guidance(towards(label), towards(None), scale)

    def draw(self, count: int, generator: torch.Generator | None = None) -> Tensor:
        """Return noise [count, C, H, W]; drawn on the CPU, so that a seed is a picture."""
        cpu = generator is None or generator.device.type == "cpu"
        device = torch.device("cpu") if cpu else self.device
        noise = torch.randn(
            (count, *self.latent_shape), generator=generator, device=device
        )
        return noise.to(self.device)

    def decode(self, latent: Tensor, label: Tensor | None = None) -> Tensor:
        """Return the pictures that noise [B, C, H, W] leads to."""
        label = labels_for(self, len(latent), label, None, latent.device)
        return self.denoise(latent, Conditions(label=label))

    def denoise(
        self, noise: Tensor, conditions: Conditions, draw: Noise = torch.randn_like
    ) -> Tensor:
        return self._sample(
            noise, self.denoiser(conditions.label, conditions), conditions, 1.0, draw
        )

    def repaint(
        self,
        noise: Tensor,
        source: Tensor,
        conditions: Conditions,
        strength: float,
        mask: Tensor | None,
        draw: Noise = torch.randn_like,
    ) -> Tensor:
        if strength == 0:
            return source
        denoise = self.denoiser(conditions.label, conditions)
        if mask is not None:
            denoise = Kept(denoise, source, mask)
        begin = torch.tensor(strength, device=source.device)
        x = noise if strength == 1 else self.schedule.noised(source, noise, begin)
        pictures = self._sample(x, denoise, conditions, strength, draw)
        if mask is None:
            return pictures
        return torch.where(mask > 0, pictures, source)

    def _sample(
        self,
        x: Tensor,
        denoise: Denoiser,
        conditions: Conditions,
        begin: float,
        draw: Noise,
    ) -> Tensor:
        kind = sampler_named(conditions.sampler or self.config.sampler)
        steps = conditions.steps or self.config.num_inference_steps
        return kind(denoise, self.schedule, draw).sample(
            x, diffusion.times(steps, begin).to(x.device)
        )

    def paint(
        self,
        count: int,
        conditions: Conditions = UNCONDITIONAL,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        noise = self.draw(count, generator)
        label = labels_for(self, count, conditions.label, generator, self.device)

        def draw(like: Tensor) -> Tensor:
            return self.draw(len(like), generator)

        return self.denoise(noise, replace(conditions, label=label), draw)


def without_classes(spec: PictureSpec) -> PictureSpec:
    return replace(spec, classes=())


def sampler_named(name: str) -> type[diffusion.Sampler]:
    """Return a sampler. Raises BadInput with those that there are."""
    if name not in diffusion.SAMPLERS:
        raise BadInput(
            say(f"There is no sampler {name!r}.", f"没有名为 {name!r} 的采样器。"),
            nearest(name, diffusion.SAMPLERS),
            field="scheduler",
        )
    return diffusion.SAMPLERS[name]


class FlowMatching(Objective):
    """Sees each picture through noise of a time of its own. Validation is the same loss,
    with the same noise each time.
    """

    unit = "pictures"

    def __init__(self, flow: Flow) -> None:
        super().__init__()
        self.flow = flow
        self.controls = offered(flow)

    def phases(self) -> list[Phase]:
        return [Phase("model", self.flow, self.loss)]

    def loss(self, batch: Batch) -> Loss:
        config = self.flow.config
        label = self._classes(batch)
        if config.conditional:
            drops = torch.rand(len(label), device=label.device) < config.class_dropout
            label = label.masked_fill(drops, self.flow.no_class)
        return self._loss(batch["pixels"], label)

    def validate(self, batch: Batch) -> Loss:
        return self._loss(batch["pixels"], self._classes(batch))

    def _classes(self, batch: Batch) -> Tensor:
        if self.flow.config.conditional:
            return batch["label"]
        return torch.full_like(batch["label"], self.flow.no_class)

    def _loss(self, x_0: Tensor, label: Tensor) -> Loss:
        config, schedule = self.flow.config, self.flow.schedule
        t = torch.sigmoid(config.time_mean + torch.randn(len(x_0), device=x_0.device))
        at = t[:, None, None, None]
        noise = torch.randn_like(x_0)
        x_t = schedule.noised(x_0, noise, at)
        output = self.flow.net(x_t, t, label)
        if config.prediction == "velocity":
            error = output - schedule.velocity(x_0, noise, at)
        elif config.prediction == "epsilon":
            error = output - noise
        else:
            error = (output - x_0) / schedule.sigma(at).clamp(min=NEAREST)
        return Loss(error.square().flatten(1).mean(1).sum(), len(x_0))


def build(config: Config, spec: PictureSpec) -> FlowMatching:
    if config.conditional:
        need_classes(spec)
    return FlowMatching(Flow(config, spec))


def save(objective: FlowMatching, folder: Path) -> None:
    folders.write(objective.flow, NAME, folder)


def load(folder: Path) -> nn.Module:
    config, spec = folders.settings(folder)
    return folders.weights(Flow(Config(**config), spec), folder)


@torch.no_grad()
def sample(objective: FlowMatching, dataset: Dataset, config: Sample) -> list[Artifact]:
    """Return generated pictures. A conditional model has a column for each class."""
    net = objective.flow
    columns = 8
    classes: tuple[str, ...] = ()
    if net.config.conditional:
        classes = tuple(dataset.spec.classes[:10])
        columns = len(classes)
    rows = max(config.pictures // columns, 1)
    label = None
    if classes:
        label = torch.arange(columns).repeat(rows).to(net.device)
    pictures = net.paint(
        rows * columns,
        Conditions(label=label),
        torch.Generator().manual_seed(0),
    )
    return sheet_of(torch.split(pictures, columns), [say("new", "新图")], classes)
