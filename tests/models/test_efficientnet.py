"""Real pictures are recognised, and folding normalisation away changes nothing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from miaobi.models import efficientnet


@pytest.fixture(scope="module")
def stored(pack: Callable[[str], Path]) -> dict[str, torch.Tensor]:
    return dict(torch.load(pack("efficientnet-lite0"), weights_only=True))


class Unfolded:
    """The network as its authors describe it.

    Convolution, normalisation and activation are one after another.
    """

    def __init__(self, stored: dict[str, torch.Tensor]) -> None:
        self.stored = stored

    def norm(self, name: str, x: torch.Tensor) -> torch.Tensor:
        return F.batch_norm(
            x,
            self.stored[f"{name}.running_mean"],
            self.stored[f"{name}.running_var"],
            self.stored[f"{name}.weight"],
            self.stored[f"{name}.bias"],
            eps=1e-3,
        )

    def conv(
        self,
        name: str,
        x: torch.Tensor,
        stride: int = 1,
        groups: int = 1,
    ) -> torch.Tensor:
        weight = self.stored[f"{name}.weight"]
        kernel = weight.shape[2]
        side = x.shape[2]
        outputs = -(-side // stride)
        padding = max((outputs - 1) * stride + kernel - side, 0)
        before = padding // 2
        after = padding - before
        pad = nn.ZeroPad2d((before, after, before, after))
        return F.conv2d(
            pad(x),
            weight,
            stride=stride,
            groups=groups,
        )

    def block(
        self,
        name: str,
        x: torch.Tensor,
        stride: int,
        widening: int,
    ) -> torch.Tensor:
        y = x
        if widening > 1:
            y = self.conv(f"{name}._expand_conv", y)
            y = F.relu6(self.norm(f"{name}._bn0", y))
        y = self.conv(
            f"{name}._depthwise_conv",
            y,
            stride,
            groups=y.shape[1],
        )
        y = F.relu6(self.norm(f"{name}._bn1", y))
        y = self.conv(f"{name}._project_conv", y)
        y = self.norm(f"{name}._bn2", y)
        if x.shape == y.shape:
            return x + y
        return y

    def classify(self, x: torch.Tensor) -> torch.Tensor:
        x = self.conv("_conv_stem", x, 2)
        x = F.relu6(self.norm("_bn0", x))
        number = 0
        for count, _, stride, widening, _ in efficientnet.STAGES:
            for repeat in range(count):
                x = self.block(
                    f"_blocks.{number}",
                    x,
                    1 if repeat else stride,
                    widening,
                )
                number += 1
        x = self.conv("_conv_head", x)
        x = F.relu6(self.norm("_bn1", x))
        return F.linear(
            x.mean((2, 3)),
            self.stored["_fc.weight"],
            self.stored["_fc.bias"],
        )


@pytest.mark.parametrize("side", [224, 112, 75])
def test_folded_it_is_the_network_of_the_file(
    stored: dict[str, torch.Tensor], side: int
) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 3, side, side, generator=generator)
    with torch.inference_mode():
        folded = efficientnet.pretrained().classify(x)
        unfolded = Unfolded(stored).classify(x)
    torch.testing.assert_close(folded, unfolded, rtol=1e-3, atol=1e-3)


def test_features_of_grey_and_colour_of_any_size(
    stored: dict[str, torch.Tensor],
) -> None:
    rng = np.random.default_rng(0)
    grey = rng.integers(0, 256, (3, 28, 28, 1), dtype=np.uint8)
    features = efficientnet.features(grey)
    assert features.shape == (3, 1280)
    assert features.dtype == np.float32
    assert np.isfinite(features).all()
    same_in_colour = grey.repeat(3, axis=3)
    colour = efficientnet.features(same_in_colour)
    np.testing.assert_allclose(colour, features, atol=1e-4)
    alone = efficientnet.features(grey[1:2])
    np.testing.assert_allclose(alone, features[1:2], atol=1e-4)
    wide = rng.integers(0, 256, (1, 90, 130, 3), dtype=np.uint8)
    assert efficientnet.features(wide).shape == (1, 1280)


def test_small_pictures_are_resized_to_a_small_side() -> None:
    assert efficientnet.side_for(28, 28) == 112
    assert efficientnet.side_for(64, 40) == 112
    assert efficientnet.side_for(28, 65) == 224


def test_preparation_is_its_authors() -> None:
    pixel = torch.tensor([0, 127, 255], dtype=torch.uint8)
    pixels = pixel.reshape(1, 1, 1, 3).expand(1, 8, 8, 3)
    x = efficientnet.prepared(pixels, 8)
    assert x[0, :, 0, 0].tolist() == [-127 / 128, 0, 1.0]
    black_and_white = torch.zeros(1, 2, 2, 1, dtype=torch.uint8)
    black_and_white[0, 0] = 255
    large = efficientnet.prepared(black_and_white, 16)
    # Bicubic would overshoot.
    assert large.min() >= -127 / 128
    assert large.max() <= 1


@pytest.mark.parametrize(
    ("code", "number"),
    [
        pytest.param("2614", 879, id="umbrella"),
        pytest.param("26bd", 805, id="soccer ball"),
        pytest.param("1f427", 145, id="king penguin"),
        pytest.param("1f33d", 987, id="corn"),
        pytest.param("1f98b", 323, id="monarch butterfly"),
    ],
)
@pytest.mark.parametrize("side", [112, 224])
def test_real_pictures_are_recognised(
    pack: Callable[[str], Path], code: str, number: int, side: int
) -> None:
    """Emoji, 64 pixels: no photographs, and still the right one of ImageNet's thousand
    classes is among the first five.
    """
    from PIL import Image

    path = next(pack("emoji").rglob(f"{code}.png"))
    with Image.open(path) as picture:
        ground = Image.new("RGBA", picture.size, "white")
        ground.alpha_composite(picture.convert("RGBA"))
    array = np.array(ground.convert("RGB"))
    pixels = torch.tensor(array)[None]
    with torch.inference_mode():
        x = efficientnet.prepared(pixels, side)
        logits = efficientnet.pretrained().classify(x)
    likeliest = logits[0].topk(5).indices
    assert number in likeliest.tolist()
