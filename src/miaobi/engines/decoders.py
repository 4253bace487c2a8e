"""The two kinds of model that the native engine steps: attention with a key-value cache, and recurrence with a state.

A decoder works on batches whose rows are answers of unlike age. `state` is its own; the scheduler only passes it on.
"""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn import functional as F


class Decoder(Protocol):
    joins: bool
    """Whether `join` is possible; if not, every request is stepped by itself."""

    def prefill(self, prompts: list[list[int]]) -> tuple[Tensor, Any]:
        """Logits [B, V] after each prompt, and the state."""
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


@dataclass
class Cached:
    """cache: keys and values [B, heads, width, D] a layer, padded on the left; lengths: real tokens of each row."""

    cache: Any
    lengths: list[int]


class CachedDecoder:
    """A Transformers causal language model with its DynamicCache.

    Rows of unlike length stand flush right: the padding on their left is masked, and positions count real tokens only.
    """

    def __init__(self, model: Any) -> None:
        from transformers.cache_utils import DynamicCache, DynamicLayer

        self.model, self._cache = model, DynamicCache
        self.device = next(model.parameters()).device
        takes = inspect.signature(model.forward).parameters
        layers = DynamicCache(config=model.config).layers
        self.joins = "position_ids" in takes and all(type(layer) is DynamicLayer for layer in layers)
        self._last_only = {"logits_to_keep": 1} if "logits_to_keep" in takes else {}

    def prefill(self, prompts: list[list[int]]) -> tuple[Tensor, Cached]:
        lengths = [len(prompt) for prompt in prompts]
        width = max(lengths)
        ids = torch.tensor([[0] * (width - len(prompt)) + prompt for prompt in prompts], device=self.device)
        cache = self._cache(config=self.model.config)
        logits = self._forward(ids, Cached(cache, [0] * len(prompts)), lengths, width)
        return logits, Cached(cache, lengths)

    def step(self, tokens: Tensor, state: Cached) -> tuple[Tensor, Cached]:
        state.lengths = [length + 1 for length in state.lengths]
        width = state.cache.get_seq_length() + 1
        return self._forward(tokens.to(self.device)[:, None], state, state.lengths, width), state

    def _forward(self, ids: Tensor, state: Cached, lengths: list[int], width: int) -> Tensor:
        extra: dict[str, Any] = dict(self._last_only)
        if min(lengths) < width:
            starts = torch.tensor([width - length for length in lengths], device=self.device)[:, None]
            places = torch.arange(width, device=self.device)[None]
            extra["attention_mask"] = (places >= starts).long()
            extra["position_ids"] = (places - starts).clamp(min=0)[:, width - ids.shape[1]:]
        output = self.model(input_ids=ids, past_key_values=state.cache, use_cache=True, **extra)
        logits: Tensor = output.logits[:, -1].float()
        return logits

    def select(self, state: Cached, rows: list[int]) -> Cached:
        state.cache.batch_select_indices(torch.tensor(rows, device=self.device))
        state.lengths = [state.lengths[row] for row in rows]
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
        first.lengths = first.lengths + second.lengths
        return first

    @staticmethod
    def _pad(state: Cached, count: int) -> None:
        """Widen on the left by `count` places; a negative count cuts."""
        for layer in state.cache.layers if count else ():
            layer.keys, layer.values = (F.pad(part, (0, 0, count, 0)) for part in (layer.keys, layer.values))

    def score(self, ids: list[int]) -> Tensor:
        logits: Tensor = self.model(input_ids=torch.tensor([ids], device=self.device), use_cache=False).logits
        return logits[0].float()


class RecurrentDecoder:
    """A module with `step(ids [B, T], state) -> (logits [B, T, V], state)`; states are tuples of [layers, B, D]."""

    joins = True

    def __init__(self, model: Any) -> None:
        self.model = model
        self.device = next(model.parameters()).device

    def prefill(self, prompts: list[list[int]]) -> tuple[Tensor, tuple[Tensor, ...]]:
        rows = [self.model.step(torch.tensor([prompt], device=self.device), None) for prompt in prompts]
        state = tuple(torch.cat(parts, dim=1) for parts in zip(*(state for _, state in rows), strict=True))
        return torch.cat([logits[:, -1] for logits, _ in rows]).float(), state

    def step(self, tokens: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, tuple[Tensor, ...]]:
        logits, state = self.model.step(tokens.to(self.device)[:, None], state)
        return logits[:, -1].float(), state

    def select(self, state: tuple[Tensor, ...], rows: list[int]) -> tuple[Tensor, ...]:
        return tuple(part[:, rows].contiguous() for part in state)

    def join(self, first: tuple[Tensor, ...], second: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return tuple(torch.cat(parts, dim=1) for parts in zip(first, second, strict=True))

    def score(self, ids: list[int]) -> Tensor:
        logits: Tensor = self.model.step(torch.tensor([ids], device=self.device), None)[0]
        return logits[0].float()
