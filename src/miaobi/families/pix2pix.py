"""Paired translation: from a picture to its partner of another kind, such as a line
drawing in colours.

    min_G max_D  L_adv(D(s, x), D(s, G(s))) + λ E|x - G(s)|

Isola et al. 2017 (arXiv:1611.07004): a U-Net with skip connections at each size, against
a critic of patches that sees the source too. The source itself is added at the end, so
only what changes has to be learned. The adversarial losses are those of
nn/adversarial.py.
Shapes: source s [B, C_s, H, W] -> x [B, C, H, W], both in [-1, 1].
"""

from __future__ import annotations

import itertools
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from miaobi.core.artifacts import Artifact
from miaobi.core.errors import BadInput
from miaobi.core.language import say
from miaobi.data.dataset import Dataset
from miaobi.data.image.prepared import PictureSpec
from miaobi.families.config import Pix2PixConfig as Config
from miaobi.nn import folder as folders
from miaobi.nn.adversarial import Adversary, PatchCritic, summed
from miaobi.nn.convolution import (
    SLOPE,
    Residual,
    Unpatchify,
    base_resolution,
    channels_last,
    conv,
    upsample2x,
)
from miaobi.nn.graphs import EXAMPLES, Graph
from miaobi.nn.image import UNCONDITIONAL, Conditions, offered, sheet_of
from miaobi.nn.objective import Batch, Loss, Objective, Phase
from miaobi.nn.sample import PictureSample as Sample

NAME, MODALITY, DATA = "pix2pix", "image", "pictures"
DATA_SETTINGS = {"pairs": True}


class UNet(nn.Module):
    """source [B, C_s, H, W] -> pictures [B, C, H, W]."""

    controls = frozenset({"image"})

    def __init__(self, config: Config, spec: PictureSpec) -> None:
        super().__init__()
        self.config = config
        self.spec = spec
        channels = base_resolution(spec, config.patch).widths(config.width)
        self.stem = conv(spec.source_channels * config.patch**2, channels[0])
        self.down = nn.ModuleList(
            Residual(a, b) for a, b in itertools.pairwise(channels)
        )
        self.middle = nn.Sequential(
            Residual(channels[-1], channels[-1]),
            nn.Dropout(config.dropout),
            Residual(channels[-1], channels[-1]),
        )
        self.up = nn.ModuleList(
            Residual(b + a, a) for a, b in itertools.pairwise(channels)
        )
        self.laid_out = Unpatchify(  # named in saved models
            channels[0], spec.channels, config.patch
        )
        self.through = nn.Conv2d(spec.source_channels, spec.channels, 1)
        nn.init.constant_(self.through.weight, 1 / spec.source_channels)
        assert self.through.bias is not None
        nn.init.zeros_(self.through.bias)
        channels_last(self)

    def forward(self, source: Tensor) -> Tensor:
        x = self.stem(F.pixel_unshuffle(source, self.config.patch))
        skips = [x]
        for block in self.down:
            x = block(F.avg_pool2d(x, 2))
            skips.append(x)
        x = self.middle(skips.pop())
        for block in reversed(self.up):
            x = block(torch.cat([upsample2x(x), skips.pop()], 1))
        change: Tensor = self.laid_out(F.leaky_relu(x, SLOPE))
        pictures: Tensor = self.through(source) + change
        return pictures

    def graphs(self) -> list[Graph]:
        """Return the translator."""
        spec = self.spec
        shape = (EXAMPLES, spec.source_channels, spec.height, spec.width)
        source = 2 * torch.rand(shape, generator=torch.Generator().manual_seed(0)) - 1
        return [Graph("translator", self.forward, {"source": source}, "pixels")]

    def paint(
        self,
        count: int,
        conditions: Conditions = UNCONDITIONAL,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        if conditions.source is None:
            raise BadInput(
                say(
                    "This model turns one picture into another and was given none.",
                    "此模型把一张图片变为另一张，但没有收到图片。",
                ),
                say("Give one with --image.", "请用 --image 给出图片。"),
            )
        pictures: Tensor = self(conditions.source)
        return pictures


class Translation(Objective):
    """Phases: the critic's, then the generator's. Validation: mean |x - G(s)|."""

    unit = "pictures"

    def __init__(self, config: Config, spec: PictureSpec) -> None:
        super().__init__()
        self.config = config
        self.net = UNet(config, spec)
        self.controls = offered(self.net)
        self.adversary = Adversary(
            PatchCritic(spec.channels + spec.source_channels, config.critic_width),
            config.loss,
            config.gamma,
        )

    def phases(self) -> list[Phase]:
        return [
            *self.adversary.phases(self.pair),
            Phase("generator", self.net, self.loss),
        ]

    @torch.no_grad()
    def pair(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        return batch["pixels"], self.net(batch["source"]), batch["source"]

    def loss(self, batch: Batch) -> Loss:
        x = batch["pixels"]
        source = batch["source"]
        generated = self.net(source)
        distance = summed((x - generated).abs())
        fooling = self.adversary.fool(x, generated, source)
        total = fooling + self.config.l1 * distance
        return Loss(total, len(x), {"l1": distance.detach()})

    def validate(self, batch: Batch) -> Loss:
        x = batch["pixels"]
        generated = self.net(batch["source"])
        return Loss(summed((x - generated).abs()), len(x))


def build(config: Config, spec: PictureSpec) -> Translation:
    if not spec.source_channels:
        raise BadInput(
            say(
                "pix2pix learns from pairs, and these pictures have no partners.",
                "pix2pix 需要成对的图片，而这些图片没有配对。",
            ),
            say(
                "Put them in two folders, source/ and target/, under equal names; or side by side on one picture, "
                "with --data.source side-by-side; or take the pack openmoji-pairs.",
                "请按相同文件名放进 source/ 与 target/ 两个文件夹；或左右拼接在一张图片上，并加 "
                "--data.source side-by-side；或使用资源包 openmoji-pairs。",
            ),
        )
    return Translation(config, spec)


def save(objective: Translation, folder: Path) -> None:
    folders.write(objective.net, NAME, folder)


def load(folder: Path) -> nn.Module:
    config, spec = folders.settings(folder)
    return folders.weights(UNet(Config(**config), spec), folder)


@torch.no_grad()
def sample(objective: Translation, dataset: Dataset, config: Sample) -> list[Artifact]:
    """Return held-out sources, their translations, and their partners, in turn."""
    net = objective.net
    columns = 8
    device = net.stem.weight.device
    batch = dataset.batch("validation", 0, max(config.pictures, columns), 0)
    sources = torch.split(batch["source"].to(device), columns)
    partners = torch.split(batch["pixels"].to(device), columns)
    rows = list[Tensor]()
    for source, partner in zip(sources, partners, strict=True):
        if len(source) == len(sources[0]):
            rows += [with_channels_of(partner, source), net(source), partner]
    titles = [say("source", "源图"), say("made", "生成"), say("true", "真实")]
    return sheet_of(rows, titles * (len(rows) // 3))


def with_channels_of(x: Tensor, source: Tensor) -> Tensor:
    """Return the source, grey or colour as x is, so that both fit on one sheet."""
    if source.shape[1] == x.shape[1]:
        return source
    return source.mean(1, keepdim=True).expand(-1, x.shape[1], -1, -1)
