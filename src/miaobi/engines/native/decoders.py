"""The two kinds of model that the native engine steps: attention with a key-value
cache, and recurrence with a state.

A decoder works on batches whose rows are answers of unlike age. `state` is its own; the
scheduler only passes it on.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor
from torch.nn import functional as F

Layer = tuple[Tensor, Tensor]
"""Keys and values of one layer, [B, heads, T, D] each."""

SLICE = 512
"""Tokens of a text that are scored at once: the logits of all of a long one would take
gigabytes.
"""

BASE = "__base__"
"""PEFT's name for no adapter."""


class Decoder(Protocol):
    """A model that takes in one token a row and predicts the next."""

    joins: bool
    """Whether `join` is possible; if not, every request is stepped by itself."""
    draws: bool
    """Whether an answer begins with a draw of its own, from its seed, so that each of
    several to one prompt is taken in by itself; such a model scores no texts.
    """

    def prefill(
        self, prompts: list[list[int]], adapters: list[str], seeds: list[int]
    ) -> tuple[Tensor, Any]:
        """Return the logits [B, V] after each prompt, and the state.

        Args:
            prompts: Token ids.
            adapters: The one that answers each; without effect on a model that has none.
            seeds: Of what each draws; without effect on a model that draws nothing.
        """
        ...

    def step(self, tokens: Tensor, state: Any) -> tuple[Tensor, Any]:
        """Take in tokens int64 [B]; return the logits [B, V] of the next, and the state."""
        ...

    def select(self, state: Any, rows: list[int]) -> Any:
        """Return the state of these rows; a row may be repeated or left out."""
        ...

    def join(self, first: Any, second: Any) -> Any:
        """Return one state with the rows of both."""
        ...

    def score(self, ids: list[int]) -> Iterator[Tensor]:
        """Yield the logits [T, V] at every position of one text, at most SLICE at once."""
        ...


@dataclass
class CachedState:
    """The state of a CachedDecoder with B rows."""

    cache: Any
    """Transformers' DynamicCache: keys and values [B, heads, width, D] a layer, padded
    on the left.
    """
    lengths: list[int]
    """Real tokens of each row."""
    adapters: list[str]
    """The adapter of each row; without effect on a model that has none."""


class CachedDecoder:
    """A Transformers causal language model with its DynamicCache.

    Rows of unlike length end at the same column: the padding on their left is masked,
    and positions count real tokens only.

    Args:
        model: The model, or PEFT's wrapper around it.
        prefix: What was learned to stand before every prompt (prefix tuning, Li and
            Liang 2021, arXiv:2101.00190), one row.
        adapted: Whether the model is PEFT's; rows of unlike adapters then share each
            step (its mixed batches).
    """

    def __init__(
        self, model: Any, prefix: Sequence[Layer] = (), adapted: bool = False
    ) -> None:
        from transformers.cache_utils import DynamicCache, DynamicLayer

        self.model = model
        self.device = next(model.parameters()).device
        self._new_cache = DynamicCache
        self._prefix = prefix
        self._prefix_length = prefix[0][0].shape[2] if prefix else 0
        self._adapted = adapted

        forward = model.get_base_model().forward if adapted else model.forward
        parameters = inspect.signature(forward).parameters
        self._last_only = {}
        if "logits_to_keep" in parameters:
            self._last_only = {"logits_to_keep": 1}
        layers = DynamicCache(config=model.config).layers
        plain_layers = all(type(layer) is DynamicLayer for layer in layers)
        self.joins = plain_layers and "position_ids" in parameters

    draws = False

    def prefill(
        self, prompts: list[list[int]], adapters: list[str], seeds: list[int]
    ) -> tuple[Tensor, CachedState]:
        if self._prefix and len(prompts) > 1:
            return self._prefill_each(prompts, adapters, seeds)
        lengths = [self._prefix_length + len(prompt) for prompt in prompts]
        width = max(lengths)
        padded = [
            [0] * (width - length) + prompt
            for length, prompt in zip(lengths, prompts, strict=True)
        ]
        ids = torch.tensor(padded, device=self.device)
        state = CachedState(self._prefix_cache(), lengths, adapters)
        return self._forward(ids, state, width), state

    def _prefill_each(
        self, prompts: list[list[int]], adapters: list[str], seeds: list[int]
    ) -> tuple[Tensor, CachedState]:
        """As `prefill`, one by one: padding must stand before the prefix, not behind it."""
        rows = [
            self.prefill([prompt], [adapter], [seed])
            for prompt, adapter, seed in zip(prompts, adapters, seeds, strict=True)
        ]
        logits = torch.cat([row_logits for row_logits, _ in rows])
        state = reduce(self.join, [row_state for _, row_state in rows])
        return logits, state

    def _prefix_cache(self) -> Any:
        """A cache that holds the prefix, if there is one."""
        cache = self._new_cache(config=self.model.config)
        for index, (keys, values) in enumerate(self._prefix):
            cache.update(keys, values, index)
        return cache

    def step(self, tokens: Tensor, state: CachedState) -> tuple[Tensor, CachedState]:
        state.lengths = [length + 1 for length in state.lengths]
        width = state.cache.get_seq_length() + 1
        ids = tokens.to(self.device)[:, None]
        return self._forward(ids, state, width), state

    def _forward(self, ids: Tensor, state: CachedState, width: int) -> Tensor:
        """Logits [B, V] after ids [B, T], whose last column is number `width` - 1."""
        options: dict[str, Any] = dict(self._last_only)
        if self._adapted:
            options["adapter_names"] = state.adapters
        if min(state.lengths) < width:
            padding = [width - length for length in state.lengths]
            starts = torch.tensor(padding, device=self.device)[:, None]
            columns = torch.arange(width, device=self.device)[None]
            positions = (columns - starts).clamp(min=0)
            options["attention_mask"] = (columns >= starts).long()
            options["position_ids"] = positions[:, width - ids.shape[1] :]
        output = self.model(
            input_ids=ids, past_key_values=state.cache, use_cache=True, **options
        )
        logits: Tensor = output.logits[:, -1].float()
        return logits

    def select(self, state: CachedState, rows: list[int]) -> CachedState:
        state.cache.batch_select_indices(torch.tensor(rows, device=self.device))
        state.lengths = [state.lengths[row] for row in rows]
        state.adapters = [state.adapters[row] for row in rows]
        unused = state.cache.get_seq_length() - max(state.lengths)
        if unused > 0:
            _pad_left(state, -unused)
        return state

    def join(self, first: CachedState, second: CachedState) -> CachedState:
        gap = first.cache.get_seq_length() - second.cache.get_seq_length()
        if gap > 0:
            _pad_left(second, gap)
        elif gap < 0:
            _pad_left(first, -gap)
        for layer, other in zip(first.cache.layers, second.cache.layers, strict=True):
            layer.keys = torch.cat([layer.keys, other.keys])
            layer.values = torch.cat([layer.values, other.values])
        first.lengths = first.lengths + second.lengths
        first.adapters = first.adapters + second.adapters
        return first

    def score(self, ids: list[int]) -> Iterator[Tensor]:
        options: dict[str, Any] = {}
        if self._adapted:
            options["adapter_names"] = [BASE]
        if self._prefix or len(ids) > SLICE:
            options["past_key_values"] = self._prefix_cache()
        for part in torch.split(torch.tensor([ids], device=self.device), SLICE, dim=1):
            output = self.model(
                input_ids=part,
                use_cache="past_key_values" in options,
                **options,
            )
            yield output.logits[0].float()


def _pad_left(state: CachedState, count: int) -> None:
    """Widen the cache on the left by `count` columns; a negative count cuts."""
    for layer in state.cache.layers:
        layer.keys = F.pad(layer.keys, (0, 0, count, 0))
        layer.values = F.pad(layer.values, (0, 0, count, 0))


RecurrentState = tuple[Tensor, ...]
"""Of a RecurrentDecoder with B rows: tensors [layers, B, D]."""


@runtime_checkable
class Draws(Protocol):
    """A recurrent module whose texts come from points of a latent space."""

    def draw(self, seeds: Sequence[int]) -> Tensor:
        """Return a point for each seed, [B, D]."""
        ...

    def initial(self, z: Tensor) -> RecurrentState:
        """Return the state before the first token, for points [B, D]."""
        ...


class RecurrentDecoder:
    """A module with `step(ids [B, T], state) -> (logits [B, T, V], state)`."""

    joins = True

    def __init__(self, model: Any) -> None:
        self.model = model
        self.device = next(model.parameters()).device
        self.draws = isinstance(model, Draws)

    def prefill(
        self, prompts: list[list[int]], adapters: list[str], seeds: list[int]
    ) -> tuple[Tensor, RecurrentState]:
        logits, states = [], []
        for prompt, seed in zip(prompts, seeds, strict=True):
            ids = torch.tensor([prompt], device=self.device)
            first = None
            if self.draws:
                first = self.model.initial(self.model.draw([seed]))
            row_logits, state = self.model.step(ids, first)
            logits.append(row_logits[:, -1])
            states.append(state)
        return torch.cat(logits).float(), _join_rows(states)

    def step(
        self, tokens: Tensor, state: RecurrentState
    ) -> tuple[Tensor, RecurrentState]:
        logits, state = self.model.step(tokens.to(self.device)[:, None], state)
        return logits[:, -1].float(), state

    def select(self, state: RecurrentState, rows: list[int]) -> RecurrentState:
        return tuple(part[:, rows].contiguous() for part in state)

    def join(self, first: RecurrentState, second: RecurrentState) -> RecurrentState:
        return _join_rows([first, second])

    def score(self, ids: list[int]) -> Iterator[Tensor]:
        state = None
        for part in torch.split(torch.tensor([ids], device=self.device), SLICE, dim=1):
            logits, state = self.model.step(part, state)
            yield logits[0].float()


def _join_rows(states: Sequence[RecurrentState]) -> RecurrentState:
    """One state with the rows of all, in their order."""
    return tuple(torch.cat(parts, dim=1) for parts in zip(*states, strict=True))
