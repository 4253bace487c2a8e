"""A generative adversarial network: a generator that turns noise into pictures until a
critic cannot tell them from real ones.

    x = G(z, y),  z ~ N(0, I);   the two losses are in nn/adversarial.py

Plain generator: z → linear → residual blocks, each doubling the sides. Style-based
    generator (Karras et al. 2019, 2020: arXiv:1812.04948, arXiv:1912.04958): w = f(z,
    y) steers every convolution,

    W'_oik = s_i W_oik,   W''_oik = W'_oik / √(Σ_ik W'_oik² + ε),   s = A w

written as scaling what goes in and what comes out, so that one ordinary convolution
serves the whole batch. Noise is added at each size, the picture is the sum of what
every size adds, in training a second w may take over from some layer on (mixing), and w
← w̄ + ψ (w - w̄) trades variety for quality (truncation).
Critic: residual blocks that halve the sides, and the variety of the batch; classes by
    projection, D(x, y) = v·h(x) + e_y·h(x) (Miyato & Koyama 2018, arXiv:1802.05637).
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from miaobi.data.image.prepared import PictureSpec
from miaobi.nn import augment
from miaobi.nn import folder as folders
from miaobi.nn.adversarial import Adversary, Game
from miaobi.nn.convolution import (
    SLOPE,
    Decoder,
    Encoder,
    LaidOut,
    channels_last,
    conv,
    doubled,
    floor_of,
)
from miaobi.nn.image import labels_for, need_classes, to_pixels
from miaobi.nn.objective import Batch, Loss, Objective, Phase
from miaobi.nn.sliced import sliced_wasserstein

NAME, MODALITY, DATA = "gan", "image", "pictures"
AVERAGED = 4096
"""Draws over which the mean style is taken."""
CLASS_SCALE = 0.2
"""A class starts as a whisper beside z; as loud as z, it would be all that the
generator learns to hear.
"""


@dataclass(frozen=True)
class Config:
    generator: Literal["plain", "style"] = "plain"
    """style: a mapping network steers every layer; more even quality, mixing and
    truncation, slower.
    """
    conditional: bool = False
    """Tell generator and critic the class."""
    latent_size: int = 64
    """Length of z."""
    width: int = 32
    """Channels at the largest size; doubled at every halving, up to four times."""
    patch: int = 2
    """Pixels of a side that are read and written as one place: 1 is finest, 2 four
    times quicker.
    """
    style_size: int = 128
    """Length of w, for the style-based generator."""
    mixing: float = 0.5
    """Share of pictures in training whose style changes at some layer."""
    loss: Game = "relativistic"
    """relativistic: the modern game, stable with its penalties. non_saturating: the classic one."""
    gamma: float = 0.1
    """Weight of the gradient penalties; larger is steadier and blurrier; 0 for none."""
    penalty_every: int = 4
    """Steps between penalties, which are that much stronger."""
    spread: float = 1.0
    """How strongly pictures of one class are kept as far apart as real ones are; 0
    leaves that to the critic.
    """
    augment: list[str] = field(default_factory=list)
    """Disturbances before the critic: colour, translation, cutout. Essential below
    about 10,000 pictures.
    """


class Plain(nn.Module):
    """z [B, D] -> pictures [B, C, H, W]."""

    def __init__(self, config: Config, spec: PictureSpec) -> None:
        super().__init__()
        self.floor = floor_of(spec, config.patch)
        channels = self.floor.widths(config.width)
        self.start = nn.Linear(
            config.latent_size * (1 + config.conditional),
            channels[-1] * self.floor.height * self.floor.width,
        )
        self.decoder = Decoder(spec.channels, channels, config.patch)

    def forward(self, z: Tensor, given: Tensor | None) -> Tensor:
        z = z if given is None else torch.cat([z, given], 1)
        return self.decoder(
            self.start(z).unflatten(1, (-1, self.floor.height, self.floor.width))
        )

    def truncated(self, z: Tensor, given: Tensor | None, truncation: float) -> Tensor:
        return self(truncation * z, given)


class Modulated(nn.Module):
    """x [B, C_in, H, W], w [B, S] -> [B, C_out, H, W]: a convolution whose kernels w
    scales and, unless told not to, normalises.
    """

    def __init__(
        self,
        inner: int,
        outer: int,
        style_size: int,
        kernel: int = 3,
        demodulate: bool = True,
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(
            torch.randn(outer, inner, kernel, kernel) / (inner * kernel * kernel) ** 0.5
        )
        self.bias = nn.Parameter(torch.zeros(outer))
        self.style = nn.Linear(style_size, inner)
        self.demodulate = demodulate
        nn.init.normal_(self.style.weight, std=style_size**-0.5)
        nn.init.ones_(self.style.bias)

    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        scale = self.style(w)
        x = F.conv2d(x * scale[:, :, None, None], self.weight, padding="same")
        if self.demodulate:
            norm_BO = scale.square() @ self.weight.square().sum((2, 3)).T
            x = x * (norm_BO + 1e-8).rsqrt()[:, :, None, None]
        return x + self.bias[:, None, None]


class StyleLayer(nn.Module):
    def __init__(self, inner: int, outer: int, style_size: int) -> None:
        super().__init__()
        self.convolve = Modulated(inner, outer, style_size)
        self.noise = nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        x = self.convolve(x, w)
        x = (
            x + self.noise * torch.randn(x.shape[0], 1, *x.shape[2:], device=x.device)
            if self.training
            else x
        )
        return F.leaky_relu(x, SLOPE) * 2**0.5


class Style(nn.Module):
    """z [B, D] -> pictures [B, C, H, W], through w [B, S]. Noise is added in training
    only, so that a seed says all.
    """

    def __init__(self, config: Config, spec: PictureSpec) -> None:
        super().__init__()
        self.latent_size, self.mixing, size = (
            config.latent_size,
            config.mixing,
            config.style_size,
        )
        given = config.latent_size * (1 + config.conditional)
        self.mapping = nn.Sequential(
            nn.Linear(given, size),
            nn.LeakyReLU(SLOPE),
            nn.Linear(size, size),
            nn.LeakyReLU(SLOPE),
        )
        floor = floor_of(spec, config.patch)
        channels = floor.widths(config.width)[::-1]
        self.start = nn.Parameter(
            torch.randn(1, channels[0], floor.height, floor.width)
        )
        pairs = [(channels[0], channels[0]), *itertools.pairwise(channels)]
        self.layers = nn.ModuleList(
            nn.ModuleList([StyleLayer(a, b, size), StyleLayer(b, b, size)])
            for a, b in pairs
        )
        self.colours = nn.ModuleList(
            Modulated(b, channels[-1], size, kernel=1, demodulate=False)
            for _, b in pairs
        )
        self.laid_out = LaidOut(channels[-1], spec.channels, config.patch)
        channels_last(self)

    def forward(self, z: Tensor, given: Tensor | None) -> Tensor:
        w = self.styled(z, given)
        if not self.training or not self.mixing:
            return self.painted([w] * len(self.layers))
        other = self.styled(torch.randn_like(z), given)
        # Each picture changes over at a level of its own; those that do not mix change
        # after the last.
        change = torch.randint(1, len(self.layers) + 1, (len(z), 1), device=z.device)
        change = torch.where(
            torch.rand(len(z), 1, device=z.device) < self.mixing,
            change,
            len(self.layers),
        )
        return self.painted(
            [torch.where(level < change, w, other) for level in range(len(self.layers))]
        )

    def styled(self, z: Tensor, given: Tensor | None) -> Tensor:
        z = z * (z.square().mean(1, keepdim=True) + 1e-8).rsqrt()
        return self.mapping(z if given is None else torch.cat([z, given], 1))

    def painted(self, styles: list[Tensor]) -> Tensor:
        """Pictures of one w [B, S] for each level."""
        x, picture = (
            self.start.expand(len(styles[0]), -1, -1, -1),
            torch.zeros((), device=self.start.device),
        )
        for level, ((first, second), colour, w) in enumerate(
            zip(self.layers, self.colours, styles)
        ):
            if level:
                x, picture = (
                    doubled(x),
                    F.interpolate(picture, scale_factor=2, mode="bilinear"),
                )
            x = second(first(x, w), w)
            picture = picture + colour(x, w)
        return self.laid_out(picture)

    def truncated(self, z: Tensor, given: Tensor | None, truncation: float) -> Tensor:
        w = self.styled(z, given)
        if truncation < 1:
            mean = self.mean_style(given)
            w = mean + truncation * (w - mean)
        return self.painted([w] * len(self.layers))

    def mean_style(self, given: Tensor | None) -> Tensor:
        """w̄ over fixed draws of z: [S], or for what each picture is given, [B, S]."""
        draws = torch.randn(
            AVERAGED, self.latent_size, generator=torch.Generator().manual_seed(0)
        ).to(self.start.device)
        if given is None:
            return self.styled(draws, None).mean(0)
        kinds, places = given.unique(dim=0, return_inverse=True)
        return torch.stack(
            [self.styled(draws, kind.expand(AVERAGED, -1)).mean(0) for kind in kinds]
        )[places]


class Critic(nn.Module):
    """pictures [B, C, H, W], classes [B] or None -> logits [B]."""

    def __init__(self, config: Config, spec: PictureSpec) -> None:
        super().__init__()
        floor = floor_of(spec, config.patch)
        channels = floor.widths(config.width)
        self.encoder = Encoder(spec.channels, channels, config.patch)
        self.gather = nn.Sequential(
            conv(channels[-1] + 1, channels[-1]),
            nn.LeakyReLU(SLOPE),
            nn.Flatten(),
            nn.Linear(channels[-1] * floor.height * floor.width, channels[-1]),
            nn.LeakyReLU(SLOPE),
        )
        self.head = nn.Linear(channels[-1], 1)
        self.of_class = (
            nn.Embedding(len(spec.classes), channels[-1])
            if config.conditional
            else None
        )
        channels_last(self)

    def forward(self, pictures: Tensor, label: Tensor | None) -> Tensor:
        places = self.encoder(pictures)
        features = self.gather(torch.cat([places, variety(places, label)], 1))
        logits = self.head(features)[:, 0]
        return (
            logits
            if self.of_class is None
            else logits
            + (self.of_class(label) * features).sum(1) * features.shape[1] ** -0.5
        )


def variety(features: Tensor, label: Tensor | None) -> Tensor:
    """How far each picture lies from the others of its class in the batch, as one more
    channel: pictures that are all alike give themselves away (minibatch features:
    Salimans et al. 2016, arXiv:1606.03498). [B, C, H, W] -> [B, 1, H, W].
    """
    flat = features.flatten(1)
    squared = flat.square().sum(1)
    apart_BB = (squared[:, None] + squared - 2 * flat @ flat.T).clamp(
        min=0
    ) / flat.shape[1]
    alike_BB = (
        torch.ones_like(apart_BB)
        if label is None
        else (label[:, None] == label).to(flat.dtype)
    )
    alike_BB = alike_BB - torch.eye(len(flat), device=flat.device)
    mean = (apart_BB * alike_BB).sum(1) / alike_BB.sum(1).clamp(min=1)
    return (mean + 1e-8).sqrt()[:, None, None, None].expand(-1, 1, *features.shape[2:])


class Generator(nn.Module):
    """What is kept of a trained GAN."""

    def __init__(self, config: Config, spec: PictureSpec) -> None:
        super().__init__()
        self.config, self.spec, self.latent_shape = config, spec, (config.latent_size,)
        self.net = {"plain": Plain, "style": Style}[config.generator](config, spec)
        self.classes = (
            nn.Embedding(len(spec.classes), config.latent_size)
            if config.conditional
            else None
        )
        if self.classes is not None:
            nn.init.normal_(self.classes.weight, std=CLASS_SCALE)
        self.controls = frozenset(
            {"truncation", *(["label"] if config.conditional else [])}
        )

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device

    def forward(self, z: Tensor, label: Tensor | None) -> Tensor:
        return self.net(z, self._given(label))

    def _given(self, label: Tensor | None) -> Tensor | None:
        return None if self.classes is None else self.classes(label)

    def draw(self, count: int, generator: torch.Generator | None = None) -> Tensor:
        return torch.randn(
            count, self.config.latent_size, generator=generator, device=self.device
        )

    def decode(self, latent: Tensor, label: Tensor | None = None) -> Tensor:
        return self(latent, labels_for(self, len(latent), label, None, self.device))

    def paint(
        self,
        count: int,
        *,
        label: Tensor | None = None,
        source: Tensor | None = None,
        truncation: float = 1.0,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        z = self.draw(count, generator)
        return self.net.truncated(
            z,
            self._given(labels_for(self, count, label, generator, self.device)),
            truncation,
        )


class Duel(Objective):
    """Critic, penalty, generator: three phases. Validation: sliced Wasserstein distance
    to held-out pictures, for early stopping and to see collapse; `evaluate` judges on
    real features.
    """

    unit = "pictures"

    def __init__(self, config: Config, spec: PictureSpec) -> None:
        super().__init__()
        self.generator = Generator(config, spec)
        self.adversary = Adversary(
            Critic(config, spec),
            config.loss,
            config.gamma,
            config.penalty_every,
            config.augment,
        )

    def phases(self) -> list[Phase]:
        return [
            *self.adversary.phases(self.pair),
            Phase("generator", self.generator, self.loss),
        ]

    def context(self, batch: Batch) -> Tensor | None:
        return batch["label"] if self.generator.config.conditional else None

    @torch.no_grad()
    def pair(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor | None]:
        real, label = batch["pixels"], self.context(batch)
        return real, self.generator(self.generator.draw(len(real)), label), label

    def loss(self, batch: Batch) -> Loss:
        real, label = batch["pixels"], self.context(batch)
        made = self.generator(self.generator.draw(len(real)), label)
        total = self.adversary.fool(real, made, label)
        if self.generator.config.spread:
            total = total + self.generator.config.spread * len(real) * lack_of_spread(
                real, made, label
            )
        return Loss(total, len(real))

    def validate(self, batch: Batch) -> Loss:
        real, made, _ = self.pair(batch)
        return Loss(len(real) * sliced_wasserstein(real, made), len(real))


def lack_of_spread(real: Tensor, made: Tensor, label: Tensor | None) -> Tensor:
    """The share by which made pictures of a class lie closer together than real ones; 0
    when they do not. Scalar.

    Distances are of neighbours in a batch sorted by class, on squares of four pixels:
    shapes, not noise. A one-sided relative of mode seeking (Mao et al. 2019,
    arXiv:1903.05628): a critic that sees few steps tells one picture of each class from
    none, not from many.
    """
    order = (
        torch.arange(len(real), device=real.device)
        if label is None
        else label.argsort()
    )
    alike = (
        torch.ones(len(real) - 1, device=real.device)
        if label is None
        else label[order].diff().eq(0).float()
    )
    of_real, of_made = (
        (F.avg_pool2d(x, 4)[order].diff(dim=0).abs().flatten(1).mean(1) * alike).sum()
        for x in (real, made)
    )
    return F.relu(of_real - of_made) / (of_real + 1e-8)


def build(config: Config, spec: PictureSpec) -> Duel:
    augment.check(config.augment)
    if config.conditional:
        need_classes(spec)
    return Duel(config, spec)


def save(objective: Duel, folder: Path) -> None:
    folders.write(objective.generator, NAME, folder)


def load(folder: Path) -> nn.Module:
    config, spec = folders.settings(folder)
    return folders.weights(Generator(Config(**config), spec), folder)


@torch.no_grad()
def sample(objective: Duel, dataset: Any, config: Any) -> Tensor:
    """uint8 [rows, columns, H, W, C]: a row of real pictures, then made ones; with
    classes, a column for each.
    """
    net, spec = objective.generator, dataset.spec
    columns = min(len(spec.classes), 10) if net.config.conditional else 8
    rows = max(config.pictures // columns, 1)
    label = (
        torch.arange(columns).repeat(rows).to(net.device)
        if net.config.conditional
        else None
    )
    made = net.paint(
        rows * columns,
        label=label,
        generator=torch.Generator(net.device).manual_seed(0),
    )
    return to_pixels(made).unflatten(0, (rows, columns))
