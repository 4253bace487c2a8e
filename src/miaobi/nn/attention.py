"""Attention: every position looks at others, and takes from those that fit.

    attention(q, k, v) = softmax(q kᵀ / √D + mask) v
    heads are D wide each, have projections of their own, and W_o mixes what they found

Vaswani et al. 2017 (arXiv:1706.03762). In self-attention keys and values come from the
text of the queries, in cross-attention from another one. Fewer heads of keys than of
queries: grouped queries, Ainslie et al. 2023 (arXiv:2305.13245).

Where a position is, attention itself does not see. Either vectors of sines are added to
the embeddings (`sinusoids`, section 3.5 there), or queries and keys are rotated by
angles that grow with the position, so that their product depends on the distance alone
(`rotary`, Su et al. 2021, arXiv:2104.09864).

Masks are boolean, True where a query may look, and broadcast to [B, heads, T, S].
Shapes: B texts, T queries, S keys, C the width of the model, D that of a head.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Rotation = tuple[Tensor, Tensor]
"""cos, sin, broadcast to [B, heads, T, D]; the first half of sin is negated."""
KeysValues = tuple[Tensor, Tensor]
"""Each [B, heads, S, D]: what a decoder keeps of the tokens it has read."""


class Attention(nn.Module):
    """x [B, T, C] -> [B, T, C].

    Args:
        size: C, of what comes in and goes out.
        heads: of the queries; each is size / heads wide.
        kv_heads: of keys and values, which groups of queries share; by default `heads`.
        bias: whether the projections add a bias.
    """

    def __init__(
        self, size: int, heads: int, kv_heads: int = 0, bias: bool = False
    ) -> None:
        super().__init__()
        kv_heads = kv_heads or heads
        self.width = size // heads
        self.grouped = kv_heads != heads
        self.q_proj = nn.Linear(size, heads * self.width, bias=bias)
        self.k_proj = nn.Linear(size, kv_heads * self.width, bias=bias)
        self.v_proj = nn.Linear(size, kv_heads * self.width, bias=bias)
        self.o_proj = nn.Linear(heads * self.width, size, bias=bias)

    def forward(
        self,
        x: Tensor,
        source: Tensor | None = None,
        *,
        mask: Tensor | None = None,
        causal: bool = False,
        rotation: Rotation | None = None,
    ) -> Tensor:
        """Return what the positions of `x` take from those of `source`.

        Args:
            x: [B, T, C].
            source: [B, S, C]; by default x itself.
            mask: Where queries may look; by default everywhere.
            causal: Let position t look at positions up to t alone, in place of a mask.
            rotation: Of the positions of x, for self-attention.
        """
        q_BHTD = self.queries(x, rotation)
        k_BHSD, v_BHSD = self.keys_values(x if source is None else source, rotation)
        return self.mix(q_BHTD, (k_BHSD, v_BHSD), mask=mask, causal=causal)

    def queries(self, x: Tensor, rotation: Rotation | None = None) -> Tensor:
        """Return q [B, heads, T, D] of x [B, T, C]."""
        q_BHTD = self.split_heads(self.q_proj(x))
        return q_BHTD if rotation is None else rotated(q_BHTD, *rotation)

    def keys_values(self, x: Tensor, rotation: Rotation | None = None) -> KeysValues:
        """Return k and v [B, heads, S, D] of x [B, S, C]."""
        k_BHSD = self.split_heads(self.k_proj(x))
        if rotation is not None:
            k_BHSD = rotated(k_BHSD, *rotation)
        return k_BHSD, self.split_heads(self.v_proj(x))

    def mix(
        self,
        q_BHTD: Tensor,
        keys_values: KeysValues,
        *,
        mask: Tensor | None = None,
        causal: bool = False,
    ) -> Tensor:
        """Return [B, T, C]: for each query the values, weighted by how their keys fit."""
        mixed_BHTD = F.scaled_dot_product_attention(
            q_BHTD,
            *keys_values,
            attn_mask=mask,
            is_causal=causal,
            enable_gqa=self.grouped,
        )
        output: Tensor = self.o_proj(mixed_BHTD.transpose(1, 2).flatten(2))
        return output

    def split_heads(self, x_BTC: Tensor) -> Tensor:
        """[B, T, heads · D] -> [B, heads, T, D]"""
        batch, length, _ = x_BTC.shape
        return x_BTC.view(batch, length, -1, self.width).transpose(1, 2)


def attention_map(q: Tensor, k: Tensor, mask: Tensor | None = None) -> Tensor:
    """Return softmax(q kᵀ / √D + mask) [B, heads, T, S]: where each query looks.

    For pictures; `Attention.mix` never makes it, which is quicker.
    """
    scores_BHTS = q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1])
    if mask is not None:
        scores_BHTS = scores_BHTS.masked_fill(~mask, float("-inf"))
    return scores_BHTS.softmax(-1)


def causal_mask(length: int) -> Tensor:
    """Return [T, T]: position t may look at positions up to t."""
    return torch.ones(length, length, dtype=torch.bool).tril()


def padding_mask(lengths: Tensor, width: int) -> Tensor:
    """Return [B, 1, 1, S]: every query may look at the first `lengths` [B] of S keys."""
    columns = torch.arange(width, device=lengths.device)
    return (columns < lengths[:, None])[:, None, None]


def frequencies(width: int, theta: float) -> Tensor:
    """Return θ^(-2i/D) for i < D/2: radians by which a position rotates pair (i, i + D/2)."""
    exponents = -torch.arange(0, width, 2).float() / width
    return torch.pow(theta, exponents)


def rotary(length: int, width: int, theta: float) -> Rotation:
    """Return cos, sin [length, D] of every position's angles.

    The first half of sin is negated, for `rotated`.
    """
    angle = torch.outer(torch.arange(length).float(), frequencies(width, theta))
    cos = torch.cat([angle, angle], -1).cos()
    sin = torch.cat([-angle, angle], -1).sin()
    return cos, sin


def rotated(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Return x [..., T, D] with each pair (x_i, x_{i+D/2}) rotated by its position's angle.

    The first half of `sin` comes negated.
    """
    return x * cos + x.roll(x.shape[-1] // 2, -1) * sin


def sinusoids(length: int, size: int) -> Tensor:
    """Return [length, C] with sin and cos of position / 10000^(2i/C).

    All sines come first, then all cosines: the order of Marian and Tensor2Tensor.
    """
    angle = torch.outer(torch.arange(length).float(), frequencies(size, 10000.0))
    return torch.cat([angle.sin(), angle.cos()], -1)
