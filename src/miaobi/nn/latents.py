"""Ways through a latent space: paths between points, what each dimension does, and the
projection of a picture to a point.

Points are [B, *latent_shape]; pictures are [B, C, H, W] in [-1, 1]. Models are used
through the protocols of nn/image.py alone.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from miaobi.nn.image import Encodes, HasLatents

AT_ONCE = 256
"""Pictures in one batch through a network."""


def linear(a: Tensor, b: Tensor, t: Tensor) -> Tensor:
    """Return (1 - t) a + t b for each of t [T], [T, *latent_shape]."""
    return torch.stack([torch.lerp(a, b, weight) for weight in t])


def spherical(a: Tensor, b: Tensor, t: Tensor) -> Tensor:
    """Return points on the great circle from a to b, for each of t [T].

    The direction is (sin((1-t)Ω) â + sin(tΩ) b̂) / sin Ω with Ω the angle between a and
    b; the length goes evenly from |a| to |b|. Draws of a normal distribution in many
    dimensions all lie near one sphere; a straight path leaves it (Shoemake 1985; White
    2016, arXiv:1609.04468). Collinear points are joined by the straight path.
    """
    unit_a = F.normalize(a.flatten(), dim=0)
    unit_b = F.normalize(b.flatten(), dim=0)
    cosine = (unit_a * unit_b).sum()
    angle = torch.arccos(torch.clamp(cosine, -1, 1))
    if angle.sin() < 1e-3:
        return linear(a, b, t)
    t = t.view(-1, *(1 for _ in a.shape))
    part_a = torch.sin((1 - t) * angle) * a / a.norm()
    part_b = torch.sin(t * angle) * b / b.norm()
    direction = (part_a + part_b) / angle.sin()
    point: Tensor = torch.lerp(a.norm(), b.norm(), t) * direction
    return point


PATHS: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "linear": linear,
    "spherical": spherical,
}


@torch.no_grad()
def encoded(net: Encodes, pixels: Tensor, label: Tensor | None) -> Tensor:
    """Return the points [B, *latent_shape] of pictures, AT_ONCE at a time."""
    return _in_batches(net.encode, pixels, label)


@torch.no_grad()
def decoded(net: HasLatents, latent: Tensor, label: Tensor | None) -> Tensor:
    """Return the pictures [B, C, H, W] of points, AT_ONCE at a time."""
    return _in_batches(net.decode, latent, label)


def _in_batches(
    function: Callable[[Tensor, Tensor | None], Tensor],
    inputs: Tensor,
    label: Tensor | None,
) -> Tensor:
    outputs = list[Tensor]()
    for first in range(0, len(inputs), AT_ONCE):
        rows = slice(first, first + AT_ONCE)
        outputs.append(function(inputs[rows], _selected(label, rows)))
    return torch.cat(outputs)


def _selected(label: Tensor | None, rows: Tensor | slice) -> Tensor | None:
    return None if label is None else label[rows]


def activity(points: Tensor) -> Tensor:
    """Return the variance of each latent dimension over encodings of many pictures, [D].

    It is 0 for a dimension that carries nothing (active units: Burda et al. 2016,
    arXiv:1509.00519). points: [B, *latent_shape], D its flattened size.
    """
    return points.flatten(1).var(0, correction=0)


def effect(
    net: HasLatents, points: Tensor, label: Tensor | None, step: float = 1.0
) -> Tensor:
    """Return how much each dimension changes the picture, [D].

    E ‖G(z + h e_d) - G(z - h e_d)‖² / (2h)², a finite difference. For models that cannot
    encode, whose prior gives every dimension the same variance.

    Args:
        net: the model G.
        points: z [B, *latent_shape].
        label: classes [B], or None.
        step: h.
    """
    flat = points.flatten(1)
    effects = list[Tensor]()
    for dimension in range(flat.shape[1]):
        offset = torch.zeros_like(flat)
        offset[:, dimension] = step
        up = decoded(net, (flat + offset).view_as(points), label)
        down = decoded(net, (flat - offset).view_as(points), label)
        effects.append((up - down).div(2 * step).square().mean())
    return torch.stack(effects)


def rms(a: Tensor, b: Tensor) -> Tensor:
    """Return the root mean squared difference of pictures cut to [-1, 1]: [B].

    Black to white is 1.
    """
    difference = a.clamp(-1, 1) - b.clamp(-1, 1)
    return difference.flatten(1).square().mean(1).sqrt() / 2


def distance(a: Tensor, b: Tensor) -> Tensor:
    """Return the mean squared difference, summed over several sizes, [B].

    The sizes are the picture's and its halvings down to 8 pixels a side. The coarse
    ones have a slope where two shapes do not overlap at full size.
    """
    total = (a - b).flatten(1).square().mean(1)
    while min(a.shape[-2:]) >= 16:
        a = F.avg_pool2d(a, 2)
        b = F.avg_pool2d(b, 2)
        total = total + (a - b).flatten(1).square().mean(1)
    return total


@dataclass(frozen=True)
class Projection:
    """The best points for some pictures."""

    latent: Tensor
    """[B, *latent_shape]"""
    label: Tensor | None
    """[B]"""
    pictures: Tensor
    """What the model makes of the points, [B, C, H, W]."""
    error: Tensor
    """Distance to the target, [B], as `rms` measures it."""


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
    """Find the points whose pictures are nearest to `targets`.

    min_z distance(G(z), x) by Adam. The best `starts` of many draws are improved side by
    side, with noise on z that fades over the first three quarters, so that they leave
    small dips (Karras et al. 2020, arXiv:1912.04958, appendix D; Abdal et al. 2019,
    arXiv:1904.03189). A model that encodes adds one more start.

    Args:
        net: the model G.
        targets: pictures x [B, C, H, W].
        label: classes [B], or None to search among all `classes` too.
        classes: how many the model has; 0 for one without.
        starts: points improved for each target.
        steps: of Adam.
        generator: for the draws and the noise.
        progress: called after each step with the share that is done.
        learning_rate: of Adam, falling along a cosine.
        noise: standard deviation of the noise on z at first.
    """
    z, point_label = _starts(net, targets, label, classes, starts, generator)
    per_target = len(z) // len(targets)
    owner = torch.arange(len(targets), device=targets.device)
    wanted = targets[owner.repeat_interleave(per_target)]
    z = z.clone().requires_grad_()
    optimizer = torch.optim.Adam([z], learning_rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for step in range(steps):
        fade = noise * max(0.0, 1 - step / (0.75 * steps)) ** 2
        noisy = z + fade * torch.randn(z.shape, generator=generator, device=z.device)
        loss = distance(net.decode(noisy, point_label), wanted).sum()
        (z.grad,) = torch.autograd.grad(loss, z)
        optimizer.step()
        schedule.step()
        progress((step + 1) / steps)
    latent = z.detach()
    pictures = decoded(net, latent, point_label)
    distances = distance(pictures, wanted).view(len(targets), per_target)
    best = distances.argmin(1) + owner * per_target
    return Projection(
        latent=latent[best],
        label=_selected(point_label, best),
        pictures=pictures[best],
        error=rms(pictures[best], targets),
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
    """Return each target's nearest of many draws, [B · starts, ...], and their classes."""
    draws = net.draw(max(AT_ONCE, 8 * starts), generator)
    points = list[Tensor]()
    labels = list[Tensor]()
    for row, target in enumerate(targets):
        draw_label = None
        if classes and label is None:
            draw_label = torch.arange(len(draws), device=draws.device) % classes
        elif classes and label is not None:
            draw_label = label[row].expand(len(draws))
        pictures = decoded(net, draws, draw_label)
        distances = distance(pictures, target.expand(len(draws), *target.shape))
        nearest = distances.topk(starts, largest=False).indices
        points.append(draws[nearest])
        if draw_label is not None:
            labels.append(draw_label[nearest])
        if isinstance(net, Encodes):
            best_label = _selected(draw_label, nearest[:1])
            points.append(net.encode(target[None], best_label))
            if best_label is not None:
                labels.append(best_label)
    return torch.cat(points), torch.cat(labels) if labels else None
