"""A generative adversarial network: a generator turns noise into pictures that a critic
learns to distinguish from real ones.

    x = G(z, y),  z ~ N(0, I);   the two losses are in nn/adversarial.py

Plain generator: z → linear → residual blocks, each doubling the sides.

Style-based generator (Karras et al. 2019, 2020: arXiv:1812.04948, arXiv:1912.04958):
w = f(z, y) modulates every convolution,

    W'_oik = s_i W_oik,   W''_oik = W'_oik / √(Σ_ik W'_oik² + ε),   s = A w

written as a scale of its inputs and of its outputs, so that one ordinary convolution
serves the whole batch. Noise is added at each size; the picture is the sum of what every
size adds. In training a second w may replace the first from some level on (mixing).
w ← w̄ + ψ (w - w̄) trades variety for quality (truncation).

Critic: residual blocks that halve the sides, and the variety of the batch. Classes enter
by projection, D(x, y) = v·h(x) + e_y·h(x) (Miyato & Koyama 2018, arXiv:1802.05637).

Shapes: x [B, C, H, W] in [-1, 1]; z [B, D]; class vectors [B, D]; w [B, S].
"""

from __future__ import annotations

import itertools
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from miaobi.core.artifacts import Artifact
from miaobi.core.language import say
from miaobi.data.dataset import Dataset
from miaobi.data.image.prepared import PictureSpec
from miaobi.families.config import GANConfig as Config
from miaobi.nn import augment
from miaobi.nn import folder as folders
from miaobi.nn.adversarial import Adversary
from miaobi.nn.convolution import (
    SLOPE,
    Decoder,
    Encoder,
    Unpatchify,
    base_resolution,
    channels_last,
    conv,
    upsample2x,
)
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
from miaobi.nn.sliced import sliced_wasserstein

NAME, MODALITY, DATA = "gan", "image", "pictures"
AVERAGED = 4096
"""Draws over which the mean style is taken."""
CLASS_SCALE = 0.2
"""Standard deviation of class vectors at first. As large as z, they would be all that
the generator learns to use.
"""


class Plain(nn.Module):
    """z [B, D], class vectors [B, D] or None -> pictures [B, C, H, W]."""

    def __init__(self, config: Config, spec: PictureSpec) -> None:
        super().__init__()
        self.base = base_resolution(spec, config.patch)
        channels = self.base.widths(config.width)
        self.start = nn.Linear(
            config.latent_size * (1 + config.conditional),
            channels[-1] * self.base.height * self.base.width,
        )
        self.decoder = Decoder(spec.channels, channels, config.patch)

    def forward(self, z: Tensor, class_BD: Tensor | None) -> Tensor:
        flat = self.start(with_class(z, class_BD))
        features = flat.view(len(z), -1, self.base.height, self.base.width)
        pictures: Tensor = self.decoder(features)
        return pictures

    def truncated(
        self, z: Tensor, class_BD: Tensor | None, truncation: float
    ) -> Tensor:
        """Return pictures of points nearer to the mean of the prior."""
        pictures: Tensor = self(truncation * z, class_BD)
        return pictures


def with_class(z: Tensor, class_BD: Tensor | None) -> Tensor:
    """Return z [B, D] beside its class vectors, [B, 2D]; z alone where there are none."""
    return z if class_BD is None else torch.cat([z, class_BD], 1)


class Modulated(nn.Module):
    """A convolution whose kernels w scales: x [B, C_in, H, W], w [B, S] -> [B, C_out, H, W].

    Args:
        inner: C_in.
        outer: C_out.
        style_size: S.
        kernel: side of the kernels.
        demodulate: whether the scaled kernels are normalised.
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
        fan_in = inner * kernel * kernel
        self.weight = nn.Parameter(
            torch.randn(outer, inner, kernel, kernel) / fan_in**0.5
        )
        self.bias = nn.Parameter(torch.zeros(outer))
        self.style = nn.Linear(style_size, inner)
        self.demodulate = demodulate
        nn.init.normal_(self.style.weight, std=style_size**-0.5)
        nn.init.ones_(self.style.bias)

    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        scale_BI = self.style(w)
        x = F.conv2d(x * scale_BI[:, :, None, None], self.weight, padding="same")
        if self.demodulate:
            energy_OI = self.weight.square().sum((2, 3))
            norm_BO = scale_BI.square() @ energy_OI.T
            x = x * (norm_BO + 1e-8).rsqrt()[:, :, None, None]
        return x + self.bias[:, None, None]


class StyleLayer(nn.Module):
    """A modulated convolution, noise (in training only), and a leaky ReLU."""

    def __init__(self, inner: int, outer: int, style_size: int) -> None:
        super().__init__()
        self.convolve = Modulated(inner, outer, style_size)
        self.noise = nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        x = self.convolve(x, w)
        if self.training:
            noise = torch.randn(x.shape[0], 1, *x.shape[2:], device=x.device)
            x = x + self.noise * noise
        return F.leaky_relu(x, SLOPE) * 2**0.5


class Style(nn.Module):
    """z [B, D], class vectors [B, D] or None -> pictures [B, C, H, W], through w [B, S].

    Noise is added in training only, so that a seed determines a picture.
    """

    def __init__(self, config: Config, spec: PictureSpec) -> None:
        super().__init__()
        self.latent_size = config.latent_size
        self.mixing = config.mixing
        size = config.style_size
        self.mapping = nn.Sequential(
            nn.Linear(config.latent_size * (1 + config.conditional), size),
            nn.LeakyReLU(SLOPE),
            nn.Linear(size, size),
            nn.LeakyReLU(SLOPE),
        )
        base = base_resolution(spec, config.patch)
        channels = base.widths(config.width)[::-1]
        self.start = nn.Parameter(torch.randn(1, channels[0], base.height, base.width))
        pairs = [(channels[0], channels[0]), *itertools.pairwise(channels)]
        self.layers = nn.ModuleList(
            nn.ModuleList([StyleLayer(a, b, size), StyleLayer(b, b, size)])
            for a, b in pairs
        )
        self.colours = nn.ModuleList(
            Modulated(b, channels[-1], size, kernel=1, demodulate=False)
            for _, b in pairs
        )
        self.laid_out = Unpatchify(  # named in saved models
            channels[-1], spec.channels, config.patch
        )
        channels_last(self)

    def forward(self, z: Tensor, class_BD: Tensor | None) -> Tensor:
        w = self.style_of(z, class_BD)
        if self.training and self.mixing:
            return self.synthesise(self.mixed(w, z, class_BD))
        return self.synthesise([w] * len(self.layers))

    def mixed(self, w: Tensor, z: Tensor, class_BD: Tensor | None) -> list[Tensor]:
        """Return a w for each level, where some pictures change to another style.

        Each picture that mixes changes at a level of its own; the others change after
        the last, that is, never.
        """
        levels = len(self.layers)
        other = self.style_of(torch.randn_like(z), class_BD)
        change_B1 = torch.randint(1, levels + 1, (len(z), 1), device=z.device)
        mixes_B1 = torch.rand(len(z), 1, device=z.device) < self.mixing
        change_B1 = torch.where(mixes_B1, change_B1, levels)
        return [torch.where(level < change_B1, w, other) for level in range(levels)]

    def style_of(self, z: Tensor, class_BD: Tensor | None) -> Tensor:
        """Return w [B, S]; z is normalised first."""
        mean_square = z.square().mean(1, keepdim=True)
        z = z * (mean_square + 1e-8).rsqrt()
        w: Tensor = self.mapping(with_class(z, class_BD))
        return w

    def synthesise(self, styles: list[Tensor]) -> Tensor:
        """Return pictures [B, C, H, W] of one w [B, S] for each level."""
        x = self.start.expand(len(styles[0]), -1, -1, -1)
        picture = torch.zeros((), device=self.start.device)
        levels = zip(self.layers, self.colours, styles, strict=True)
        for level, (layers, colour, w) in enumerate(levels):
            if level:
                x = upsample2x(x)
                picture = F.interpolate(picture, scale_factor=2, mode="bilinear")
            assert isinstance(layers, nn.ModuleList)
            for layer in layers:
                x = layer(x, w)
            picture = picture + colour(x, w)
        pixels: Tensor = self.laid_out(picture)
        return pixels

    def truncated(
        self, z: Tensor, class_BD: Tensor | None, truncation: float
    ) -> Tensor:
        """Return pictures of styles nearer to the mean style."""
        w = self.style_of(z, class_BD)
        if truncation < 1:
            mean = self.mean_style(class_BD)
            w = mean + truncation * (w - mean)
        return self.synthesise([w] * len(self.layers))

    def mean_style(self, class_BD: Tensor | None) -> Tensor:
        """Return w̄ over fixed draws of z: [S], or [B, S] by the picture's class."""
        generator = torch.Generator().manual_seed(0)
        draws = torch.randn(AVERAGED, self.latent_size, generator=generator)
        draws = draws.to(self.start.device)
        if class_BD is None:
            return self.style_of(draws, None).mean(0)
        classes, class_of_picture = torch.unique(class_BD, dim=0, return_inverse=True)
        means = [
            self.style_of(draws, vector.expand(AVERAGED, -1)).mean(0)
            for vector in classes
        ]
        return torch.stack(means)[class_of_picture]


class Critic(nn.Module):
    """pictures [B, C, H, W], classes [B] or None -> logits [B]."""

    def __init__(self, config: Config, spec: PictureSpec) -> None:
        super().__init__()
        base = base_resolution(spec, config.patch)
        channels = base.widths(config.width)
        self.encoder = Encoder(spec.channels, channels, config.patch)
        self.gather = nn.Sequential(
            conv(channels[-1] + 1, channels[-1]),
            nn.LeakyReLU(SLOPE),
            nn.Flatten(),
            nn.Linear(channels[-1] * base.height * base.width, channels[-1]),
            nn.LeakyReLU(SLOPE),
        )
        self.head = nn.Linear(channels[-1], 1)
        self.of_class: nn.Embedding | None = None
        if config.conditional:
            self.of_class = nn.Embedding(len(spec.classes), channels[-1])
        channels_last(self)

    def forward(self, pictures: Tensor, label: Tensor | None) -> Tensor:
        features_BCHW = self.encoder(pictures)
        channels = [features_BCHW, variety(features_BCHW, label)]
        features_BC: Tensor = self.gather(torch.cat(channels, 1))
        logits_B1: Tensor = self.head(features_BC)
        logits = logits_B1[:, 0]
        if self.of_class is None:
            return logits
        class_BC: Tensor = self.of_class(label)
        projection = (class_BC * features_BC).sum(1)
        scale: float = features_BC.shape[1] ** -0.5
        return logits + projection * scale


def variety(features: Tensor, label: Tensor | None) -> Tensor:
    """Return how far each picture lies from the others of its class in the batch.

    One more channel for the critic, [B, C, H, W] -> [B, 1, H, W], by which a generator
    that repeats itself is recognised (minibatch features: Salimans et al. 2016,
    arXiv:1606.03498).
    """
    flat = features.flatten(1)
    squares = flat.square().sum(1)
    distance_BB = squares[:, None] + squares - 2 * flat @ flat.T
    distance_BB = distance_BB.clamp(min=0) / flat.shape[1]
    alike_BB = torch.ones_like(distance_BB)
    if label is not None:
        alike_BB = (label[:, None] == label).to(flat.dtype)
    alike_BB = alike_BB - torch.eye(len(flat), device=flat.device)
    count = alike_BB.sum(1).clamp(min=1)
    mean = (distance_BB * alike_BB).sum(1) / count
    deviation = (mean + 1e-8).sqrt()
    return deviation[:, None, None, None].expand(-1, 1, *features.shape[2:])


class Generator(nn.Module):
    """The part of a trained GAN that is saved."""

    def __init__(self, config: Config, spec: PictureSpec) -> None:
        super().__init__()
        self.config = config
        self.spec = spec
        self.latent_shape = (config.latent_size,)
        self.controls = frozenset({"truncation"})
        self.net: Plain | Style
        if config.generator == "style":
            self.net = Style(config, spec)
        else:
            self.net = Plain(config, spec)
        self.classes: nn.Embedding | None = None
        if config.conditional:
            self.classes = nn.Embedding(len(spec.classes), config.latent_size)
            nn.init.normal_(self.classes.weight, std=CLASS_SCALE)
            self.controls = frozenset({"truncation", "label"})

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device

    def forward(self, z: Tensor, label: Tensor | None) -> Tensor:
        pictures: Tensor = self.net(z, self._class_vectors(label))
        return pictures

    def _class_vectors(self, label: Tensor | None) -> Tensor | None:
        return None if self.classes is None else self.classes(label)

    def draw(self, count: int, generator: torch.Generator | None = None) -> Tensor:
        """Return draws of z, [count, D]."""
        return torch.randn(
            count,
            self.config.latent_size,
            generator=generator,
            device=self.device,
        )

    def decode(self, latent: Tensor, label: Tensor | None = None) -> Tensor:
        """Return the pictures of z, untruncated."""
        label = labels_for(self, len(latent), label, None, self.device)
        pictures: Tensor = self(latent, label)
        return pictures

    def paint(
        self,
        count: int,
        conditions: Conditions = UNCONDITIONAL,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        z = self.draw(count, generator)
        label = labels_for(self, count, conditions.label, generator, self.device)
        class_BD = self._class_vectors(label)
        return self.net.truncated(z, class_BD, conditions.truncation)


class Duel(Objective):
    """Critic, penalty, generator: three phases.

    Validation is the sliced Wasserstein distance to held-out pictures, for early
    stopping and to see a collapse; `evaluate` compares features of a trained network.
    """

    unit = "pictures"

    def __init__(self, config: Config, spec: PictureSpec) -> None:
        super().__init__()
        self.generator = Generator(config, spec)
        self.controls = offered(self.generator)
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
        """Return the classes of a batch, for a conditional model."""
        return batch["label"] if self.generator.config.conditional else None

    def generate(self, count: int, label: Tensor | None) -> Tensor:
        """Return `count` generated pictures [B, C, H, W], differentiable."""
        pictures: Tensor = self.generator(self.generator.draw(count), label)
        return pictures

    @torch.no_grad()
    def pair(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor | None]:
        """Return real and generated pictures with their classes, for the critic."""
        real = batch["pixels"]
        label = self.context(batch)
        generated = self.generate(len(real), label)
        return real, generated, label

    def loss(self, batch: Batch) -> Loss:
        real = batch["pixels"]
        label = self.context(batch)
        generated = self.generate(len(real), label)
        total = self.adversary.fool(real, generated, label)
        spread = self.generator.config.spread
        if spread:
            lack = lack_of_spread(real, generated, label)
            total = total + spread * len(real) * lack
        return Loss(total, len(real))

    def validate(self, batch: Batch) -> Loss:
        real, generated, _ = self.pair(batch)
        return Loss(len(real) * sliced_wasserstein(real, generated), len(real))


def lack_of_spread(real: Tensor, generated: Tensor, label: Tensor | None) -> Tensor:
    """Return by which share generated pictures of a class differ less than real ones.

    A scalar; 0 where they differ as much. Distances are between neighbours in a batch
    sorted by class, on squares of four pixels: shapes, not noise. A one-sided relative
    of mode seeking (Mao et al. 2019, arXiv:1903.05628): within few steps a critic learns
    to miss a class that has no picture, not one that has a single picture.
    """
    order = torch.arange(len(real), device=real.device)
    alike = torch.ones(len(real) - 1, device=real.device)
    if label is not None:
        order = label.argsort()
        alike = label[order].diff().eq(0).float()
    real_spread = neighbour_distance(real[order], alike)
    generated_spread = neighbour_distance(generated[order], alike)
    return F.relu(real_spread - generated_spread) / (real_spread + 1e-8)


def neighbour_distance(pictures: Tensor, weight: Tensor) -> Tensor:
    """Return Σ_b weight_b |x_{b+1} - x_b| on squares of four pixels; weight [B - 1]."""
    coarse = F.avg_pool2d(pictures, 4)
    distance = coarse.diff(dim=0).abs().flatten(1).mean(1)
    return (distance * weight).sum()


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
def sample(objective: Duel, dataset: Dataset, config: Sample) -> list[Artifact]:
    """Return generated pictures.

    A conditional model has a column for each class.
    """
    net = objective.generator
    columns = 8
    if net.config.conditional:
        columns = min(len(dataset.spec.classes), 10)
    rows = max(config.pictures // columns, 1)
    label = None
    if net.config.conditional:
        label = torch.arange(columns).repeat(rows).to(net.device)
    pictures = net.paint(
        rows * columns,
        Conditions(label=label),
        torch.Generator(net.device).manual_seed(0),
    )
    classes = dataset.spec.classes[:columns] if net.config.conditional else ()
    return sheet_of(torch.split(pictures, columns), [say("new", "新图")], classes)
