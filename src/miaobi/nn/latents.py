"""Ways through a latent space: paths between points, directions between examples, what
each dimension does, and back from a picture to a point.

Points are [B, *latent_shape]; pictures are [B, C, H, W] in [-1, 1]. Everything here
asks a model only for what nn/image.py promises.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from miaobi.nn.image import Encodes, HasLatents

AT_ONCE = 256
"""Pictures that go through a network together."""


def linear(a: Tensor, b: Tensor, t: Tensor) -> Tensor:
    """(1 - t) a + t b for each of t [T]; a, b [*latent_shape]; returns [T, *latent_shape]."""
    return torch.stack([torch.lerp(a, b, weight) for weight in t])


def spherical(a: Tensor, b: Tensor, t: Tensor) -> Tensor:
    """Along the great circle: direction (sin((1-t)Ω) â + sin(tΩ) b̂) / sin Ω with Ω the
    angle between, length from |a| to |b| evenly.

    Draws of a normal distribution in many dimensions all lie near one sphere; a
    straight path leaves it (Shoemake 1985; White 2016, arXiv:1609.04468). Points that
    lie in line are joined by the straight path.
    """
    angle = torch.arccos(
        torch.clamp(
            (F.normalize(a.flatten(), dim=0) * F.normalize(b.flatten(), dim=0)).sum(),
            -1,
            1,
        )
    )
    if angle.sin() < 1e-3:
        return linear(a, b, t)
    t = t.view(-1, *(1 for _ in a.shape))
    direction = (
        torch.sin((1 - t) * angle) * a / a.norm() + torch.sin(t * angle) * b / b.norm()
    ) / angle.sin()
    return torch.lerp(a.norm(), b.norm(), t) * direction


PATHS: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "linear": linear,
    "spherical": spherical,
}


@torch.no_grad()
def encoded(net: Encodes, pixels: Tensor, label: Tensor | None) -> Tensor:
    """Points [B, *latent_shape] of pictures, so many at once as memory bears."""
    return _in_parts(net.encode, pixels, label)


@torch.no_grad()
def decoded(net: HasLatents, latent: Tensor, label: Tensor | None) -> Tensor:
    """Pictures [B, C, H, W] of points, so many at once as memory bears."""
    return _in_parts(net.decode, latent, label)


def _in_parts(
    through: Callable[[Tensor, Tensor | None], Tensor],
    given: Tensor,
    label: Tensor | None,
) -> Tensor:
    spans = [slice(at, at + AT_ONCE) for at in range(0, len(given), AT_ONCE)]
    return torch.cat(
        [through(given[span], None if label is None else label[span]) for span in spans]
    )


def activity(points: Tensor) -> Tensor:
    """Variance of each latent dimension over the encodings of many pictures, [D]: 0 for
    one that says nothing (active units, Burda et al. 2016, arXiv:1509.00519). points:
    [B, *latent_shape], D its flattened size.
    """
    return points.flatten(1).var(0, correction=0)


def effect(
    net: HasLatents, points: Tensor, label: Tensor | None, step: float = 1.0
) -> Tensor:
    """How much each dimension changes the picture, [D]: E ‖G(z + e_d) - G(z - e_d)‖² /
    4, a finite difference at `points` [B, ...].

    For models that cannot encode, whose prior gives every dimension the same variance.
    """
    flat, found = points.flatten(1), []
    for dimension in range(flat.shape[1]):
        offset = torch.zeros_like(flat)
        offset[:, dimension] = step
        up, down = (
            decoded(net, (flat + sign * offset).view_as(points), label)
            for sign in (1, -1)
        )
        found.append((up - down).div(2 * step).square().mean())
    return torch.stack(found)


def rms(a: Tensor, b: Tensor) -> Tensor:
    """Root mean squared difference of pictures as they are shown, cut to [-1, 1]: [B],
    on a scale where black to white is 1.
    """
    return (a.clamp(-1, 1) - b.clamp(-1, 1)).flatten(1).square().mean(1).sqrt() / 2


def distance(a: Tensor, b: Tensor) -> Tensor:
    """Mean squared difference summed over the picture and its halvings down to 8 pixels
    a side, [B].

    The coarse scales pull a shape to its place where the fine ones, that overlap
    nowhere, have no slope.
    """
    total = (a - b).flatten(1).square().mean(1)
    while min(a.shape[-2:]) >= 16:
        a, b = F.avg_pool2d(a, 2), F.avg_pool2d(b, 2)
        total = total + (a - b).flatten(1).square().mean(1)
    return total


@dataclass(frozen=True)
class Projection:
    """The best points found: latent [B, *latent_shape], label [B] or None, pictures [B,
    C, H, W], error [B] as `rms` has it.
    """

    latent: Tensor
    label: Tensor | None
    pictures: Tensor
    error: Tensor


def project(
    net: HasLatents,
    targets: Tensor,
    label: Tensor | None,
    classes: int,
    *,
    starts: int,
    steps: int,
    generator: torch.Generator,
    progress: Callable[[float], None],
    learning_rate: float = 0.1,
    noise: float = 0.05,
) -> Projection:
    """The points whose pictures come nearest to `targets` [B, C, H, W]: min_z
    distance(G(z), x) by Adam.

    The best `starts` of many draws are improved side by side, with noise on z that
    fades over the first three quarters, so that they leave small dips (Karras et al.
    2020, arXiv:1912.04958, appendix D; Abdal et al. 2019, arXiv:1904.03189). A model
    that encodes gives one start more. label: [B], or None to search among all `classes`
    too (0 for a model without).
    """
    z, given = _starts(net, targets, label, classes, starts, generator)
    owner = torch.arange(len(targets), device=targets.device).repeat_interleave(
        len(z) // len(targets)
    )
    z = z.clone().requires_grad_()
    optimizer = torch.optim.Adam([z], learning_rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for step in range(steps):
        fade = noise * max(0.0, 1 - step / (0.75 * steps)) ** 2
        shaken = z + fade * torch.randn(z.shape, generator=generator, device=z.device)
        (z.grad,) = torch.autograd.grad(
            distance(net.decode(shaken, given), targets[owner]).sum(), z
        )
        optimizer.step()
        schedule.step()
        progress((step + 1) / steps)
    found = decoded(net, z.detach(), given)
    best = distance(found, targets[owner]).view(len(targets), -1).argmin(
        1
    ) + torch.arange(len(targets), device=z.device) * (len(z) // len(targets))
    return Projection(
        z.detach()[best],
        None if given is None else given[best],
        found[best],
        rms(found[best], targets),
    )


@torch.no_grad()
def _starts(
    net: HasLatents,
    targets: Tensor,
    label: Tensor | None,
    classes: int,
    starts: int,
    generator: torch.Generator,
) -> tuple[Tensor, Tensor | None]:
    """For each target its nearest of many draws, [B * starts, ...], with their classes."""
    draws = net.draw(max(AT_ONCE, 8 * starts), generator)
    points, labels = list[Tensor](), list[Tensor]()
    for at, target in enumerate(targets):
        given = None
        if classes:
            given = (
                torch.arange(len(draws), device=draws.device) % classes
                if label is None
                else label[at].expand(len(draws))
            )
        gaps = distance(
            decoded(net, draws, given), target.expand(len(draws), *target.shape)
        )
        nearest = gaps.topk(starts, largest=False).indices
        points.append(draws[nearest])
        labels += [] if given is None else [given[nearest]]
        if isinstance(net, Encodes):
            first = None if given is None else given[nearest[:1]]
            points.append(net.encode(target[None], first))
            labels += [] if first is None else [first]
    return torch.cat(points), torch.cat(labels) if labels else None
