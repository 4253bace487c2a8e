"""EfficientNet-Lite0 with heads of our own, as Transformers models: they save, load and
take adapters as any other does.

    classes     W · mean(features)                                          one label
    boxes       a heat map for each class, and distances to the four sides  (Liu et al. 2019, arXiv:1909.00700)
    masks       logits for each class at a quarter of the size

Boxes and masks read a feature pyramid (Lin et al. 2016, arXiv:1612.03144): maps of
strides 4, 8, 16 and 32 are brought to one width and added from the coarsest to the
finest.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import (
    AutoConfig,
    AutoModelForImageClassification,
    AutoModelForObjectDetection,
    AutoModelForSemanticSegmentation,
    PretrainedConfig,
    PreTrainedModel,
)
from transformers.modeling_outputs import (
    ImageClassifierOutput,
    ModelOutput,
    SemanticSegmenterOutput,
)

from miaobi.models import efficientnet
from miaobi.models.efficientnet import EfficientNetLite0, same

LEVELS = {2: 24, 4: 40, 10: 112, 15: 320}
"""Blocks whose outputs are read, and their channels: the last of each stride, 4, 8, 16 and 32."""
GROUPS = 8
RARE = 0.05
"""The share of places that a fresh heat map takes for a centre (Lin et al. 2017,
arXiv:1708.02002: begin with few).
"""


class LiteConfig(PretrainedConfig):
    model_type = "miaobi-efficientnet-lite0"

    def __init__(
        self,
        dropout: float = 0.0,
        pyramid: int = 64,
        initializer_range: float = 0.01,
        **settings: Any,
    ) -> None:
        self.dropout, self.pyramid, self.initializer_range = (
            dropout,
            pyramid,
            initializer_range,
        )
        super().__init__(**settings)


class Lite(PreTrainedModel):
    """What the three share: the trunk, and how fresh weights begin."""

    config_class = LiteConfig
    base_model_prefix = "trunk"
    main_input_name = "pixel_values"

    def __init__(self, config: LiteConfig) -> None:
        super().__init__(config)
        self.trunk = EfficientNetLite0()
        del self.trunk._fc  # ImageNet's classes

    def read_packaged(self) -> None:
        """Take over the packaged weights. Raises what fetching the pack raises."""
        own = self.trunk.state_dict()
        self.trunk.load_state_dict(
            {
                name: value
                for name, value in efficientnet.pretrained().state_dict().items()
                if name in own
            }
        )


class LiteForImageClassification(Lite):
    """pixel_values [B, 3, H, W] -> logits [B, num_labels]."""

    def __init__(self, config: LiteConfig) -> None:
        super().__init__(config)
        self.dropout, self.classifier = (
            nn.Dropout(config.dropout),
            nn.Linear(efficientnet.WIDTH, config.num_labels),
        )
        self.post_init()

    def forward(
        self,
        pixel_values: Tensor | None = None,
        features: Tensor | None = None,
        **_: Any,
    ) -> ImageClassifierOutput:
        """features [B, 1280]: what the trunk made of the pictures, where that is known already."""
        found = self.trunk(pixel_values) if features is None else features
        return ImageClassifierOutput(logits=self.classifier(self.dropout(found)))


class Pyramid(nn.Module):
    """Maps of strides 4 to 32 -> [B, width, H/4, W/4]."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.lateral = nn.ModuleList(
            nn.Conv2d(channels, width, 1) for channels in LEVELS.values()
        )
        self.smooth = nn.Sequential(
            nn.Conv2d(width, width, 3, padding=1),
            nn.GroupNorm(GROUPS, width),
            nn.ReLU(),
        )

    def forward(self, maps: list[Tensor]) -> Tensor:
        found: Tensor | None = None
        for lateral, level in zip(reversed(self.lateral), reversed(maps), strict=True):
            here = lateral(level)
            found = (
                here
                if found is None
                else here + F.interpolate(found, here.shape[2:], mode="nearest")
            )
        return self.smooth(found)


class _WithPyramid(Lite):
    def __init__(self, config: LiteConfig) -> None:
        super().__init__(config)
        del self.trunk._conv_head
        self.pyramid = Pyramid(config.pyramid)

    def finest(self, pixel_values: Tensor) -> Tensor:
        """[B, pyramid, H/4, W/4]."""
        x, maps = F.relu6(same(self.trunk._conv_stem, pixel_values)), []
        for place, block in enumerate(self.trunk._blocks):
            x = block(x)
            if place in LEVELS:
                maps.append(x)
        return self.pyramid(maps)


class LiteForObjectDetection(_WithPyramid):
    """pixel_values [B, 3, H, W] -> heat [B, num_labels, H/4, W/4], logits; sides [B, 4,
    H/4, W/4], distances in pixels from a place's middle to left, top, right and bottom,
    above 0.
    """

    def __init__(self, config: LiteConfig) -> None:
        super().__init__(config)
        width = config.pyramid
        self.heat_tower, self.side_tower = (
            nn.Sequential(
                nn.Conv2d(width, width, 3, padding=1),
                nn.GroupNorm(GROUPS, width),
                nn.ReLU(),
            )
            for _ in range(2)
        )
        self.heat, self.sides = (
            nn.Conv2d(width, config.num_labels, 1),
            nn.Conv2d(width, 4, 1),
        )
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if module is self.heat:
            nn.init.constant_(module.bias, math.log(RARE / (1 - RARE)))

    def forward(self, pixel_values: Tensor, **_: Any) -> ModelOutput:
        found = self.finest(pixel_values)
        return ModelOutput(
            heat=self.heat(self.heat_tower(found)),
            sides=16 * F.softplus(self.sides(self.side_tower(found))),
        )


class LiteForSemanticSegmentation(_WithPyramid):
    """pixel_values [B, 3, H, W] -> logits [B, num_labels, H/4, W/4]."""

    def __init__(self, config: LiteConfig) -> None:
        super().__init__(config)
        self.dropout, self.classifier = (
            nn.Dropout2d(config.dropout),
            nn.Conv2d(config.pyramid, config.num_labels, 1),
        )
        self.post_init()

    def forward(self, pixel_values: Tensor, **_: Any) -> SemanticSegmenterOutput:
        return SemanticSegmenterOutput(
            logits=self.classifier(self.dropout(self.finest(pixel_values)))
        )


def register() -> None:
    """Make Transformers' Auto classes open what was saved here. May be called again."""
    AutoConfig.register(LiteConfig.model_type, LiteConfig, exist_ok=True)
    for auto, kind in (
        (AutoModelForImageClassification, LiteForImageClassification),
        (AutoModelForObjectDetection, LiteForObjectDetection),
        (AutoModelForSemanticSegmentation, LiteForSemanticSegmentation),
    ):
        auto.register(LiteConfig, kind, exist_ok=True)


def packaged(kind: type[Lite], **settings: Any) -> Lite:
    """One of the above with the packaged trunk and a fresh head."""
    net = kind(LiteConfig(**settings))
    net.read_packaged()
    return net


def blocks_of(net: nn.Module) -> str:
    """The name of the longest ModuleList or Sequential of equal blocks: the layers of a
    trunk. Empty where there is none.
    """
    lists = {
        name: len(module)
        for name, module in net.named_modules()
        if isinstance(module, nn.ModuleList) or name.endswith("_blocks")
    }
    return max(lists, key=lambda name: lists[name], default="")


def heads_of(net: nn.Module, names: tuple[str, ...]) -> tuple[str, ...]:
    """Those of the names that are modules inside the net."""
    own = {name.rpartition(".")[2] for name, _ in net.named_modules()}
    return tuple(name for name in names if name in own)
