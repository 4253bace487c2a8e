"""What a packed batch is, and which of its sequences attend together."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from miaobi.nn.language import MASKED
from miaobi.nn.objective import Batch

SLACK = 8
"""Positions that a sequence may be padded by where sequences attend in one product."""


def pack(rows: Sequence[tuple[np.ndarray, np.ndarray]], share: bool = True) -> Batch:
    """Return sequences as one batch.

    ids, positions, targets [T]: targets[t] is the token after t where that is learned,
    else MASKED. bounds [N + 1]: where sequences begin and the last one ends; what lies
    before bounds[0] is the beginning they share. order [N]: which of `rows` the n-th
    is; they are sorted by length. What follows a sequence's last learned token is left
    out.

    Args:
        rows: (ids, which of them are learned), each int64 and bool [length].
        share: whether a common beginning is computed once.
    """
    ids = list[np.ndarray]()
    targets = list[np.ndarray]()
    for tokens, learned in rows:
        row_ids, row_targets = _inputs_and_targets(tokens, learned)
        ids.append(row_ids)
        targets.append(row_targets)
    lengths = np.array([len(row) for row in ids])
    order = np.argsort(-lengths, kind="stable")
    shared = 0
    if share and len(rows) > 1:
        shared = _shared_length(ids, targets)
    own_lengths = lengths[order] - shared
    bounds = shared + np.cumsum([0, *own_lengths])
    positions = [np.arange(length) for length in lengths]
    return {
        "ids": _end_to_end(ids, order, shared),
        "positions": _end_to_end(positions, order, shared),
        "targets": _end_to_end(targets, order, shared),
        "bounds": _tensor(bounds),
        "order": _tensor(order),
    }


def _inputs_and_targets(
    tokens: np.ndarray, learned: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return a row's tokens up to the last that predicts something, and its targets."""
    last = 0
    if learned.any():
        last = int(np.flatnonzero(learned)[-1])
    end = max(last, 1)
    targets = np.full(len(tokens), MASKED)
    targets[:-1] = np.where(learned[1:], tokens[1:], MASKED)
    return tokens[:end], targets[:end]


def _end_to_end(rows: Sequence[np.ndarray], order: np.ndarray, shared: int) -> Tensor:
    """Return the shared beginning, then the rest of each row, in their order."""
    parts = [rows[0][:shared], *(rows[row][shared:] for row in order)]
    return _tensor(np.concatenate(parts))


def _tensor(values: np.ndarray) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(values, dtype=np.int64))


def _shared_length(ids: Sequence[np.ndarray], targets: Sequence[np.ndarray]) -> int:
    """Return how many tokens all rows begin with, as far as none is learned from.

    Each row keeps one token of its own at least.
    """
    most = min(map(_unlearned_length, targets))
    prefix = ids[0][:most]
    for row in ids[1:]:
        beginning = row[: len(prefix)]
        differences = np.flatnonzero(beginning != prefix)
        if len(differences):
            prefix = prefix[: differences[0]]
    return len(prefix)


def _unlearned_length(targets: np.ndarray) -> int:
    """Return how many positions come before the first target, the last one excepted."""
    own = len(targets) - 1
    has_target = targets != MASKED
    if not has_target.any():
        return own
    first = int(np.argmax(has_target))
    return min(own, first)


def by_sequence(batch: Batch, values: Tensor) -> list[Tensor]:
    """Return values of learned positions, a tensor for each row that `pack` was given."""
    shared = int(batch["bounds"][0])
    learned = batch["targets"][shared:] != MASKED
    rows = torch.split(learned, lengths_of(batch))
    counts = [int(row.sum()) for row in rows]
    parts = torch.split(values, counts)
    order = batch["order"].argsort().tolist()
    return [parts[row] for row in order]


def lengths_of(batch: Batch) -> list[int]:
    """Return how many tokens of its own each sequence of a packed batch has."""
    lengths: list[int] = batch["bounds"].diff().tolist()
    return lengths


@dataclass(frozen=True)
class Group:
    """Sequences that attend in one product, padded to the longest."""

    start: int
    """Where they begin in the packed stream."""
    lengths: tuple[int, ...]
    device: torch.device

    @property
    def end(self) -> int:
        return self.start + sum(self.lengths)

    @cached_property
    def padded_index(self) -> Tensor | None:
        """The stream's position for each padded one, [N L]; None where none is padded.

        Padding repeats a sequence's last token.
        """
        longest = max(self.lengths)
        if min(self.lengths) == longest:
            return None
        rows = list[Tensor]()
        start = 0
        for length in self.lengths:
            last = start + length - 1
            row = start + torch.arange(longest)
            rows.append(row.clamp(max=last))
            start += length
        return torch.cat(rows).to(self.device)

    @cached_property
    def unpadded_index(self) -> Tensor:
        """The padded position for each of the stream's, [T of the group]."""
        longest = max(self.lengths)
        rows = list[Tensor]()
        for row, length in enumerate(self.lengths):
            start = row * longest
            rows.append(start + torch.arange(length))
        return torch.cat(rows).to(self.device)

    @cached_property
    def is_real(self) -> Tensor:
        """Whether a padded position is one of the stream's, [N, 1, L, 1]."""
        positions = torch.arange(max(self.lengths))
        lengths = torch.tensor(self.lengths)
        is_real = positions < lengths[:, None]
        is_real = is_real[:, None, :, None]
        return is_real.to(self.device)

    def pad(self, stream: Tensor) -> Tensor:
        """Return [1, H, T, D] as the group's padded sequences, [N, H, L, D]."""
        part = stream[0, :, self.start : self.end]
        if self.padded_index is not None:
            part = part.index_select(1, self.padded_index)
        heads, _, width = part.shape
        return part.view(heads, len(self.lengths), -1, width).transpose(0, 1)

    def pad_with_zeros(self, stream: Tensor) -> Tensor:
        """Return [1, H, T, D] as [N, H, L, D], with zeros where a sequence is padded."""
        padded = self.pad(stream)
        return padded if self.padded_index is None else padded * self.is_real

    def unpad(self, padded: Tensor, dim: int) -> Tensor:
        """Return the stream's positions of padded sequences laid end to end along `dim`."""
        if self.padded_index is None:
            return padded
        return padded.index_select(dim, self.unpadded_index)


class Layout:
    """Where the sequences of a packed batch lie, for attention.

    Args:
        bounds: as `pack` gives them.
    """

    def __init__(self, bounds: Tensor) -> None:
        self.shared = int(bounds[0])
        self.groups = _groups(bounds)
        self.steps = [(group, self.shared) for group in self.groups]
        """(sequences that attend together, tokens of the beginning that they see)"""
        if self.shared:
            beginning = Group(0, (self.shared,), bounds.device)
            self.steps.insert(0, (beginning, 0))
        self._masks = dict[tuple[int, int, int], Tensor]()

    def mask(
        self, length: int, before: int, window: int, device: torch.device
    ) -> Tensor | None:
        """Return what a query may attend to, bool [L, before + L].

        None stands for plain causal attention.

        Args:
            length: of the padded sequences, L.
            before: tokens of the shared beginning.
            window: tokens that a query attends to, itself included; 0 for all.
            device: of the mask.
        """
        if not before and (not window or length <= window):
            return None
        key = (length, before, window)
        if key not in self._masks:
            query = torch.arange(length)[:, None] + before
            other = torch.arange(before + length)[None]
            mask = other <= query
            if window:
                mask &= other > query - window
            self._masks[key] = mask.to(device)
        return self._masks[key]


def _groups(bounds: Tensor) -> list[Group]:
    """Return the sequences, which are sorted by length, in groups of similar length."""
    starts = bounds.tolist()
    device = bounds.device
    groups = list[Group]()
    start = starts[0]
    members = list[int]()
    for begin, end in itertools.pairwise(starts):
        length = end - begin
        slack = max(SLACK, members[0] // 8) if members else 0
        if members and length < members[0] - slack:
            group = Group(start, tuple(members), device)
            groups.append(group)
            start = begin
            members = []
        members.append(length)
    group = Group(start, tuple(members), device)
    groups.append(group)
    return groups
