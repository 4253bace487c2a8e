"""The one attention of all families computes what PyTorch's own do, forwards and
backwards, with each of its masks.
"""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from miaobi.nn.attention import (
    Attention,
    attention_map,
    causal_mask,
    padding_mask,
    rotary,
    rotated,
    sinusoids,
)

BATCH, QUERIES, KEYS, SIZE, HEADS = 3, 5, 7, 24, 4
LENGTHS = torch.tensor([7, 2, 4])


@pytest.fixture
def x_BTC() -> Tensor:
    torch.manual_seed(0)
    return torch.randn(BATCH, QUERIES, SIZE, requires_grad=True)


@pytest.fixture
def source_BSC() -> Tensor:
    torch.manual_seed(1)
    return torch.randn(BATCH, KEYS, SIZE, requires_grad=True)


def torchs_own(mine: Attention) -> nn.MultiheadAttention:
    """PyTorch's module with the same weights."""
    theirs = nn.MultiheadAttention(SIZE, HEADS, batch_first=True)
    projections = [mine.q_proj, mine.k_proj, mine.v_proj]
    with torch.no_grad():
        theirs.in_proj_weight.copy_(torch.cat([it.weight for it in projections]))
        theirs.in_proj_bias.copy_(torch.cat([it.bias for it in projections]))
    theirs.out_proj.load_state_dict(mine.o_proj.state_dict())
    return theirs


@pytest.mark.parametrize("masked", [False, True])
def test_cross_attention_equals_multihead_attention(
    x_BTC: Tensor, source_BSC: Tensor, masked: bool
) -> None:
    mine = Attention(SIZE, HEADS, bias=True)
    theirs = torchs_own(mine)
    mask = padding_mask(LENGTHS, KEYS) if masked else None
    ignored = None if mask is None else ~mask[:, 0, 0]
    output = mine(x_BTC, source_BSC, mask=mask)
    expected, weights_BHTS = theirs(
        x_BTC,
        source_BSC,
        source_BSC,
        key_padding_mask=ignored,
        average_attn_weights=False,
    )
    torch.testing.assert_close(output, expected, rtol=1e-5, atol=1e-6)
    keys, _ = mine.keys_values(source_BSC)
    looks = attention_map(mine.queries(x_BTC), keys, mask)
    torch.testing.assert_close(looks, weights_BHTS, rtol=1e-5, atol=1e-6)
    mine_grads = torch.autograd.grad(output.square().sum(), [x_BTC, source_BSC])
    their_grads = torch.autograd.grad(expected.square().sum(), [x_BTC, source_BSC])
    torch.testing.assert_close(mine_grads, their_grads, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "causal", [{"causal": True}, {"mask": causal_mask(QUERIES)}], ids=["flag", "mask"]
)
def test_causal_self_attention_equals_multihead_attention(
    x_BTC: Tensor, causal: dict[str, Any]
) -> None:
    mine = Attention(SIZE, HEADS, bias=True)
    theirs = torchs_own(mine)
    expected, _ = theirs(x_BTC, x_BTC, x_BTC, attn_mask=~causal_mask(QUERIES))
    torch.testing.assert_close(mine(x_BTC, **causal), expected, rtol=1e-5, atol=1e-6)


def test_grouped_queries_equal_repeated_keys(x_BTC: Tensor) -> None:
    grouped = Attention(SIZE, HEADS, kv_heads=2)
    keys, values = grouped.keys_values(x_BTC)
    mixed = F.scaled_dot_product_attention(
        grouped.queries(x_BTC),
        keys.repeat_interleave(2, dim=1),
        values.repeat_interleave(2, dim=1),
        is_causal=True,
    )
    expected = grouped.o_proj(mixed.transpose(1, 2).flatten(2))
    torch.testing.assert_close(grouped(x_BTC, causal=True), expected)


def test_what_is_masked_changes_nothing(x_BTC: Tensor, source_BSC: Tensor) -> None:
    attention = Attention(SIZE, HEADS)
    mask = padding_mask(LENGTHS, KEYS)
    before = attention(x_BTC, source_BSC, mask=mask)
    noise = torch.where(mask[:, 0, 0, :, None], 0.0, 100.0)
    torch.testing.assert_close(
        attention(x_BTC, source_BSC + noise, mask=mask), before, rtol=0, atol=0
    )


def test_tokens_read_one_by_one_give_the_same(x_BTC: Tensor) -> None:
    attention = Attention(SIZE, HEADS)
    cos, sin = rotary(QUERIES, SIZE // HEADS, theta=10000.0)
    whole = attention(x_BTC, causal=True, rotation=(cos, sin))
    keys = values = torch.empty(BATCH, HEADS, 0, SIZE // HEADS)
    for at in range(QUERIES):
        token = x_BTC[:, at : at + 1]
        rotation = cos[at : at + 1], sin[at : at + 1]
        key, value = attention.keys_values(token, rotation)
        keys = torch.cat([keys, key], dim=2)
        values = torch.cat([values, value], dim=2)
        step = attention.mix(attention.queries(token, rotation), (keys, values))
        torch.testing.assert_close(step, whole[:, at : at + 1], rtol=1e-5, atol=1e-6)


def test_rotated_products_depend_on_the_distance_alone() -> None:
    torch.manual_seed(2)
    q, k = torch.randn(2, 8)
    cos, sin = rotary(40, 8, theta=100.0)
    products = rotated(q.expand(40, 8), cos, sin) @ rotated(k.expand(40, 8), cos, sin).T
    for distance in range(-5, 6):
        diagonal = products.diagonal(distance)
        torch.testing.assert_close(diagonal, diagonal[:1].expand_as(diagonal))


def test_sinusoids_are_those_of_the_paper() -> None:
    table = sinusoids(12, 6)
    for position in range(12):
        for pair in range(3):
            angle = position / 10000 ** (2 * pair / 6)
            assert table[position, pair] == pytest.approx(math.sin(angle), abs=1e-6)
            assert table[position, pair + 3] == pytest.approx(math.cos(angle), abs=1e-6)
