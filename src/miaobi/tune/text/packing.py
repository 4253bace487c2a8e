"""Batches without padding, for any causal language model of Transformers: sequences lie
end to end and never see each other.

    ids        a a a a b b c c c ...     positions start again with each sequence
    attention  causal within a, within b, within c

What all sequences of a batch begin with (a system prompt) is computed once: they attend
to the same keys and values, so loss and gradient are those of each alone. Layers see
[1, T, C]; only attention knows about sequences. A model whose attention cannot be told
(a `Reader` finds out by trying) has its batches padded instead. Logits are made for
learned positions only, in chunks (nn/chunked.py).
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from miaobi.nn import chunked
from miaobi.nn.language import MASKED
from miaobi.nn.objective import Batch
from miaobi.tune.learner import Learner, padded
from miaobi.tune.methods import low_rank

NAME = "miaobi_packed"
SLACK = 8
"""Places that a sequence may be filled up by, where sequences attend in one product."""


def pack(rows: Sequence[tuple[np.ndarray, np.ndarray]], share: bool = True) -> Batch:
    """Sequences (ids, which of them are learned), each int64 and bool [length], as one batch:

    ids, positions, targets [T]: targets[t] is the token after t where that is learned, else MASKED.
    bounds [N + 1]: where sequences begin and the last one ends; what lies before
        bounds[0] is the beginning they share.
    order [N]: which of `rows` the n-th is; they are sorted by length. What follows a
        sequence's last learned token is left out.
    """
    ids, targets = list[np.ndarray](), list[np.ndarray]()
    for tokens, learned in rows:
        end = max(int(np.flatnonzero(learned)[-1]) if learned.any() else 0, 1)
        ids.append(tokens[:end])
        targets.append(
            np.append(np.where(learned[1:], tokens[1:], MASKED), MASKED)[:end]
        )
    order = np.argsort([-len(row) for row in ids], kind="stable")
    shared = _shared(ids, targets) if share and len(rows) > 1 else 0
    pieces = [ids[0][:shared], *(ids[place][shared:] for place in order)]
    aims = [targets[0][:shared], *(targets[place][shared:] for place in order)]
    places = [
        np.arange(shared),
        *(np.arange(shared, len(ids[place])) for place in order),
    ]
    bounds = np.cumsum([len(piece) for piece in pieces])
    return {
        name: torch.from_numpy(np.ascontiguousarray(value, dtype=np.int64))
        for name, value in (
            ("ids", np.concatenate(pieces)),
            ("positions", np.concatenate(places)),
            ("targets", np.concatenate(aims)),
            ("bounds", bounds),
            ("order", order),
        )
    }


def _shared(ids: Sequence[np.ndarray], targets: Sequence[np.ndarray]) -> int:
    """How many tokens all begin with, as far as none of them is learned from; each
    keeps one of its own at least.
    """
    most = min(
        min(
            len(row) - 1,
            int(np.argmax(aim != MASKED)) if (aim != MASKED).any() else len(row) - 1,
        )
        for row, aim in zip(ids, targets)
    )
    first = ids[0][:most]
    for row in ids[1:]:
        differs = np.flatnonzero(row[: len(first)] != first)
        first = first[: differs[0]] if len(differs) else first
    return max(len(first), 0)


@dataclass(frozen=True)
class Group:
    """Sequences that attend in one product, filled up to the longest."""

    start: int
    lengths: tuple[int, ...]
    device: torch.device

    @property
    def end(self) -> int:
        return self.start + sum(self.lengths)

    @cached_property
    def rows(self) -> Tensor | None:
        """Places of the filled-up sequences in the group's stretch of the stream, [N
        L]; None where all are of one length.
        """
        longest, start, rows = max(self.lengths), 0, list[Tensor]()
        if min(self.lengths) == longest:
            return None
        for length in self.lengths:
            rows.append((start + torch.arange(longest)).clamp(max=start + length - 1))
            start += length
        return torch.cat(rows).to(self.device)

    @cached_property
    def real(self) -> Tensor:
        """Where in the filled-up rows the stream's places are, [T of the group]."""
        longest = max(self.lengths)
        return torch.cat(
            [
                place * longest + torch.arange(length)
                for place, length in enumerate(self.lengths)
            ]
        ).to(self.device)

    @cached_property
    def filled_with_zeros(self) -> Tensor:
        """1 where a filled-up row is real, [N, 1, L, 1]."""
        return (torch.arange(max(self.lengths)) < torch.tensor(self.lengths)[:, None])[
            :, None, :, None
        ].to(self.device)

    def taken(self, filled: Tensor, dim: int) -> Tensor:
        """The stream's places out of filled-up rows that lie one after another along `dim`."""
        return filled if self.rows is None else filled.index_select(dim, self.real)


class Layout:
    """Where the sequences of a packed batch lie, for attention."""

    def __init__(self, bounds: Tensor) -> None:
        starts = bounds.tolist()
        self.shared = starts[0]
        self.groups = list[Group]()
        members = list[int]()
        start = starts[0]
        for length in [after - before for before, after in itertools.pairwise(starts)]:
            if members and length < members[0] - max(SLACK, members[0] // 8):
                self.groups.append(Group(start, tuple(members), bounds.device))
                start, members = self.groups[-1].end, []
            members.append(length)
        self.groups.append(Group(start, tuple(members), bounds.device))
        self.stretches = (
            [(Group(0, (self.shared,), bounds.device), 0)] if self.shared else []
        )
        """(sequences that attend together, how many tokens of the beginning they see)"""
        self.stretches += [(group, self.shared) for group in self.groups]
        self._masks = dict[tuple[int, int, int], Tensor]()

    def mask(
        self, length: int, before: int, window: int, device: torch.device
    ) -> Tensor | None:
        """[L, before + L], True where a query may look; None for plain causal attention."""
        if not before and (not window or length <= window):
            return None
        key = (length, before, window)
        if key not in self._masks:
            query = torch.arange(length)[:, None] + before
            other = torch.arange(before + length)[None]
            self._masks[key] = (
                (other <= query)
                & (
                    other > query - window
                    if window
                    else torch.ones(1, 1, dtype=torch.bool)
                )
            ).to(device)
        return self._masks[key]


class Unpackable(Exception):
    """The model's attention does something that is not known here."""


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
    """For Transformers' attention interface: query [1, H, T, D], key and value [1, K,
    T, D] -> [1, T, H, D].
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
    if any(
        settings.get(name) is not None for name in ("softcap", "s_aux", "position_bias")
    ):
        raise Unpackable
    mixed: Tensor = _Apart.apply(
        query, key, value, layout, sliding_window or 0, dropout, scaling
    )  # type: ignore[no-untyped-call]
    return mixed, None


class _Apart(torch.autograd.Function):
    """Attention group by group. Slicing in autograd would fill a tensor as large as the
    stream with zeros for every group's gradient.
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
        learning = any(part.requires_grad for part in (query, key, value))
        mixed = query.new_empty(1, query.shape[2], query.shape[1], value.shape[3])
        found = list[tuple[Group, tuple[Tensor, ...], Tensor]]()
        for group, before in layout.stretches:
            parts = tuple(
                _filled(part, group).detach().requires_grad_(learning)
                for part in (query, key, value)
            )
            shared = (
                tuple(
                    part[:, :, :before].detach().requires_grad_(learning)
                    for part in (key, value)
                )
                if before
                else ()
            )
            with torch.set_grad_enabled(learning):
                among = _attend(parts, shared, layout, window, dropout, scaling)
            mixed[0, group.start : group.end] = group.taken(
                among.detach().transpose(1, 2).flatten(0, 1), 0
            )
            found.append((group, (*parts, *shared), among))
        ctx.found, ctx.like = (
            found if learning else [],
            [(part.shape, part.dtype) for part in (query, key, value)],
        )
        return mixed

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        given = upstream[0]
        gradients = [given.new_empty(shape, dtype=dtype) for shape, dtype in ctx.like]
        # Those who share a beginning come after it, and add to what it was given.
        for group, inputs, among in ctx.found:
            received = _filled(given.transpose(1, 2), group, zeros=True).to(among.dtype)
            of_inputs = torch.autograd.grad(among, inputs, received, retain_graph=True)
            for whole, part in zip(gradients, of_inputs[:3]):
                whole[0, :, group.start : group.end] = group.taken(
                    part.transpose(0, 1).flatten(1, 2), 1
                )
            for whole, part in zip(gradients[1:], of_inputs[3:]):
                whole[:, :, : part.shape[2]] += part
        return (*gradients, None, None, None, None)


def _attend(
    parts: Sequence[Tensor],
    shared: Sequence[Tensor],
    layout: Layout,
    window: int,
    dropout: float,
    scaling: float | None,
) -> Tensor:
    """query [N, H, L, D], key and value [N, K, L, D] behind what is shared [1, K, P, D]
    -> [N, H, L, D].
    """
    query, key, value = parts
    if shared:
        key, value = (
            torch.cat([first.expand(len(own), -1, -1, -1), own], 2)
            for first, own in zip(shared, (key, value))
        )
    mask = layout.mask(
        query.shape[2], key.shape[2] - query.shape[2], window, query.device
    )
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


def _filled(stream: Tensor, group: Group, zeros: bool = False) -> Tensor:
    """[1, H, T, D] -> the group's sequences as [N, H, L, D], filled up with
    repetitions, or with zeros.
    """
    part = stream[0, :, group.start : group.end]
    if group.rows is not None:
        part = part.index_select(1, group.rows)
    part = part.unflatten(1, (len(group.lengths), -1)).transpose(0, 1)
    if zeros and group.rows is not None:
        part = part * group.filled_with_zeros
    return part


def _register() -> None:
    from transformers import AttentionInterface
    from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

    AttentionInterface.register(NAME, attention)
    AttentionMaskInterface.register(NAME, sdpa_mask)


class Reader:
    """How a causal language model is read: packed where its attention allows, and
    without logits that nobody looks at.

    net: one of Transformers' ...ForCausalLM, as it is or with adapters of PEFT.
    """

    def __init__(self, net: nn.Module) -> None:
        self.net = net
        self.core: Any = net
        configs = getattr(net, "peft_config", {}) if _is_peft(net) else {}
        self.prompted = any(config.is_prompt_learning for config in configs.values())
        if configs:
            low_rank.quicken(net)
            self.core = net.get_base_model()  # type: ignore[operator]
        self.head = self.core.get_output_embeddings()
        with _at_rest(net):
            self.scale = 0.0 if self.prompted else self._scale_of_logits()
            self.whole = not self.scale
            self.packs = not self.prompted and self._packs()

    def _scale_of_logits(self) -> float:
        """c where logits are c times the head of the last hidden state (Cohere and
        Granite scale them); 0 where they are something else (Gemma 2 caps them).
        """
        ids = self._trial(5)
        if type(self.head) is not nn.Linear:
            return 0.0
        logits, plain = (
            self.core(input_ids=ids).logits,
            self.head(self.core.base_model(input_ids=ids).last_hidden_state),
        )
        scale = float((logits * plain).sum() / plain.square().sum())
        scale = 1.0 if abs(scale - 1) < 1e-4 or self.head.bias is not None else scale
        return (
            scale
            if logits.allclose(
                plain * scale, rtol=1e-4, atol=1e-4 * float(logits.abs().max())
            )
            else 0.0
        )

    def _trial(self, length: int) -> Tensor:
        device = self.core.get_input_embeddings().weight.device
        return (
            torch.arange(1, length + 1, device=device)[None]
            % self.core.config.get_text_config().vocab_size
        )

    def _packs(self) -> bool:
        """Try: two sequences with a shared beginning, packed, against each alone.
        Leaves the model as it was where they differ.
        """
        if not self.core._supports_attention_backend:
            return False
        own = self.core.config._attn_implementation
        rows = [self._trial(length)[0].cpu().numpy() for length in (12, 7)]
        rows[0] = np.concatenate([rows[0][:3], rows[0][:2:-1]])
        alone = [
            self._run(input_ids=torch.from_numpy(row)[None].to(self._trial(1).device))[
                0
            ]
            for row in rows
        ]
        _register()
        self.core.set_attn_implementation(NAME)
        batch = pack(
            [(np.append(row, 1), np.arange(len(row) + 1) == len(row)) for row in rows]
        )
        try:
            found = self._packed(batch)
        except (Unpackable, TypeError):
            found = None
        shared = int(batch["bounds"][0])
        wanted = torch.cat([alone[0][:shared], *(row[shared:] for row in alone)])
        if found is not None and found.allclose(
            wanted, rtol=1e-3, atol=1e-3 * float(wanted.abs().max())
        ):
            return True
        self.core.set_attn_implementation(own)
        return False

    def _run(self, **settings: Any) -> Tensor:
        """Last hidden states [N, T, C] scaled for the head, or logits where `whole`."""
        if self.whole:
            return (
                self.net(**settings, use_cache=False).logits
                if self.prompted
                else self.core(**settings, use_cache=False).logits
            )
        found: Tensor = self.core.base_model(
            **settings, use_cache=False
        ).last_hidden_state
        return found if self.scale == 1 else found * self.scale

    def _packed(self, batch: Batch) -> Tensor:
        """[T, C or V]. The mask is a stand-in, so that Transformers makes none of [T,
        T]; attention goes by the layout.
        """
        ids = batch["ids"][None]
        return self._run(
            input_ids=ids,
            position_ids=batch["positions"][None],
            layout=Layout(batch["bounds"]),
            attention_mask=torch.ones(1, 1, 1, 1, dtype=torch.bool, device=ids.device),
        )[0]

    def _padded(self, batch: Batch) -> Tensor:
        """The same for models that do not pack."""
        lengths = batch["bounds"].diff()
        rows = [row.cpu().numpy() for row in batch["ids"].split(lengths.tolist())]
        mask = padded([np.ones(len(row)) for row in rows], 0).to(batch["ids"].device)
        # A learned prompt's own answers come first where the model does not take them
        # away.
        return self._run(
            input_ids=padded(rows, 0).to(mask.device), attention_mask=mask
        )[:, -mask.shape[1] :][mask.bool()]

    def states(self, batch: Batch, noise: float = 0.0) -> Tensor:
        """The last hidden states of learned positions [N, C], scaled for the head;
        their logits [N, V] where `whole`. noise: NEFTune's α.
        """
        with self._noisy(batch, noise) if noise else nullcontext():
            found = self._packed(batch) if self.packs else self._padded(batch)
        return found[batch["targets"] != MASKED]

    @contextmanager
    def _noisy(self, batch: Batch, alpha: float) -> Iterator[None]:
        """Within: embeddings get noise, uniform in ± α/√(L d) for a sequence of L
        tokens and width d (arXiv:2310.05914).
        """
        lengths = batch["bounds"].diff()
        scale = alpha / lengths.repeat_interleave(lengths).float().sqrt()

        def add(module: nn.Module, inputs: Any, embedded: Tensor) -> Tensor:
            spread = scale if self.packs else padded_like(scale, lengths)
            return embedded + (torch.rand_like(embedded) * 2 - 1) * (
                spread / embedded.shape[-1] ** 0.5
            ).view(*embedded.shape[:2], 1).to(embedded.dtype)

        handle = self.core.get_input_embeddings().register_forward_hook(add)
        try:
            yield
        finally:
            handle.remove()

    def nats(self, batch: Batch, noise: float = 0.0) -> Tensor:
        """-log p of each learned token, in the batch's order, float32 [N]; gradients flow."""
        found, targets = (
            self.states(batch, noise),
            batch["targets"][batch["targets"] != MASKED],
        )
        if self.whole:
            return F.cross_entropy(found.float(), targets, reduction="none")
        return chunked.cross_entropy(found, self.head.weight, self.head.bias, targets)

    def scores(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """(-log p, the likeliest token) of each learned token, without gradients."""
        found, targets = (
            self.states(batch),
            batch["targets"][batch["targets"] != MASKED],
        )
        if self.whole:
            return F.cross_entropy(
                found.float(), targets, reduction="none"
            ), found.argmax(-1)
        return chunked.scores(found, self.head.weight, self.head.bias, targets)


class PackedLearner(Learner):
    """A learner whose net is a causal language model that is read by a `Reader`."""

    adapter_kind = "CAUSAL_LM"
    _reader: Reader | None = None

    @property
    def reader(self) -> Reader:
        """Of the net as it is now: adapters are put in after the learner was made."""
        if self._reader is None or self._reader.net is not self.net:
            self._reader = Reader(self.net)
        return self._reader

    @property
    def shares(self) -> bool:
        """Whether what all sequences of a batch begin with is computed once: not where
        something random would then be common too.
        """
        random = self.training and (
            bool(self.neftune_alpha)
            or any(
                isinstance(module, nn.Dropout) and module.p > 0
                for module in self.net.modules()
            )
        )
        return self.reader.packs and not random


def layers_of(net: nn.Module) -> str:
    """The name of the list of a language model's layers, its first ModuleList; empty
    where there is none.
    """
    return next(
        (
            name
            for name, module in net.named_modules()
            if isinstance(module, nn.ModuleList)
        ),
        "",
    )


def padded_like(values: Tensor, lengths: Tensor) -> Tensor:
    """Values of a packed stream as rows filled up with zeros, as `_padded` lays them out."""
    rows = nn.utils.rnn.pad_sequence(
        list(values.split(lengths.tolist())), batch_first=True
    )
    return F.pad(rows, (0, -rows.shape[1] % 8))


def by_sequence(batch: Batch, values: Tensor) -> list[Tensor]:
    """Values of learned positions, one tensor for each of the rows that `pack` was
    given, in their order.
    """
    learned = batch["targets"] != MASKED
    counts = [
        int(part.sum())
        for part in learned[int(batch["bounds"][0]) :].split(
            batch["bounds"].diff().tolist()
        )
    ]
    parts = values.split(counts)
    return [parts[place] for place in batch["order"].argsort().tolist()]


def _is_peft(net: nn.Module) -> bool:
    from peft import PeftModel

    return isinstance(net, PeftModel)


@contextmanager
def _at_rest(net: nn.Module) -> Iterator[None]:
    training = net.training
    net.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        net.train(training)
