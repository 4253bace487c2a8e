"""DiffAugment: real and made pictures are both disturbed, differentiably, before the
critic sees them.

So a small data set cannot be learned by heart, and what is generated is not disturbed
(Zhao et al. 2020, arXiv:2006.10738). Every picture draws its own disturbance. Pictures:
[B, C, H, W] in [-1, 1].
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from miaobi.core.errors import NotFound, nearest
from miaobi.core.language import say


def augmented(pictures: Tensor, names: Sequence[str]) -> Tensor:
    """`pictures` after each of the named disturbances (see DISTURBANCES)."""
    for name in names:
        pictures = DISTURBANCES[name](pictures)
    return pictures


def check(names: Sequence[str]) -> None:
    """Raise NotFound for a name that is no disturbance."""
    for name in names:
        if name not in DISTURBANCES:
            raise NotFound(
                say(
                    f"There is no disturbance {name!r}.", f"没有名为 {name!r} 的扰动。"
                ),
                nearest(name, DISTURBANCES),
            )


def colour(x: Tensor) -> Tensor:
    """Brightness ± 0.5, saturation × 0 to 2, contrast × 0.5 to 1.5."""
    x = x + drawn(x) - 0.5
    grey = x.mean(1, keepdim=True)
    x = (x - grey) * (2 * drawn(x)) + grey
    mean = x.mean((1, 2, 3), keepdim=True)
    return (x - mean) * (drawn(x) + 0.5) + mean


def translation(x: Tensor, share: float = 0.125) -> Tensor:
    """Moved by up to an eighth of each side; what moves in is 0, mid-grey."""
    rows, columns = places(x, share)
    count, _, height, width = x.shape
    padded = torch.nn.functional.pad(x, (1, 1, 1, 1))
    rows = (rows + torch.arange(height, device=x.device)[None]).clamp(-1, height) + 1
    columns = (columns + torch.arange(width, device=x.device)[None]).clamp(
        -1, width
    ) + 1
    return padded.permute(0, 2, 3, 1)[
        torch.arange(count, device=x.device)[:, None, None],
        rows[:, :, None],
        columns[:, None],
    ].permute(0, 3, 1, 2)


def cutout(x: Tensor, share: float = 0.5) -> Tensor:
    """A window of half of each side becomes 0."""
    count, _, height, width = x.shape
    tall, wide = round(height * share), round(width * share)
    top = torch.randint(-(tall // 2), height - tall // 2, (count, 1), device=x.device)
    left = torch.randint(-(wide // 2), width - wide // 2, (count, 1), device=x.device)
    row, column = (
        torch.arange(height, device=x.device)[None],
        torch.arange(width, device=x.device)[None],
    )
    inside = ((row >= top) & (row < top + tall))[:, :, None] & (
        (column >= left) & (column < left + wide)
    )[:, None]
    return x * ~inside[:, None]


def drawn(x: Tensor) -> Tensor:
    """A number in [0, 1) for each picture."""
    return torch.rand(len(x), 1, 1, 1, device=x.device)


def places(x: Tensor, share: float) -> tuple[Tensor, Tensor]:
    """How far each picture moves: rows and columns, int64 [B, 1]."""
    reach = [round(side * share) for side in x.shape[2:]]
    return tuple(
        torch.randint(-far, far + 1, (len(x), 1), device=x.device) for far in reach
    )  # type: ignore[return-value]


DISTURBANCES: dict[str, Callable[[Tensor], Tensor]] = {
    "colour": colour,
    "translation": translation,
    "cutout": cutout,
}
