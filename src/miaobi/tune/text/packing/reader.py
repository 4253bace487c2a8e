"""A language model's losses and hidden states of a packed batch.

A model whose attention does not follow a layout (a `Reader` tries it) has its batches
padded instead. Logits are computed for learned positions only, in chunks
(nn/chunked.py).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from miaobi.nn import chunked
from miaobi.nn.language import MASKED
from miaobi.nn.objective import Batch
from miaobi.tune.learner import padded
from miaobi.tune.methods import low_rank
from miaobi.tune.text.packing import attention
from miaobi.tune.text.packing.layout import Layout, lengths_of, pack

MULTIPLE = 8
"""Padded batches have lengths that are multiples of this."""


class Reader:
    """A causal language model, packed where its attention allows.

    Args:
        net: one of Transformers' ...ForCausalLM, as it is or with adapters of PEFT.
    """

    def __init__(self, net: nn.Module) -> None:
        self.net = net
        self.core: Any = _unwrapped(net)
        """The model without PEFT around it."""
        self.prompted = _has_learned_prompt(net)
        """Whether a learned prompt of PEFT stands before every sequence."""
        self.head = self.core.get_output_embeddings()
        self.bias = _bias_of(self.head)
        self.scale = 0.0
        """What logits are as a multiple of the head of the last hidden state."""
        self.packs = False
        """Whether batches are packed, not padded."""
        self.returns_logits = True
        """Whether `states` are logits: they are not the head's, or behind a prompt."""
        if not self.prompted:
            with _evaluating(net):
                self.scale = self._scale_of_logits()
                self.returns_logits = not self.scale
                self.packs = self._try_packing()

    def _scale_of_logits(self) -> float:
        """Return c where logits are c times the head of the last hidden state.

        Cohere and Granite scale them; 0 where they are something else (Gemma 2 caps
        them).
        """
        if type(self.head) is not nn.Linear and not _trains_rows(self.head):
            return 0.0
        ids = self._trial_ids(5)
        logits = self.core(input_ids=ids).logits
        plain = self.head(self.core.base_model(input_ids=ids).last_hidden_state)
        scale = float((logits * plain).sum() / plain.square().sum())
        if abs(scale - 1) < 1e-4 or self.bias is not None:
            scale = 1.0
        tolerance = 1e-4 * float(logits.abs().max())
        fits = logits.allclose(plain * scale, rtol=1e-4, atol=tolerance)
        return scale if fits else 0.0

    def _trial_ids(self, length: int) -> Tensor:
        device = self.core.get_input_embeddings().weight.device
        vocabulary = self.core.config.get_text_config().vocab_size
        return torch.arange(1, length + 1, device=device)[None] % int(vocabulary)

    def _try_packing(self) -> bool:
        """Return whether two packed sequences that share a beginning give what each
        gives alone.

        The model is left as it was where they differ.
        """
        if not self.core._supports_attention_backend:
            return False
        own_attention = self.core.config._attn_implementation
        forward_row = self._trial_ids(12)[0].cpu().numpy()
        short_row = self._trial_ids(7)[0].cpu().numpy()
        long_row = np.concatenate([forward_row[:3], forward_row[:2:-1]])
        rows = [long_row, short_row]
        alone = [self._alone(row) for row in rows]
        attention.register()
        self.core.set_attn_implementation(attention.NAME)
        batch = pack([_learned_at_end(row) for row in rows])
        try:
            packed = self._packed(batch)
        except (attention.Unpackable, TypeError):
            packed = None
        shared = int(batch["bounds"][0])
        expected = torch.cat([alone[0][:shared], *(row[shared:] for row in alone)])
        tolerance = 1e-3 * float(expected.abs().max())
        if packed is not None and packed.allclose(expected, rtol=1e-3, atol=tolerance):
            return True
        self.core.set_attn_implementation(own_attention)
        return False

    def _alone(self, row: np.ndarray) -> Tensor:
        device = self.core.get_input_embeddings().weight.device
        return self._run(input_ids=torch.from_numpy(row)[None].to(device))[0]

    def _run(self, **inputs: Any) -> Tensor:
        """Return last hidden states [N, T, C] scaled for the head, or logits."""
        if self.returns_logits:
            net: Any = self.net if self.prompted else self.core
            logits: Tensor = net(**inputs, use_cache=False).logits
            return logits
        output = self.core.base_model(**inputs, use_cache=False)
        states: Tensor = output.last_hidden_state
        return states if self.scale == 1 else states * self.scale

    def _packed(self, batch: Batch) -> Tensor:
        """Return [T, C or V].

        The mask is a stand-in, so that Transformers makes none of [T, T]; attention
        follows the layout.
        """
        ids = batch["ids"][None]
        mask = torch.ones(1, 1, 1, 1, dtype=torch.bool, device=ids.device)
        states = self._run(
            input_ids=ids,
            position_ids=batch["positions"][None],
            layout=Layout(batch["bounds"]),
            attention_mask=mask,
        )
        return states[0]

    def _padded(self, batch: Batch) -> Tensor:
        """Return the same for models that do not pack."""
        parts = torch.split(batch["ids"], lengths_of(batch))
        rows = [part.cpu().numpy() for part in parts]
        mask = padded([np.ones(len(row)) for row in rows], 0, multiple=MULTIPLE)
        mask = mask.to(batch["ids"].device)
        ids = padded(rows, 0, multiple=MULTIPLE).to(mask.device)
        states = self._run(input_ids=ids, attention_mask=mask)
        # The outputs of a learned prompt come first where the model does not drop them.
        return states[:, -mask.shape[1] :][mask.bool()]

    def states(self, batch: Batch, noise: float = 0.0) -> Tensor:
        """Return the last hidden states of learned positions [N, C], scaled for the head.

        Where `returns_logits` they are the logits [N, V].

        Args:
            batch: what `pack` gave.
            noise: NEFTune's α; 0 for none.
        """
        context = self._noisy_embeddings(batch, noise) if noise else nullcontext()
        with context:
            states = self._packed(batch) if self.packs else self._padded(batch)
        return states[batch["targets"] != MASKED]

    @contextmanager
    def _noisy_embeddings(self, batch: Batch, alpha: float) -> Iterator[None]:
        """Within, embeddings get noise: uniform in ± α/√(L d) for a sequence of L tokens
        and width d (arXiv:2310.05914).
        """
        lengths = batch["bounds"].diff()
        scale = alpha / lengths.repeat_interleave(lengths).float().sqrt()
        if not self.packs:
            scale = _pad_stream(scale, lengths.tolist())

        def add(module: nn.Module, inputs: Any, embedded: Tensor) -> Tensor:
            noise = torch.rand_like(embedded) * 2 - 1
            count, length, width = embedded.shape
            spread = (scale / float(width**0.5)).view(count, length, 1)
            return embedded + noise * spread.to(embedded.dtype)

        handle = self.core.get_input_embeddings().register_forward_hook(add)
        try:
            yield
        finally:
            handle.remove()

    def logits(self, batch: Batch) -> Tensor:
        """Return the logits of learned positions [N, V]."""
        states = self.states(batch)
        if self.returns_logits:
            return states
        logits: Tensor = self.head(states)
        return logits

    def nats(self, batch: Batch, noise: float = 0.0) -> Tensor:
        """Return -log p of each learned token, float32 [N], in the batch's order.

        Args:
            batch: what `pack` gave.
            noise: NEFTune's α; 0 for none.
        """
        states = self.states(batch, noise)
        targets = _targets(batch)
        if self.returns_logits:
            return F.cross_entropy(states.float(), targets, reduction="none")
        return chunked.cross_entropy(states, self.head.weight, self.bias, targets)

    def scores(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return (-log p, the likeliest token) of each learned token, without gradients."""
        states = self.states(batch)
        targets = _targets(batch)
        if self.returns_logits:
            nats = F.cross_entropy(states.float(), targets, reduction="none")
            return nats, states.argmax(-1)
        return chunked.scores(states, self.head.weight, self.bias, targets)


def _targets(batch: Batch) -> Tensor:
    return batch["targets"][batch["targets"] != MASKED]


def _learned_at_end(row: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the row with one more token, which alone is learned, for `pack`."""
    learned = np.zeros(len(row) + 1, dtype=bool)
    learned[-1] = True
    return np.append(row, 1), learned


def _pad_stream(values: Tensor, lengths: list[int]) -> Tensor:
    """Return values of a packed stream as padded rows, as `Reader._padded` has them."""
    parts = list(torch.split(values, lengths))
    rows = nn.utils.rnn.pad_sequence(parts, batch_first=True)
    return F.pad(rows, (0, -rows.shape[1] % MULTIPLE))


def _unwrapped(net: Any) -> Any:
    """Return the model without PEFT around it, its LoRA layers sped up in place."""
    from peft import PeftModel

    if not isinstance(net, PeftModel):
        return net
    low_rank.speed_up(net)
    return net.get_base_model()


def _trains_rows(head: Any) -> bool:
    """Return whether PEFT trains single rows of an output layer, those of added tokens."""
    from peft.utils.other import TrainableTokensWrapper

    return isinstance(head, TrainableTokensWrapper)


def _bias_of(head: Any) -> Tensor | None:
    """Return the bias of an output layer; None where it has none, or PEFT wraps it."""
    if not isinstance(head, nn.Linear):
        return None
    return head.bias


def _has_learned_prompt(net: nn.Module) -> bool:
    from peft import PeftModel

    if not isinstance(net, PeftModel):
        return False
    configs: Iterable[Any] = net.peft_config.values()
    return any(config.is_prompt_learning for config in configs)


@contextmanager
def _evaluating(net: nn.Module) -> Iterator[None]:
    """Within, the net is in evaluation mode and nothing has gradients."""
    training = net.training
    net.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        net.train(training)
