"""Walks through latent spaces whose answers are known: a linear decoder, circles,
dimensions that do nothing.
"""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from miaobi.data.image.prepared import PictureSpec
from miaobi.nn.latents import (
    activity,
    distance,
    effect,
    encoded,
    linear,
    project,
    rms,
    spherical,
)


class Linear(nn.Module):
    """x = z W + 0.5 y, with orthogonal rows of W of unlike lengths; cannot encode."""

    def __init__(self, latent: int = 5, side: int = 8, classes: int = 0) -> None:
        super().__init__()
        self.spec, self.latent_shape = (
            PictureSpec(1, side, side, tuple(map(str, range(classes)))),
            (latent,),
        )
        rows = torch.linalg.qr(
            torch.randn(side * side, latent, generator=torch.Generator().manual_seed(0))
        )[0].T
        self.register_buffer("weight", rows * torch.arange(1, latent + 1)[:, None] / 2)

    def draw(self, count: int, generator: torch.Generator | None = None) -> Tensor:
        return torch.randn(count, *self.latent_shape, generator=generator)

    def decode(self, latent: Tensor, label: Tensor | None = None) -> Tensor:
        picture = latent @ self.weight
        picture = picture if label is None else picture + 0.5 * label[:, None]
        return picture.view(-1, 1, self.spec.height, self.spec.width)


class Both(Linear):
    def encode(self, pixels: Tensor, label: Tensor | None = None) -> Tensor:
        return pixels.flatten(1) @ torch.linalg.pinv(self.weight)


def test_the_great_circle_keeps_the_norm_and_goes_evenly() -> None:
    a, b = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(1))
    b = b / b.norm() * a.norm()
    path = spherical(a, b, torch.linspace(0, 1, 9)).flatten(1)
    assert torch.allclose(path[0], a.flatten(), atol=1e-5)
    assert torch.allclose(path[-1], b.flatten(), atol=1e-5)
    assert torch.allclose(path.norm(dim=1), a.norm().expand(9), rtol=1e-5)
    steps = (path[1:] - path[:-1]).norm(dim=1)
    assert torch.allclose(steps, steps[:1].expand(8), rtol=1e-4)


def test_quarter_circle() -> None:
    half = spherical(
        torch.tensor([2.0, 0]), torch.tensor([0, 4.0]), torch.tensor([0.5])
    )
    assert torch.allclose(half, torch.tensor([[3.0, 3.0]]) / math.sqrt(2), atol=1e-6)


@pytest.mark.parametrize(
    "b",
    [torch.tensor([2.0, 4.0]), torch.tensor([-1.0, -2.0]), torch.tensor([1.0, 2.0])],
)
def test_points_in_line_are_joined_straight(b: Tensor) -> None:
    a, t = torch.tensor([1.0, 2.0]), torch.linspace(0, 1, 5)
    assert torch.allclose(spherical(a, b, t), linear(a, b, t))


def test_linear_meets_both_ends() -> None:
    a, b = torch.randn(2, 3, 4)
    path = linear(a, b, torch.tensor([0, 0.25, 1]))
    assert torch.equal(path[0], a)
    assert torch.equal(path[2], b)
    assert torch.allclose(path[1], 0.75 * a + 0.25 * b)


def test_activity_is_the_variance_of_the_encodings() -> None:
    net, z = (
        Both(),
        torch.randn(2000, 5, generator=torch.Generator().manual_seed(2))
        * torch.tensor([0, 1, 2, 0.1, 3]),
    )
    found = activity(encoded(net, net.decode(z), None))
    assert torch.allclose(found, z.var(0, correction=0), atol=1e-3)
    assert found.argsort(descending=True).tolist() == [4, 2, 1, 3, 0]


def test_effect_is_the_squared_slope() -> None:
    net = Linear()
    assert torch.allclose(
        effect(net, net.draw(3), None), net.weight.square().mean(1), rtol=1e-4
    )


def test_rms_is_on_a_scale_from_black_to_white() -> None:
    black, white = torch.full((2, 3, 4, 4), -1.0), torch.ones(2, 3, 4, 4)
    assert torch.equal(rms(black, white), torch.ones(2))
    assert torch.equal(rms(black, 3 * white), torch.ones(2)), (
        "brighter than white is white"
    )
    assert torch.allclose(distance(black, white), torch.full((2,), 4.0))
    assert torch.allclose(
        distance(black.repeat(1, 1, 8, 8), white.repeat(1, 1, 8, 8)),
        torch.full((2,), 12.0),
    ), "32, 16 and 8 pixels"


@pytest.mark.parametrize("kind", [Linear, Both])
def test_projection_finds_the_very_point(kind: type[Linear]) -> None:
    net, generator, told = kind(), torch.Generator().manual_seed(3), list[float]()
    z = net.draw(3, torch.Generator().manual_seed(9))
    found = project(
        net,
        net.decode(z),
        None,
        0,
        starts=2,
        steps=300,
        generator=generator,
        progress=told.append,
    )
    assert torch.allclose(found.latent, z, atol=2e-2)
    assert found.error.max() < 2e-3
    assert told[-1] == 1
    assert sorted(told) == told


def test_projection_finds_the_class_too() -> None:
    net = Linear(classes=4)
    z, label = net.draw(2, torch.Generator().manual_seed(9)), torch.tensor([3, 1])
    target = net.decode(z, label)
    found = project(
        net,
        target,
        None,
        4,
        starts=8,
        steps=200,
        generator=torch.Generator().manual_seed(3),
        progress=lambda share: None,
    )
    assert found.label is not None
    assert found.label.tolist() == [3, 1]
    assert found.error.max() < 5e-3
    wrong = project(
        net,
        target,
        torch.tensor([0, 0]),
        4,
        starts=8,
        steps=200,
        generator=torch.Generator().manual_seed(3),
        progress=lambda share: None,
    )
    assert (wrong.error > found.error).all(), "the class that was asked for is kept"


def test_projection_repeats() -> None:
    net, target = (
        Linear(),
        torch.rand(1, 1, 8, 8, generator=torch.Generator().manual_seed(4)),
    )
    first, second = (
        project(
            net,
            target,
            None,
            0,
            starts=2,
            steps=20,
            generator=torch.Generator().manual_seed(5),
            progress=lambda share: None,
        )
        for _ in range(2)
    )
    assert torch.equal(first.latent, second.latent)
