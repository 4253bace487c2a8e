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
from collections.abc import Callable
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
from transformers.modeling_outputs import ImageClassifierOutput, SemanticSegmenterOutput
from transformers.utils.generic import ModelOutput

from miaobi.models import efficientnet
from miaobi.models.efficientnet import EfficientNetLite0, same

LEVELS = {2: 24, 4: 40, 10: 112, 15: 320}
"""Blocks whose outputs are read, and their channels: the last of each stride, 4, 8, 16 and 32."""
GROUPS = 8
RARE = 0.05
"""The share of positions that a fresh heat map takes for a centre (Lin et al. 2017,
arXiv:1708.02002: begin with few).
"""
SIDE_SCALE = 16
"""Pixels of a distance where its softplus is 1."""

# Transformers' classes have an __init_subclass__ without types, hence the ignores.


class LiteConfig(PretrainedConfig):  # type: ignore[no-untyped-call]
    model_type = "miaobi-efficientnet-lite0"

    def __init__(
        self,
        dropout: float = 0.0,
        pyramid: int = 64,
        initializer_range: float = 0.01,
        **settings: Any,
    ) -> None:
        self.dropout = dropout
        self.pyramid = pyramid
        self.initializer_range = initializer_range
        super().__init__(**settings)


class Lite(PreTrainedModel):  # type: ignore[no-untyped-call]
    """What the three share: the trunk, and how fresh weights begin."""

    config_class = LiteConfig
    base_model_prefix = "trunk"
    main_input_name = "pixel_values"

    def __init__(self, config: LiteConfig) -> None:
        super().__init__(config)
        self.trunk = EfficientNetLite0()
        del self.trunk._fc  # ImageNet's classes

    def initialise(self) -> None:
        """Give fresh weights their first values; called when all modules are there."""
        post_init: Callable[[], None] = self.post_init
        post_init()

    def read_packaged(self) -> None:
        """Take over the packaged weights. Raises what fetching the pack raises."""
        own_names = self.trunk.state_dict().keys()
        packaged = efficientnet.pretrained().state_dict()
        self.trunk.load_state_dict({name: packaged[name] for name in own_names})


def _label_count(config: LiteConfig) -> int:
    assert config.num_labels is not None
    return config.num_labels


class LiteForImageClassification(Lite):  # type: ignore[no-untyped-call]
    """pixel_values [B, 3, H, W] -> logits [B, num_labels]."""

    def __init__(self, config: LiteConfig) -> None:
        super().__init__(config)
        self.dropout = nn.Dropout(config.dropout)
        self.classifier = nn.Linear(efficientnet.WIDTH, _label_count(config))
        self.initialise()

    def forward(
        self,
        pixel_values: Tensor | None = None,
        features: Tensor | None = None,
        **_: Any,
    ) -> ImageClassifierOutput:
        """Return the logits.

        Args:
            pixel_values: pictures; None where features are given.
            features: [B, 1280], what the trunk made of the pictures before.
        """
        if features is None:
            features = self.trunk(pixel_values)
        return ImageClassifierOutput(logits=self.classifier(self.dropout(features)))


class Pyramid(nn.Module):
    """Maps of strides 4 to 32 -> [B, width, H/4, W/4]."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.lateral = nn.ModuleList(
            nn.Conv2d(channels, width, 1) for channels in LEVELS.values()
        )
        self.smooth = _tower(width)

    def forward(self, maps: list[Tensor]) -> Tensor:
        *finer, coarsest = (
            lateral(level) for lateral, level in zip(self.lateral, maps, strict=True)
        )
        merged = coarsest
        for level in reversed(finer):
            merged = level + F.interpolate(merged, level.shape[2:], mode="nearest")
        smoothed: Tensor = self.smooth(merged)
        return smoothed


def _tower(width: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(width, width, 3, padding=1),
        nn.GroupNorm(GROUPS, width),
        nn.ReLU(),
    )


class _WithPyramid(Lite):  # type: ignore[no-untyped-call]
    def __init__(self, config: LiteConfig) -> None:
        super().__init__(config)
        del self.trunk._conv_head
        self.pyramid = Pyramid(config.pyramid)

    def finest(self, pixel_values: Tensor) -> Tensor:
        """Return the pyramid's features, [B, pyramid, H/4, W/4]."""
        x = F.relu6(same(self.trunk._conv_stem, pixel_values))
        maps = list[Tensor]()
        for number, block in enumerate(self.trunk._blocks):
            x = block(x)
            if number in LEVELS:
                maps.append(x)
        features: Tensor = self.pyramid(maps)
        return features


class LiteForObjectDetection(_WithPyramid):  # type: ignore[no-untyped-call]
    """pixel_values [B, 3, H, W] -> heat and sides.

    heat [B, num_labels, H/4, W/4]: logits. sides [B, 4, H/4, W/4]: distances in pixels
    from a position's middle to left, top, right and bottom, above 0.
    """

    def __init__(self, config: LiteConfig) -> None:
        super().__init__(config)
        width = config.pyramid
        self.heat_tower = _tower(width)
        self.side_tower = _tower(width)
        self.heat = nn.Conv2d(width, _label_count(config), 1)
        self.sides = nn.Conv2d(width, 4, 1)
        self.initialise()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        initialise: Callable[[nn.Module], None] = super()._init_weights
        initialise(module)
        if module is self.heat:
            assert self.heat.bias is not None
            nn.init.constant_(self.heat.bias, math.log(RARE / (1 - RARE)))

    def forward(self, pixel_values: Tensor, **_: Any) -> ModelOutput:
        features = self.finest(pixel_values)
        output: Callable[..., ModelOutput] = ModelOutput
        return output(
            heat=self.heat(self.heat_tower(features)),
            sides=SIDE_SCALE * F.softplus(self.sides(self.side_tower(features))),
        )


class LiteForSemanticSegmentation(_WithPyramid):  # type: ignore[no-untyped-call]
    """pixel_values [B, 3, H, W] -> logits [B, num_labels, H/4, W/4]."""

    def __init__(self, config: LiteConfig) -> None:
        super().__init__(config)
        self.dropout = nn.Dropout2d(config.dropout)
        self.classifier = nn.Conv2d(config.pyramid, _label_count(config), 1)
        self.initialise()

    def forward(self, pixel_values: Tensor, **_: Any) -> SemanticSegmenterOutput:
        features = self.dropout(self.finest(pixel_values))
        return SemanticSegmenterOutput(logits=self.classifier(features))


def register() -> None:
    """Let Transformers' Auto classes open what was saved here. May be called again."""
    AutoConfig.register(LiteConfig.model_type, LiteConfig, exist_ok=True)
    for auto, kind in (
        (AutoModelForImageClassification, LiteForImageClassification),
        (AutoModelForObjectDetection, LiteForObjectDetection),
        (AutoModelForSemanticSegmentation, LiteForSemanticSegmentation),
    ):
        auto.register(LiteConfig, kind, exist_ok=True)


def packaged(kind: type[Lite], **settings: Any) -> Lite:
    """Return one of the above with the packaged trunk and a fresh head."""
    net = kind(LiteConfig(**settings))
    net.read_packaged()
    return net


def blocks_of(net: nn.Module) -> str:
    """Return the name of the layers of a trunk; empty where there are none.

    This is the longest ModuleList or Sequential of equal blocks.
    """
    lists = {
        name: len(module)
        for name, module in net.named_modules()
        if isinstance(module, nn.ModuleList)
        or (isinstance(module, nn.Sequential) and name.endswith("_blocks"))
    }
    return max(lists, key=lambda name: lists[name], default="")


def heads_of(net: nn.Module, names: tuple[str, ...]) -> tuple[str, ...]:
    """Return those of the names that are modules inside the net."""
    own_names = {name.rpartition(".")[2] for name, _ in net.named_modules()}
    return tuple(name for name in names if name in own_names)
