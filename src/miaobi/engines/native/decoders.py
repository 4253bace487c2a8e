"""The two kinds of model that the native engine steps: attention with a key-value
cache, and recurrence with a state.

A decoder works on batches whose rows are answers of unlike age. `state` is its own; the
scheduler only passes it on.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn import functional as F


class Decoder(Protocol):
    joins: bool
    """Whether `join` is possible; if not, every request is stepped by itself."""

    def prefill(
        self, prompts: list[list[int]], adapters: list[str]
    ) -> tuple[Tensor, Any]:
        """Logits [B, V] after each prompt, and the state. adapters: by which each is
        answered; empty for a model without any.
        """
        ...

    def step(self, tokens: Tensor, state: Any) -> tuple[Tensor, Any]:
        """tokens int64 [B] are taken in; logits [B, V] for what follows."""
        ...

    def select(self, state: Any, rows: list[int]) -> Any:
        """The state of these rows, repeated or left out as asked."""
        ...

    def join(self, first: Any, second: Any) -> Any:
        """One state holding the rows of both."""
        ...

    def score(self, ids: list[int]) -> Tensor:
        """Logits [T, V] at every place of one text."""
        ...


Layer = tuple[Tensor, Tensor]
"""Keys and values of one layer, [B, heads, T, D] each."""
BASE = "__base__"
"""PEFT's name for no adapter."""


@dataclass
class Cached:
    """cache: keys and values [B, heads, width, D] a layer, padded on the left; lengths:
    real tokens of each row; adapters: by which each row is answered, empty for a model
    without any.
    """

    cache: Any
    lengths: list[int]
    adapters: list[str]


class CachedDecoder:
    """A Transformers causal language model with its DynamicCache.

    Rows of unlike length stand flush right: the padding on their left is masked, and
    positions count real tokens only.
    `prefix`: what was learned to stand before every prompt (prefix tuning, Li and Liang
        2021, arXiv:2101.00190), one row.
    `adapted`: the model is PEFT's, and rows of unlike adapters share each step (its mixed batches).
    """

    def __init__(
        self, model: Any, prefix: Sequence[Layer] = (), adapted: bool = False
    ) -> None:
        from transformers.cache_utils import DynamicCache, DynamicLayer

        self.model, self._cache, self._prefix, self._adapted = (
            model,
            DynamicCache,
            prefix,
            adapted,
        )
        self.device = next(model.parameters()).device
        takes = inspect.signature(
            model.get_base_model().forward if adapted else model.forward
        ).parameters
        layers = DynamicCache(config=model.config).layers
        self.joins = "position_ids" in takes and all(
            type(layer) is DynamicLayer for layer in layers
        )
        self._last_only = {"logits_to_keep": 1} if "logits_to_keep" in takes else {}

    def prefill(
        self, prompts: list[list[int]], adapters: list[str]
    ) -> tuple[Tensor, Cached]:
        if (
            self._prefix and len(prompts) > 1
        ):  # one by one, so that padding stands before the prefix and not behind it
            rows = [self.prefill([prompt], []) for prompt in prompts]
            return torch.cat([logits for logits, _ in rows]), reduce(
                self.join, [state for _, state in rows]
            )
        before = self._prefix[0][0].shape[2] if self._prefix else 0
        lengths = [before + len(prompt) for prompt in prompts]
        width = max(lengths)
        ids = torch.tensor(
            [[0] * (width - before - len(prompt)) + prompt for prompt in prompts],
            device=self.device,
        )
        cache = self._begun()
        state = Cached(cache, lengths, adapters)
        return self._forward(ids, state, width), state

    def _begun(self) -> Any:
        """A cache that holds the prefix, if there is one."""
        cache = self._cache(config=self.model.config)
        for number, (keys, values) in enumerate(self._prefix):
            cache.update(keys, values, number)
        return cache

    def step(self, tokens: Tensor, state: Cached) -> tuple[Tensor, Cached]:
        state.lengths = [length + 1 for length in state.lengths]
        width = state.cache.get_seq_length() + 1
        return self._forward(tokens.to(self.device)[:, None], state, width), state

    def _forward(self, ids: Tensor, state: Cached, width: int) -> Tensor:
        extra: dict[str, Any] = self._last_only | (
            {"adapter_names": state.adapters} if self._adapted else {}
        )
        if min(state.lengths) < width:
            starts = torch.tensor(
                [width - length for length in state.lengths], device=self.device
            )[:, None]
            places = torch.arange(width, device=self.device)[None]
            extra["attention_mask"] = (places >= starts).long()
            extra["position_ids"] = (places - starts).clamp(min=0)[
                :, width - ids.shape[1] :
            ]
        output = self.model(
            input_ids=ids, past_key_values=state.cache, use_cache=True, **extra
        )
        logits: Tensor = output.logits[:, -1].float()
        return logits

    def select(self, state: Cached, rows: list[int]) -> Cached:
        state.cache.batch_select_indices(torch.tensor(rows, device=self.device))
        state.lengths = [state.lengths[row] for row in rows]
        state.adapters = [state.adapters[row] for row in rows] if self._adapted else []
        spare = state.cache.get_seq_length() - max(state.lengths)
        if spare > 0:
            self._pad(state, -spare)
        return state

    def join(self, first: Cached, second: Cached) -> Cached:
        gap = first.cache.get_seq_length() - second.cache.get_seq_length()
        self._pad(second if gap > 0 else first, abs(gap))
        for mine, theirs in zip(first.cache.layers, second.cache.layers, strict=True):
            mine.keys = torch.cat([mine.keys, theirs.keys])
            mine.values = torch.cat([mine.values, theirs.values])
        first.lengths, first.adapters = (
            first.lengths + second.lengths,
            first.adapters + second.adapters,
        )
        return first

    @staticmethod
    def _pad(state: Cached, count: int) -> None:
        """Widen on the left by `count` places; a negative count cuts."""
        for layer in state.cache.layers if count else ():
            layer.keys, layer.values = (
                F.pad(part, (0, 0, count, 0)) for part in (layer.keys, layer.values)
            )

    def score(self, ids: list[int]) -> Tensor:
        extra: dict[str, Any] = {"adapter_names": [BASE]} if self._adapted else {}
        if self._prefix:
            extra["past_key_values"] = self._begun()
        logits: Tensor = self.model(
            input_ids=torch.tensor([ids], device=self.device),
            use_cache=bool(self._prefix),
            **extra,
        ).logits
        return logits[0].float()


class RecurrentDecoder:
    """A module with `step(ids [B, T], state) -> (logits [B, T, V], state)`; states are
    tuples of [layers, B, D].
    """

    joins = True

    def __init__(self, model: Any) -> None:
        self.model = model
        self.device = next(model.parameters()).device

    def prefill(
        self, prompts: list[list[int]], adapters: list[str]
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        rows = [
            self.model.step(torch.tensor([prompt], device=self.device), None)
            for prompt in prompts
        ]
        state = tuple(
            torch.cat(parts, dim=1)
            for parts in zip(*(state for _, state in rows), strict=True)
        )
        return torch.cat([logits[:, -1] for logits, _ in rows]).float(), state

    def step(
        self, tokens: Tensor, state: tuple[Tensor, ...]
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        logits, state = self.model.step(tokens.to(self.device)[:, None], state)
        return logits[:, -1].float(), state

    def select(self, state: tuple[Tensor, ...], rows: list[int]) -> tuple[Tensor, ...]:
        return tuple(part[:, rows].contiguous() for part in state)

    def join(
        self, first: tuple[Tensor, ...], second: tuple[Tensor, ...]
    ) -> tuple[Tensor, ...]:
        return tuple(
            torch.cat(parts, dim=1) for parts in zip(first, second, strict=True)
        )

    def score(self, ids: list[int]) -> Tensor:
        logits: Tensor = self.model.step(torch.tensor([ids], device=self.device), None)[
            0
        ]
        return logits[0].float()
