"""DiffAugment: augment real and generated pictures alike before the critic sees them.

The augmentations are differentiable, so the generator learns through them. A small data
set cannot be learned by heart, and what is generated is not augmented itself (Zhao et
al. 2020, arXiv:2006.10738). Every picture draws its own augmentation.
Shapes: pictures [B, C, H, W] in [-1, 1].
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from miaobi.core.errors import NotFound, nearest
from miaobi.core.language import say


def augmented(pictures: Tensor, names: Sequence[str]) -> Tensor:
    """Return `pictures` after each of the named augmentations, in order."""
    for name in names:
        pictures = AUGMENTATIONS[name](pictures)
    return pictures


def check(names: Sequence[str]) -> None:
    """Raise NotFound for a name that is no augmentation."""
    for name in names:
        if name not in AUGMENTATIONS:
            raise NotFound(
                say(
                    f"There is no augmentation {name!r}.",
                    f"没有名为 {name!r} 的扰动。",
                ),
                nearest(name, AUGMENTATIONS),
            )


def colour(x: Tensor) -> Tensor:
    """Change brightness by ± 0.5, saturation × 0 to 2, contrast × 0.5 to 1.5."""
    x = x + uniform(x) - 0.5
    grey = x.mean(1, keepdim=True)
    x = (x - grey) * (2 * uniform(x)) + grey
    mean = x.mean((1, 2, 3), keepdim=True)
    return (x - mean) * (uniform(x) + 0.5) + mean


def translation(x: Tensor, share: float = 0.125) -> Tensor:
    """Move by up to `share` of each side; what moves in is 0, mid-grey."""
    count, _, height, width = x.shape
    rows = source_positions(x, height, share)
    columns = source_positions(x, width, share)
    pictures = torch.arange(count, device=x.device)
    padded_BHWC = F.pad(x, (1, 1, 1, 1)).permute(0, 2, 3, 1)
    moved_BHWC = padded_BHWC[
        pictures[:, None, None],
        rows[:, :, None],
        columns[:, None, :],
    ]
    return moved_BHWC.permute(0, 3, 1, 2)


def source_positions(x: Tensor, side: int, share: float) -> Tensor:
    """Where each row (or column) of a moved picture comes from, int64 [B, side].

    Positions count from a border of one pixel around the picture, which is 0.
    """
    reach = round(side * share)
    shift_B1 = torch.randint(-reach, reach + 1, (len(x), 1), device=x.device)
    positions = shift_B1 + torch.arange(side, device=x.device)
    return positions.clamp(-1, side) + 1


def cutout(x: Tensor, share: float = 0.5) -> Tensor:
    """Set a window of `share` of each side to 0."""
    _, _, height, width = x.shape
    rows_BH = window(x, height, share)
    columns_BW = window(x, width, share)
    inside_BHW = rows_BH[:, :, None] & columns_BW[:, None, :]
    return x * ~inside_BHW[:, None]


def window(x: Tensor, side: int, share: float) -> Tensor:
    """Which rows (or columns) of each picture a random window covers, bool [B, side].

    The window may reach over the edge by half its length.
    """
    length = round(side * share)
    first_B1 = torch.randint(
        -(length // 2), side - length // 2, (len(x), 1), device=x.device
    )
    position = torch.arange(side, device=x.device)
    return (position >= first_B1) & (position < first_B1 + length)


def uniform(x: Tensor) -> Tensor:
    """Draw a number in [0, 1) for each picture, [B, 1, 1, 1]."""
    return torch.rand(len(x), 1, 1, 1, device=x.device)


AUGMENTATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "colour": colour,
    "translation": translation,
    "cutout": cutout,
}
