"""A picture as a few dozen tokens, and back: an autoencoder whose middle is quantised.

Finite scalar quantisation (Mentzer et al. 2023, arXiv:2309.15505): every channel of the
middle is squeezed into L_d levels and rounded,

    ẑ_d = round(½(L_d - 1) tanh(z_d + shift) - offset),   token = Σ_d ẑ_d Π_{j<d} L_j,   gradients pass as if nothing were rounded

so all Π L_d tokens are used without any further loss. Vector quantisation (van den Oord
et al. 2017, arXiv:1711.00937) takes the nearest of K learned vectors instead; they
follow the averages of what is assigned to them (ibid., appendix), those nobody takes
move to a picture's.

Loss: |x - x̂| on the picture and on its differences at three sizes; from a share of the
    run on, an adversary's patches besides (Esser et al. 2021, arXiv:2012.09841). New
    pictures need a model of the tokens; this family encodes and restores.
Shapes: x [B, C, H, W] in [-1, 1]; codes [B, D, h, w]; tokens int64 [B, h, w].
"""

from __future__ import annotations

from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, distributed, nn
from torch.nn import functional as F

from miaobi.core.errors import BadInput
from miaobi.core.language import say
from miaobi.data.image.prepared import PictureSpec
from miaobi.nn import folder as folders
from miaobi.nn.adversarial import Adversary, PatchCritic
from miaobi.nn.convolution import Decoder, Encoder, floor_of
from miaobi.nn.image import to_pixels
from miaobi.nn.objective import Batch, Loss, Objective, Phase

NAME, MODALITY, DATA = "vq", "image", "pictures"


@dataclass(frozen=True)
class Config:
    quantiser: Literal["fsq", "vq"] = "fsq"
    """fsq: finite scalars, nothing to tune. vq: a learned codebook."""
    levels: list[int] = field(default_factory=lambda: [8, 6, 5])
    """fsq: levels of each channel; their product is the number of tokens: [8,6,5] gives
    240, [8,5,5,5] 1,000, [7,5,5,5,5] 4,375.
    """
    codebook_size: int = 256
    """vq: tokens."""
    code_size: int = 8
    """vq: length of a token's vector."""
    commitment: float = 0.25
    """vq: how strongly the encoder is held to its vectors."""
    width: int = 32
    """Channels at the largest size; doubled at every halving, up to four times."""
    patch: int = 2
    """Pixels of a side that are read and written as one place: 1 is finest, 2 four
    times quicker.
    """
    adversary: float = 0.1
    """Weight of the adversary's loss; 0 for none."""
    adversary_begins: float = 0.6
    """Share of the run after which the adversary joins."""
    gamma: float = 0.1
    """The adversary's gradient penalty."""

    def __post_init__(self) -> None:
        if any(level < 2 for level in self.levels) or not self.levels:
            raise BadInput(
                say(
                    f"model.levels is {self.levels}.",
                    f"model.levels 为 {self.levels}。",
                ),
                say(
                    "Give at least one, each 2 or more, such as [8,6,5].",
                    "请至少给出一个，且每个不小于 2，例如 [8,6,5]。",
                ),
            )


class FiniteScalars(nn.Module):
    """z [B, D, h, w] -> codes of the same shape in [-1, 1], tokens [B, h, w]."""

    levels: Tensor
    places: Tensor

    def __init__(self, levels: list[int]) -> None:
        super().__init__()
        self.size, self.count = len(levels), prod(levels)
        self.register_buffer(
            "levels", torch.tensor(levels).view(-1, 1, 1), persistent=False
        )
        self.register_buffer(
            "places",
            torch.tensor([prod(levels[:at]) for at in range(len(levels))]).view(
                -1, 1, 1
            ),
            persistent=False,
        )

    def forward(self, z: Tensor, learn: bool = False) -> tuple[Tensor, Tensor, Tensor]:
        half = (self.levels - 1) / 2 * 1.001
        offset = torch.where(self.levels % 2 == 0, 0.5, 0.0)
        squeezed = (z + (offset / half).atanh()).tanh() * half - offset
        rounded = squeezed + (squeezed.round() - squeezed).detach()
        tokens = (
            ((rounded.detach().round() + self.levels // 2) * self.places).sum(1).long()
        )
        return rounded / (self.levels // 2), tokens, torch.zeros((), device=z.device)

    def codes(self, tokens: Tensor) -> Tensor:
        digits = tokens[:, None] // self.places % self.levels
        return (digits - self.levels // 2) / (self.levels // 2)


class Codebook(nn.Module):
    """z [B, D, h, w] -> the nearest vectors, their numbers [B, h, w], and the loss that
    holds z to them (summed over pictures).
    """

    vectors: Tensor
    sums: Tensor
    uses: Tensor

    def __init__(
        self, count: int, size: int, commitment: float, decay: float = 0.99
    ) -> None:
        super().__init__()
        self.size, self.count, self.commitment, self.decay = (
            size,
            count,
            commitment,
            decay,
        )
        start = torch.randn(count, size)
        self.register_buffer("vectors", start)
        self.register_buffer("sums", start.clone())
        self.register_buffer("uses", torch.ones(count))

    def forward(self, z: Tensor, learn: bool = False) -> tuple[Tensor, Tensor, Tensor]:
        flat = z.permute(0, 2, 3, 1).flatten(0, 2)
        tokens = torch.cdist(flat.detach(), self.vectors).argmin(1)
        if learn:
            self._follow(flat.detach(), tokens)
        grid = tokens.view(len(z), *z.shape[2:])
        codes = self.codes(grid)
        hold = self.commitment * (z - codes).square().flatten(1).mean(1).sum()
        return z + (codes - z).detach(), grid, hold

    @torch.no_grad()
    def _follow(self, flat: Tensor, tokens: Tensor) -> None:
        """Exponential averages of the count and the sum of what each vector was taken for."""
        uses = torch.zeros_like(self.uses).index_add_(
            0, tokens, torch.ones_like(tokens, dtype=flat.dtype)
        )
        sums = torch.zeros_like(self.sums).index_add_(0, tokens, flat)
        spare = flat[torch.randint(len(flat), (self.count,), device=flat.device)]
        if distributed.is_initialized():
            distributed.all_reduce(uses)
            distributed.all_reduce(sums)
            distributed.broadcast(spare, 0)
        self.uses.lerp_(uses, 1 - self.decay)
        self.sums.lerp_(sums, 1 - self.decay)
        idle = self.uses < 0.05
        self.sums[idle], self.uses[idle] = spare[idle], 1.0
        self.vectors.copy_(self.sums / self.uses[:, None])

    def codes(self, tokens: Tensor) -> Tensor:
        return self.vectors[tokens].permute(0, 3, 1, 2)


class Tokenizer(nn.Module):
    """Encoder, quantiser, decoder. It restores a picture that it is given (`image`)."""

    controls = frozenset({"image"})

    def __init__(self, config: Config, spec: PictureSpec) -> None:
        super().__init__()
        self.config, self.spec = config, spec
        self.floor = floor_of(spec, config.patch, smallest=7)
        channels = self.floor.widths(config.width)
        self.quantise = (
            FiniteScalars(config.levels)
            if config.quantiser == "fsq"
            else Codebook(config.codebook_size, config.code_size, config.commitment)
        )
        self.encoder, self.decoder = (
            kind(spec.channels, channels, config.patch) for kind in (Encoder, Decoder)
        )
        self.into = nn.Conv2d(channels[-1], self.quantise.size, 1)
        self.out_of = nn.Conv2d(self.quantise.size, channels[-1], 1)
        self.latent_shape = (self.quantise.size, self.floor.height, self.floor.width)

    def forward(self, x: Tensor, learn: bool = False) -> tuple[Tensor, Tensor, Tensor]:
        """Restored pictures, tokens, and the quantiser's loss, summed over pictures.
        `learn` moves a codebook's vectors.
        """
        codes, tokens, hold = self.quantise(self.into(self.encoder(x)), learn)
        return self.decode(codes), tokens, hold

    def tokens(self, pixels: Tensor) -> Tensor:
        return self(pixels)[1]

    def of_tokens(self, tokens: Tensor) -> Tensor:
        """Pictures of tokens [B, h, w]."""
        return self.decode(self.quantise.codes(tokens))

    def encode(self, pixels: Tensor, label: Tensor | None = None) -> Tensor:
        return self.quantise(self.into(self.encoder(pixels)))[0]

    def decode(self, latent: Tensor, label: Tensor | None = None) -> Tensor:
        return self.decoder(self.out_of(latent))

    def draw(self, count: int, generator: torch.Generator | None = None) -> Tensor:
        """Codes of tokens drawn alike: what lies between pictures, not a picture."""
        device = self.into.weight.device
        return self.quantise.codes(
            torch.randint(
                self.quantise.count,
                (count, *self.latent_shape[1:]),
                generator=generator,
                device=device,
            )
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
        if source is None:
            raise BadInput(
                say(
                    "This model restores a picture from its tokens; it has none of its own.",
                    "此模型把图片变为词元再还原，不能凭空作画。",
                ),
                say("Give one with --image.", "请用 --image 给出图片。"),
            )
        return self(source)[0]


def detail(x: Tensor, y: Tensor) -> Tensor:
    """|x - y| and the absolute difference of their neighbours' differences, at full,
    half and quarter size; [B].
    """
    total = (x - y).abs().flatten(1).mean(1)
    for _ in range(3):
        for axis in (2, 3):
            total = total + (x.diff(dim=axis) - y.diff(dim=axis)).abs().flatten(1).mean(
                1
            )
        x, y = F.avg_pool2d(x, 2), F.avg_pool2d(y, 2)
    return total


class Compression(Objective):
    """Metrics: l1, perplexity of the tokens in a batch (how many are in use)."""

    unit = "pictures"

    def __init__(self, config: Config, spec: PictureSpec) -> None:
        super().__init__()
        self.net = Tokenizer(config, spec)
        self.adversary = (
            Adversary(PatchCritic(spec.channels), gamma=config.gamma)
            if config.adversary
            else None
        )

    def phases(self) -> list[Phase]:
        own = [Phase("model", self.net, self.loss)]
        return (
            own
            if self.adversary is None
            else [
                *own,
                *self.adversary.phases(self.pair, self.net.config.adversary_begins),
            ]
        )

    @torch.no_grad()
    def pair(self, batch: Batch) -> tuple[Tensor, Tensor, None]:
        return batch["pixels"], self.net(batch["pixels"])[0], None

    def loss(self, batch: Batch) -> Loss:
        config, x = self.net.config, batch["pixels"]
        restored, tokens, hold = self.net(x, learn=self.training)
        total = detail(x, restored).sum() + hold
        if self.adversary is not None and self.progress >= config.adversary_begins:
            total = total + config.adversary * self.adversary.fool(x, restored, None)
        uses = torch.bincount(
            tokens.flatten(), minlength=self.net.quantise.count
        ).float()
        share = uses / uses.sum()
        perplexity = torch.special.entr(share).sum().exp()
        return Loss(
            total,
            len(x),
            {
                "l1": (x - restored).abs().flatten(1).mean(1).sum().detach(),
                "perplexity": perplexity * len(x),
            },
        )

    def validate(self, batch: Batch) -> Loss:
        """The restoration alone."""
        x = batch["pixels"]
        return Loss(detail(x, self.net(x)[0]).sum(), len(x))


def build(config: Config, spec: PictureSpec) -> Compression:
    return Compression(config, spec)


def save(objective: Compression, folder: Path) -> None:
    folders.write(objective.net, NAME, folder)


def load(folder: Path) -> nn.Module:
    config, spec = folders.settings(folder)
    return folders.weights(Tokenizer(Config(**config), spec), folder)


@torch.no_grad()
def sample(objective: Compression, dataset: Any, config: Any) -> Tensor:
    """Held-out pictures above what is restored of them, uint8 [rows, columns, H, W, C]."""
    net, columns = objective.net, 8
    x = dataset.batch("validation", 0, max(config.pictures, columns), 0)["pixels"].to(
        net.into.weight.device
    )
    rows = [
        row
        for part in x.split(columns)
        if len(part) == min(columns, len(x))
        for row in (part, net(part)[0])
    ]
    return torch.stack([to_pixels(row) for row in rows])
