"""The eye sees: real pictures are recognised, and folding normalisation away changes nothing."""

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


def plainly(stored: dict[str, torch.Tensor], x: torch.Tensor) -> torch.Tensor:
    """The network as its authors describe it: convolution, normalisation and activation
    one after another.
    """

    def norm(name: str, x: torch.Tensor) -> torch.Tensor:
        return F.batch_norm(
            x,
            stored[f"{name}.running_mean"],
            stored[f"{name}.running_var"],
            stored[f"{name}.weight"],
            stored[f"{name}.bias"],
            eps=1e-3,
        )

    def conv(
        name: str, x: torch.Tensor, stride: int = 1, groups: int = 1
    ) -> torch.Tensor:
        weight = stored[f"{name}.weight"]
        total = max(
            (-(-x.shape[2] // stride) - 1) * stride + weight.shape[2] - x.shape[2], 0
        )
        return F.conv2d(
            nn.ZeroPad2d((total // 2, total - total // 2) * 2)(x),
            weight,
            stride=stride,
            groups=groups,
        )

    x, place = F.relu6(norm("_bn0", conv("_conv_stem", x, 2))), 0
    for count, _, stride, widening, _ in efficientnet.STAGES:
        for repeat in range(count):
            name, y = f"_blocks.{place}.", x
            if widening > 1:
                y = F.relu6(norm(f"{name}_bn0", conv(f"{name}_expand_conv", y)))
            y = F.relu6(
                norm(
                    f"{name}_bn1",
                    conv(
                        f"{name}_depthwise_conv", y, 1 if repeat else stride, y.shape[1]
                    ),
                )
            )
            y = norm(f"{name}_bn2", conv(f"{name}_project_conv", y))
            x, place = (x + y if x.shape == y.shape else y), place + 1
    x = F.relu6(norm("_bn1", conv("_conv_head", x))).mean((2, 3))
    return F.linear(x, stored["_fc.weight"], stored["_fc.bias"])


@pytest.mark.parametrize("side", [224, 112, 75])
def test_folded_it_is_the_network_of_the_file(
    stored: dict[str, torch.Tensor], side: int
) -> None:
    x = torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        torch.testing.assert_close(
            efficientnet.pretrained().classify(x),
            plainly(stored, x),
            rtol=1e-3,
            atol=1e-3,
        )


def test_features_of_grey_and_colour_of_any_size(
    stored: dict[str, torch.Tensor],
) -> None:
    draw = np.random.default_rng(0)
    grey = draw.integers(0, 256, (3, 28, 28, 1), dtype=np.uint8)
    found = efficientnet.features(grey)
    assert (
        found.shape == (3, 1280)
        and found.dtype == np.float32
        and np.isfinite(found).all()
    )
    np.testing.assert_allclose(
        efficientnet.features(grey.repeat(3, axis=3)), found, atol=1e-4
    )
    np.testing.assert_allclose(efficientnet.features(grey[1:2]), found[1:2], atol=1e-4)
    assert efficientnet.features(
        draw.integers(0, 256, (1, 90, 130, 3), dtype=np.uint8)
    ).shape == (1, 1280)


def test_small_pictures_are_looked_at_small() -> None:
    assert (
        efficientnet.side_for(28, 28) == efficientnet.side_for(64, 40) == 112
        and efficientnet.side_for(28, 65) == 224
    )


def test_preparation_is_its_authors() -> None:
    x = efficientnet.prepared(
        torch.tensor([0, 127, 255], dtype=torch.uint8)
        .reshape(1, 1, 1, 3)
        .expand(1, 8, 8, 3),
        8,
    )
    assert x[0, :, 0, 0].tolist() == [-127 / 128, 0, 1.0]
    black_and_white = torch.zeros(1, 2, 2, 1, dtype=torch.uint8)
    black_and_white[0, 0] = 255
    big = efficientnet.prepared(black_and_white, 16)
    assert big.min() >= -127 / 128 and big.max() <= 1  # bicubic would overshoot


@pytest.mark.parametrize(
    ("code", "number"),
    [("2614", 879), ("26bd", 805), ("1f427", 145), ("1f33d", 987), ("1f98b", 323)],
    ids=["umbrella", "soccer ball", "king penguin", "corn", "monarch butterfly"],
)
@pytest.mark.parametrize("side", [112, 224])
def test_real_pictures_are_recognised(
    pack: Callable[[str], Path], code: str, number: int, side: int
) -> None:
    """Emoji, 64 pixels: no photographs, and still the right one of ImageNet's thousand
    classes is among the first five.
    """
    from PIL import Image

    found = next(pack("emoji").rglob(f"{code}.png"))
    with Image.open(found) as picture:
        ground = Image.new("RGBA", picture.size, "white")
        ground.alpha_composite(picture.convert("RGBA"))
    with torch.inference_mode():
        logits = efficientnet.pretrained().classify(
            efficientnet.prepared(
                torch.tensor(np.array(ground.convert("RGB")))[None], side
            )
        )
    assert number in logits[0].topk(5).indices.tolist()
