"""A picture as a few dozen tokens, and back: an autoencoder with a quantised latent.

Finite scalar quantisation (Mentzer et al. 2023, arXiv:2309.15505): every latent channel
is squeezed into L_d levels and rounded; gradients pass as if nothing were rounded.

    ẑ_d = round(½(L_d - 1) tanh(z_d + shift) - offset),   token = Σ_d ẑ_d Π_{j<d} L_j

All Π L_d tokens are used without any further loss. Vector quantisation (van den Oord et
al. 2017, arXiv:1711.00937) takes the nearest of K learned vectors instead. They follow
the averages of what is assigned to them (ibid., appendix); unused ones are replaced by
latents of the batch.

Loss: |x - x̂| of the picture and of its differences at three sizes; later in the run also
an adversary's, on patches (Esser et al. 2021, arXiv:2012.09841). New pictures need a
model of the tokens; this family encodes and restores.
Shapes: x [B, C, H, W] in [-1, 1]; codes [B, D, h, w]; tokens int64 [B, h, w].
"""

from __future__ import annotations

from math import prod
from pathlib import Path

import torch
from torch import Tensor, distributed, nn
from torch.nn import functional as F

from miaobi.core.artifacts import Artifact
from miaobi.core.errors import BadInput
from miaobi.core.language import say
from miaobi.data.dataset import Dataset
from miaobi.data.image.prepared import PictureSpec
from miaobi.families.config import VQConfig as Config
from miaobi.nn import folder as folders
from miaobi.nn.adversarial import Adversary, PatchCritic
from miaobi.nn.convolution import Decoder, Encoder, base_resolution
from miaobi.nn.image import UNCONDITIONAL, Conditions, offered, sheet_of
from miaobi.nn.objective import Batch, Loss, Objective, Phase
from miaobi.nn.sample import PictureSample as Sample

NAME, MODALITY, DATA = "vq", "image", "pictures"


class FiniteScalars(nn.Module):
    """Finite scalar quantisation.

    Shapes: z [B, D, h, w] -> codes of the same shape in [-1, 1]; tokens [B, h, w]; a loss
    of 0.
    """

    levels: Tensor
    strides: Tensor

    def __init__(self, levels: list[int]) -> None:
        super().__init__()
        self.size = len(levels)
        self.count = prod(levels)
        strides = [prod(levels[:channel]) for channel in range(len(levels))]
        self.register_buffer(
            "levels", torch.tensor(levels).view(-1, 1, 1), persistent=False
        )
        self.register_buffer(
            "strides", torch.tensor(strides).view(-1, 1, 1), persistent=False
        )

    def forward(self, z: Tensor, learn: bool = False) -> tuple[Tensor, Tensor, Tensor]:
        half = (self.levels - 1) / 2 * 1.001
        offset = torch.where(self.levels % 2 == 0, 0.5, 0.0)
        squeezed = (z + (offset / half).atanh()).tanh() * half - offset
        rounded = squeezed + (squeezed.round() - squeezed).detach()
        digits = rounded.detach().round() + self.levels // 2
        tokens = (digits * self.strides).sum(1).long()
        return rounded / (self.levels // 2), tokens, torch.zeros((), device=z.device)

    def codes(self, tokens: Tensor) -> Tensor:
        """Return the codes [B, D, h, w] of tokens [B, h, w]."""
        digits = tokens[:, None] // self.strides % self.levels
        return (digits - self.levels // 2) / (self.levels // 2)


class Codebook(nn.Module):
    """Vector quantisation.

    Shapes: z [B, D, h, w] -> the nearest vectors, likewise; their numbers [B, h, w]; the
    distance of z to them, a loss summed over pictures.

    Args:
        count: vectors.
        size: their length D.
        commitment: weight of the loss.
        decay: of the averages that the vectors follow.
    """

    vectors: Tensor
    sums: Tensor
    uses: Tensor

    def __init__(
        self, count: int, size: int, commitment: float, decay: float = 0.99
    ) -> None:
        super().__init__()
        self.size = size
        self.count = count
        self.commitment = commitment
        self.decay = decay
        vectors = torch.randn(count, size)
        self.register_buffer("vectors", vectors)
        self.register_buffer("sums", vectors.clone())
        self.register_buffer("uses", torch.ones(count))

    def forward(self, z: Tensor, learn: bool = False) -> tuple[Tensor, Tensor, Tensor]:
        flat = z.permute(0, 2, 3, 1).flatten(0, 2)
        tokens = torch.cdist(flat.detach(), self.vectors).argmin(1)
        if learn:
            self._update(flat.detach(), tokens)
        token_grid = tokens.view(len(z), *z.shape[2:])
        codes = self.codes(token_grid)
        distance = (z - codes).square().flatten(1).mean(1)
        loss = self.commitment * distance.sum()
        return z + (codes - z).detach(), token_grid, loss

    @torch.no_grad()
    def _update(self, flat: Tensor, tokens: Tensor) -> None:
        """Move each vector towards the mean of the latents assigned to it.

        flat: latents [N, D]; tokens: the vector of each [N].
        """
        ones = torch.ones_like(tokens, dtype=flat.dtype)
        uses = torch.zeros_like(self.uses).index_add_(0, tokens, ones)
        sums = torch.zeros_like(self.sums).index_add_(0, tokens, flat)
        spare = flat[torch.randint(len(flat), (self.count,), device=flat.device)]
        if distributed.is_initialized():
            distributed.all_reduce(uses)
            distributed.all_reduce(sums)
            distributed.broadcast(spare, 0)
        self.uses.lerp_(uses, 1 - self.decay)
        self.sums.lerp_(sums, 1 - self.decay)
        idle = self.uses < 0.05
        self.sums[idle] = spare[idle]
        self.uses[idle] = 1.0
        self.vectors.copy_(self.sums / self.uses[:, None])

    def codes(self, tokens: Tensor) -> Tensor:
        """Return the codes [B, D, h, w] of tokens [B, h, w]."""
        return self.vectors[tokens].permute(0, 3, 1, 2)


class Tokenizer(nn.Module):
    """Encoder, quantiser, decoder. What it paints are restorations of a source picture."""

    controls = frozenset({"image"})

    def __init__(self, config: Config, spec: PictureSpec) -> None:
        super().__init__()
        self.config = config
        self.spec = spec
        base = base_resolution(spec, config.patch, smallest=7)
        channels = base.widths(config.width)
        self.quantise: FiniteScalars | Codebook
        if config.quantiser == "fsq":
            self.quantise = FiniteScalars(config.levels)
        else:
            self.quantise = Codebook(
                config.codebook_size, config.code_size, config.commitment
            )
        self.encoder = Encoder(spec.channels, channels, config.patch)
        self.decoder = Decoder(spec.channels, channels, config.patch)
        self.into = nn.Conv2d(channels[-1], self.quantise.size, 1)
        self.out_of = nn.Conv2d(self.quantise.size, channels[-1], 1)
        self.latent_shape = (self.quantise.size, base.height, base.width)

    def forward(self, x: Tensor, learn: bool = False) -> tuple[Tensor, Tensor, Tensor]:
        """Return restored pictures, tokens [B, h, w], and the quantiser's loss.

        The loss is summed over pictures. `learn` updates a codebook's vectors.
        """
        codes, tokens, loss = self.quantise(self.into(self.encoder(x)), learn)
        return self.decode(codes), tokens, loss

    def restore(self, pixels: Tensor) -> Tensor:
        """Return pictures [B, C, H, W] after they went through their tokens."""
        pictures: Tensor = self(pixels)[0]
        return pictures

    def tokens(self, pixels: Tensor) -> Tensor:
        """Return the tokens [B, h, w] of pictures."""
        tokens: Tensor = self(pixels)[1]
        return tokens

    def of_tokens(self, tokens: Tensor) -> Tensor:
        """Return the pictures [B, C, H, W] of tokens [B, h, w]."""
        return self.decode(self.quantise.codes(tokens))

    def encode(self, pixels: Tensor, label: Tensor | None = None) -> Tensor:
        codes: Tensor = self.quantise(self.into(self.encoder(pixels)))[0]
        return codes

    def decode(self, latent: Tensor, label: Tensor | None = None) -> Tensor:
        pictures: Tensor = self.decoder(self.out_of(latent))
        return pictures

    def draw(self, count: int, generator: torch.Generator | None = None) -> Tensor:
        """Return codes of uniform random tokens, which seldom make a picture."""
        tokens = torch.randint(
            self.quantise.count,
            (count, *self.latent_shape[1:]),
            generator=generator,
            device=self.into.weight.device,
        )
        return self.quantise.codes(tokens)

    def paint(
        self,
        count: int,
        conditions: Conditions = UNCONDITIONAL,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        if conditions.source is None:
            raise BadInput(
                say(
                    "This model restores a picture from its tokens; it has none of its own.",
                    "此模型把图片变为词元再还原，不能凭空作画。",
                ),
                say("Give one with --image.", "请用 --image 给出图片。"),
            )
        return self.restore(conditions.source)


def detail_distance(x: Tensor, y: Tensor) -> Tensor:
    """Return |x - y| plus |∇x - ∇y| at full, half and quarter size; [B].

    ∇ is the difference of neighbours, along both sides.
    """
    total = l1(x, y)
    for _ in range(3):
        for axis in (2, 3):
            total = total + l1(x.diff(dim=axis), y.diff(dim=axis))
        x = F.avg_pool2d(x, 2)
        y = F.avg_pool2d(y, 2)
    return total


def l1(x: Tensor, y: Tensor) -> Tensor:
    """Return the mean |x - y| of each picture, [B]."""
    return (x - y).abs().flatten(1).mean(1)


def perplexity(tokens: Tensor, count: int) -> Tensor:
    """Return exp of the entropy of the tokens' frequencies, a scalar up to `count`."""
    uses = torch.bincount(tokens.flatten(), minlength=count).float()
    entropy: Tensor = torch.special.entr(uses / uses.sum()).sum()
    return entropy.exp()


class Compression(Objective):
    """The tokenizer, and an adversary that joins later.

    Metrics: l1, and the perplexity of a batch's tokens (how many are in use).
    """

    unit = "pictures"

    def __init__(self, config: Config, spec: PictureSpec) -> None:
        super().__init__()
        self.net = Tokenizer(config, spec)
        self.controls = offered(self.net)
        self.adversary: Adversary | None = None
        if config.adversary:
            self.adversary = Adversary(PatchCritic(spec.channels), gamma=config.gamma)

    def phases(self) -> list[Phase]:
        phases = [Phase("model", self.net, self.loss)]
        if self.adversary is not None:
            begins = self.net.config.adversary_begins
            phases += self.adversary.phases(self.pair, begins)
        return phases

    @torch.no_grad()
    def pair(self, batch: Batch) -> tuple[Tensor, Tensor, None]:
        return batch["pixels"], self.net.restore(batch["pixels"]), None

    def loss(self, batch: Batch) -> Loss:
        config = self.net.config
        x = batch["pixels"]
        restored, tokens, quantiser_loss = self.net(x, learn=self.training)
        total = detail_distance(x, restored).sum() + quantiser_loss
        if self.adversary is not None and self.progress >= config.adversary_begins:
            total = total + config.adversary * self.adversary.fool(x, restored, None)
        metrics = {
            "l1": l1(x, restored).sum().detach(),
            "perplexity": perplexity(tokens, self.net.quantise.count) * len(x),
        }
        return Loss(total, len(x), metrics)

    def validate(self, batch: Batch) -> Loss:
        """Return the loss of the restoration alone."""
        x = batch["pixels"]
        return Loss(detail_distance(x, self.net.restore(x)).sum(), len(x))


def build(config: Config, spec: PictureSpec) -> Compression:
    return Compression(config, spec)


def save(objective: Compression, folder: Path) -> None:
    folders.write(objective.net, NAME, folder)


def load(folder: Path) -> nn.Module:
    config, spec = folders.settings(folder)
    return folders.weights(Tokenizer(Config(**config), spec), folder)


@torch.no_grad()
def sample(objective: Compression, dataset: Dataset, config: Sample) -> list[Artifact]:
    """Return held-out pictures above their restorations."""
    net = objective.net
    columns = 8
    batch = dataset.batch("validation", 0, max(config.pictures, columns), 0)
    parts = torch.split(batch["pixels"].to(net.into.weight.device), columns)
    rows = list[Tensor]()
    for part in parts:
        if len(part) == len(parts[0]):
            rows += [part, net.restore(part)]
    titles = [say("held out", "留出"), say("restored", "重建")]
    return sheet_of(rows, titles * (len(rows) // 2))
