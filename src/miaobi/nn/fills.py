"""Filling what is hidden in a text: the likeliest tokens for its masks, ranked.

One mask: p(w | text). Several are filled from left to right, each given those before it,

    p(w_1, ..., w_m | text) = Π_i p(w_i | text with w_1 ... w_{i-1} filled in)

and the likeliest `count` fillings are followed (beam search).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import torch
from torch import Tensor


class Fills(Protocol):
    """A network that says what may stand at every position: ids [B, T] -> logits [B, T, V]."""

    def __call__(self, ids: Tensor) -> Tensor: ...


class Filling(NamedTuple):
    """A text without masks."""

    ids: list[int]
    fills: list[int]
    """The token of each mask, in order."""
    log_probability: float


@torch.no_grad()
def ranked(
    net: Fills, ids: Sequence[int], mask_id: int, count: int, banned: Sequence[int]
) -> list[Filling]:
    """Return the likeliest fillings of a text, best first.

    Args:
        net: the network.
        ids: the text, with masks.
        mask_id: the token of a mask.
        count: fillings at most.
        banned: tokens that no mask stands for.
    """
    masks = [position for position, token in enumerate(ids) if token == mask_id]
    best = [Filling(list(ids), [], 0.0)]
    for position in masks:
        logits_BV = net(torch.tensor([filling.ids for filling in best]))[:, position]
        log_p_BV = logits_BV.float().log_softmax(-1)
        log_p_BV[:, list(banned)] = float("-inf")
        before = torch.tensor([filling.log_probability for filling in best])
        totals = (log_p_BV + before[:, None]).flatten()
        top = totals.topk(min(count, int(totals.isfinite().sum())))
        following = list[Filling]()
        for total, place in zip(top.values.tolist(), top.indices.tolist(), strict=True):
            row, token = divmod(place, logits_BV.shape[1])
            filled = list(best[row].ids)
            filled[position] = token
            following.append(Filling(filled, [*best[row].fills, token], total))
        best = following
    return best
