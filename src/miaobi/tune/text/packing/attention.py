"""Attention over packed sequences, for Transformers' attention interface."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from miaobi.tune.text.packing.layout import Group, Layout

NAME = "miaobi_packed"
UNSUPPORTED = ("softcap", "s_aux", "position_bias")
"""Settings of attention that change the scores in a way that is not computed here."""


class Unpackable(Exception):
    """The model's attention has a setting that is not supported here."""


def register() -> None:
    """Let Transformers' models be switched to the attention of this module."""
    from transformers import AttentionInterface
    from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

    AttentionInterface.register(NAME, attention)
    AttentionMaskInterface.register(NAME, sdpa_mask)


def attention(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    layout: Layout | None = None,
    sliding_window: int | None = None,
    **settings: Any,
) -> tuple[Tensor, None]:
    """Return (the attended values [1, T, H, D], None).

    Without a layout this is Transformers' own attention. Raises Unpackable for settings
    of the model that are not supported.

    Args:
        module: the model's attention layer.
        query: [1, H, T, D].
        key: [1, K, T, D].
        value: [1, K, T, D].
        attention_mask: used without a layout.
        dropout: share of the attention weights that is dropped.
        scaling: of the scores; None for 1/√D.
        layout: where the sequences lie.
        sliding_window: tokens that a query attends to; None for all.
        settings: what else a model passes on.
    """
    if layout is None:
        from transformers.integrations.sdpa_attention import sdpa_attention_forward

        result: tuple[Tensor, None] = sdpa_attention_forward(
            module,
            query,
            key,
            value,
            attention_mask,
            dropout=dropout,
            scaling=scaling,
            sliding_window=sliding_window,
            **settings,
        )
        return result
    if any(settings.get(name) is not None for name in UNSUPPORTED):
        raise Unpackable
    apply: Callable[..., Tensor] = _GroupedAttention.apply
    window = sliding_window or 0
    return apply(query, key, value, layout, window, dropout, scaling), None


class _GroupedAttention(torch.autograd.Function):
    """Attention group by group.

    Slicing in autograd would fill a tensor as large as the stream with zeros for the
    gradient of every group.
    """

    @staticmethod
    def forward(
        ctx: Any,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        layout: Layout,
        window: int,
        dropout: float,
        scaling: float | None,
    ) -> Tensor:
        stream = (query, key, value)
        learning = any(part.requires_grad for part in stream)
        _, heads, length, _ = query.shape
        result = query.new_empty(1, length, heads, value.shape[3])
        steps = list[tuple[Group, tuple[Tensor, ...], Tensor]]()
        for group, before in layout.steps:
            own = tuple(_leaf(group.pad(part), learning) for part in stream)
            shared = tuple[Tensor, ...]()
            if before:
                shared = tuple(
                    _leaf(part[:, :, :before], learning) for part in (key, value)
                )
            with torch.set_grad_enabled(learning):
                attended = _attend(own, shared, layout, window, dropout, scaling)
            rows = attended.detach().transpose(1, 2).flatten(0, 1)
            result[0, group.start : group.end] = group.unpad(rows, 0)
            steps.append((group, (*own, *shared), attended))
        ctx.steps = steps if learning else []
        ctx.shapes = [(part.shape, part.dtype) for part in stream]
        return result

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        of_result = gradients[0].transpose(1, 2)
        of_stream = [
            of_result.new_empty(shape, dtype=type_) for shape, type_ in ctx.shapes
        ]
        # The shared beginning is the first step, which fills its part of the gradients;
        # the steps of those who share it add to that.
        for group, inputs, attended in ctx.steps:
            received = group.pad_with_zeros(of_result).to(attended.dtype)
            of_inputs = torch.autograd.grad(
                attended, inputs, received, retain_graph=True
            )
            of_own, of_shared = of_inputs[:3], of_inputs[3:]
            for whole, part in zip(of_stream, of_own, strict=True):
                rows = part.transpose(0, 1).flatten(1, 2)
                whole[0, :, group.start : group.end] = group.unpad(rows, 1)
            for whole, part in zip(of_stream[1:], of_shared, strict=False):
                whole[:, :, : part.shape[2]] += part
        return (*of_stream, None, None, None, None)


def _leaf(values: Tensor, learning: bool) -> Tensor:
    return values.detach().requires_grad_(learning)


def _attend(
    own: Sequence[Tensor],
    shared: Sequence[Tensor],
    layout: Layout,
    window: int,
    dropout: float,
    scaling: float | None,
) -> Tensor:
    """Return the attended values [N, H, L, D] of a group.

    Args:
        own: query [N, H, L, D], key and value [N, K, L, D].
        shared: key and value [1, K, P, D] that come before; empty for none.
        layout: gives the mask.
        window: tokens that a query attends to; 0 for all.
        dropout: share of the attention weights that is dropped.
        scaling: of the scores; None for 1/√D.
    """
    query, key, value = own
    length = query.shape[2]
    if shared:
        key = _prepend(shared[0], key)
        value = _prepend(shared[1], value)
    mask = layout.mask(length, key.shape[2] - length, window, query.device)
    return F.scaled_dot_product_attention(
        query,
        key,
        value,
        mask,
        dropout,
        is_causal=mask is None,
        scale=scaling,
        enable_gqa=query.shape[1] != key.shape[1],
    )


def _prepend(shared: Tensor, own: Tensor) -> Tensor:
    return torch.cat([shared.expand(len(own), -1, -1, -1), own], 2)
