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
    Projection,
    activity,
    distance,
    effect,
    encoded,
    linear,
    project,
    rms,
    spherical,
)


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


class Linear(nn.Module):
    """x = z W + 0.5 y, with orthogonal rows of W of unlike lengths; cannot encode."""

    def __init__(self, latent: int = 5, side: int = 8, classes: int = 0) -> None:
        super().__init__()
        names = tuple(map(str, range(classes)))
        self.spec = PictureSpec(1, side, side, names)
        self.latent_shape = (latent,)
        matrix = torch.randn(side * side, latent, generator=seeded(0))
        rows = torch.linalg.qr(matrix)[0].T
        lengths = torch.arange(1, latent + 1)[:, None]
        self.register_buffer("weight", rows * lengths / 2)

    def draw(self, count: int, generator: torch.Generator | None = None) -> Tensor:
        return torch.randn(count, *self.latent_shape, generator=generator)

    def decode(self, latent: Tensor, label: Tensor | None = None) -> Tensor:
        picture = latent @ self.weight
        if label is not None:
            picture = picture + 0.5 * label[:, None]
        return picture.view(
            len(latent),
            self.spec.channels,
            self.spec.height,
            self.spec.width,
        )


class Autoencoder(Linear):
    """The same, with the encoder that inverts it."""

    def encode(self, pixels: Tensor, label: Tensor | None = None) -> Tensor:
        return pixels.flatten(1) @ torch.linalg.pinv(self.weight)


def test_the_great_circle_keeps_the_norm_and_goes_evenly() -> None:
    a, b = torch.randn(2, 3, 4, 4, generator=seeded(1))
    b = b / b.norm() * a.norm()
    points = spherical(a, b, torch.linspace(0, 1, 9))
    path = points.flatten(1)
    assert torch.allclose(path[0], a.flatten(), atol=1e-5)
    assert torch.allclose(path[-1], b.flatten(), atol=1e-5)
    assert torch.allclose(path.norm(dim=1), a.norm().expand(9), rtol=1e-5)
    steps = path.diff(dim=0).norm(dim=1)
    assert torch.allclose(steps, steps[:1].expand(8), rtol=1e-4)


def test_quarter_circle() -> None:
    a = torch.tensor([2.0, 0])
    b = torch.tensor([0, 4.0])
    middle = spherical(a, b, torch.tensor([0.5]))
    diagonal = torch.tensor([[3.0, 3.0]]) / math.sqrt(2)
    assert torch.allclose(middle, diagonal, atol=1e-6)


@pytest.mark.parametrize("multiple", [2, -1, 1])
def test_collinear_points_are_joined_by_a_straight_path(multiple: int) -> None:
    a = torch.tensor([1.0, 2.0])
    b = multiple * a
    t = torch.linspace(0, 1, 5)
    straight = linear(a, b, t)
    assert torch.allclose(spherical(a, b, t), straight)


def test_a_linear_path_goes_from_point_to_point() -> None:
    a, b = torch.randn(2, 3, 4)
    path = linear(a, b, torch.tensor([0, 0.25, 1]))
    assert torch.equal(path[0], a)
    assert torch.equal(path[2], b)
    quarter = 0.75 * a + 0.25 * b
    assert torch.allclose(path[1], quarter)


def test_activity_is_the_variance_of_the_encodings() -> None:
    net = Autoencoder()
    draws = torch.randn(2000, 5, generator=seeded(2))
    z = draws * torch.tensor([0, 1, 2, 0.1, 3])
    points = encoded(net, net.decode(z), None)
    variance = activity(points)
    expected = z.var(0, correction=0)
    assert torch.allclose(variance, expected, atol=1e-3)
    assert variance.argsort(descending=True).tolist() == [4, 2, 1, 3, 0]


def test_effect_is_the_squared_slope() -> None:
    net = Linear()
    points = net.draw(3)
    slope = net.weight.square().mean(1)
    assert torch.allclose(effect(net, points, None), slope, rtol=1e-4)


def test_rms_is_on_a_scale_from_black_to_white() -> None:
    black = torch.full((2, 3, 4, 4), -1.0)
    white = torch.ones(2, 3, 4, 4)
    assert torch.equal(rms(black, white), torch.ones(2))
    brighter = 3 * white
    assert torch.equal(rms(black, brighter), torch.ones(2)), "shown as white"


def test_distance_adds_up_the_sizes() -> None:
    black = torch.full((2, 3, 4, 4), -1.0)
    white = torch.ones(2, 3, 4, 4)
    assert torch.allclose(distance(black, white), torch.full((2,), 4.0))
    large_black = black.repeat(1, 1, 8, 8)
    large_white = white.repeat(1, 1, 8, 8)
    three_sizes = torch.full((2,), 12.0)  # 32, 16 and 8 pixels
    assert torch.allclose(distance(large_black, large_white), three_sizes)


@pytest.mark.parametrize("kind", [Linear, Autoencoder])
def test_projection_finds_the_very_point(kind: type[Linear]) -> None:
    net = kind()
    shares = list[float]()
    z = net.draw(3, seeded(9))
    projection = project(
        net,
        net.decode(z),
        None,
        0,
        starts=2,
        steps=300,
        generator=seeded(3),
        progress=shares.append,
    )
    assert torch.allclose(projection.latent, z, atol=2e-2)
    assert projection.error.max() < 2e-3
    assert shares[-1] == 1
    assert sorted(shares) == shares


def project_with_classes(
    net: Linear, target: Tensor, label: Tensor | None
) -> Projection:
    return project(
        net,
        target,
        label,
        4,
        starts=8,
        steps=200,
        generator=seeded(3),
        progress=lambda share: None,
    )


def test_projection_finds_the_class_too() -> None:
    net = Linear(classes=4)
    z = net.draw(2, seeded(9))
    target = net.decode(z, torch.tensor([3, 1]))
    free = project_with_classes(net, target, None)
    assert free.label is not None
    assert free.label.tolist() == [3, 1]
    assert free.error.max() < 5e-3
    fixed = project_with_classes(net, target, torch.tensor([0, 0]))
    assert (fixed.error > free.error).all(), "a class that is given stays"


def test_projection_repeats() -> None:
    net = Linear()
    target = torch.rand(1, 1, 8, 8, generator=seeded(4))
    projections = [
        project(
            net,
            target,
            None,
            0,
            starts=2,
            steps=20,
            generator=seeded(5),
            progress=lambda share: None,
        )
        for _ in range(2)
    ]
    assert torch.equal(projections[0].latent, projections[1].latent)
