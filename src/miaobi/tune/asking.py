"""How a language model is asked and answers: a question as tokens, its answer as tokens, the likelihood of answers, and writing them.

The same for translation, preferences and distillation. Where the base chats, a question is a user's message in its own template, and an
answer ends as the template ends it; elsewhere the question stands as it is, and the answer ends with the end-of-text token.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from miaobi.engines.chat import ChatTemplate
from miaobi.nn.objective import Batch
from miaobi.tune.base import Base
from miaobi.tune.learner import Features, Piece, padded
from miaobi.tune.turns import spoken

Question = str | Sequence[Mapping[str, Any]]
"""A text, or the messages of a conversation that waits for its answer."""


@dataclass(frozen=True)
class Asking:
    tokenizer: Any
    template: ChatTemplate | None

    @property
    def pad(self) -> int:
        return _padding(self.tokenizer)

    def question(self, asked: Question) -> list[int]:
        if self.template is not None:
            return list(self.tokenizer(self.template.render(_messages(asked)), add_special_tokens=False).input_ids)
        text = asked if isinstance(asked, str) else "\n".join(str(message["content"]) for message in asked) + "\n"
        ids = list(self.tokenizer(text).input_ids)
        return ids[:-1] if len(ids) > 1 and ids[-1] == self.tokenizer.eos_token_id else ids

    def answer(self, asked: Question, text: str) -> list[int]:
        """The answer's tokens with the one that ends it."""
        written, end = text, [self.tokenizer.eos_token_id] if self.tokenizer.eos_token_id is not None else []
        if self.template is not None:
            before = self.template.render(_messages(asked))
            whole, turns = spoken(self.template, [*_messages(asked), {"role": "assistant", "content": text}])
            if turns and whole.startswith(before):
                written, end = whole[len(before):turns[-1][1]], []
        return list(self.tokenizer(written, add_special_tokens=False).input_ids) + end

    def ends(self, net: Any) -> list[int]:
        """The tokens that end an answer."""
        told = net.generation_config.eos_token_id if net.generation_config else None
        return sorted({*([told] if isinstance(told, int) else told or []), *self.answer("?", "!")[-1:]})


def _padding(tokenizer: Any) -> int:
    for token in (tokenizer.pad_token_id, tokenizer.eos_token_id):
        if token is not None:
            return int(token)
    return 0


def asking(base: Base) -> Asking:
    return Asking(base.tokenizer, base.template)


def _messages(asked: Question) -> list[Mapping[str, Any]]:
    return [{"role": "user", "content": asked}] if isinstance(asked, str) else list(asked)


def fitted(question: Sequence[int], answer: Sequence[int], max_length: int) -> tuple[np.ndarray, np.ndarray]:
    """Question and answer within `max_length` tokens (0: as they are): the answer keeps its beginning and half of the room at least,
    the question keeps its end, beside which the answer stands."""
    if max_length:
        answer = answer[:max(max_length // 2, max_length - len(question))]
        question = question[max(0, len(question) + len(answer) - max_length):]
    return np.array(question, dtype=np.int64), np.array(answer, dtype=np.int64)


def joined(questions: Sequence[np.ndarray], answers: Sequence[np.ndarray], pad: int) -> dict[str, Tensor]:
    """Rows of question and answer: ids [B, L], mask [B, L] (1 where there is text), learned [B, L] (True on the answer's tokens)."""
    rows = [np.concatenate(pair) for pair in zip(questions, answers)]
    learned = [np.r_[np.zeros(len(question)), np.ones(len(answer))] for question, answer in zip(questions, answers)]
    return {"ids": padded(rows, pad), "mask": padded([np.ones(len(row)) for row in rows], 0), "learned": padded(learned, 0).bool()}


def answer_logits(net: Any, batch: Batch) -> Tensor:
    """The logits [N, V] that foretell the N learned tokens of a batch, row by row.

    The output layer sees only the places before learned tokens: of a long question it would make a large part of the work in vain.
    """
    before = batch["learned"][:, 1:]
    with _output_sees(net, before):
        logits = net(input_ids=batch["ids"], attention_mask=batch["mask"], use_cache=False).logits
    return logits[0]


@contextmanager
def _output_sees(net: Any, before: Tensor) -> Iterator[None]:
    """Within: of the last hidden states [B, (prompt tokens +) L, D], the output layer gets those where `before` [B, L - 1] is true."""
    def pick(layer: nn.Module, given: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        hidden = given[0][:, -before.shape[1] - 1:-1]
        return (hidden[before][None], *given[1:])
    handle = net.get_output_embeddings().register_forward_pre_hook(pick)
    try:
        yield
    finally:
        handle.remove()


def answer_tokens(batch: Batch) -> Tensor:
    """The learned tokens [N], row by row."""
    return batch["ids"][batch["learned"]]


def row_sums(values: Tensor, batch: Batch) -> Tensor:
    """What the values [N] of learned tokens add up to in each row: [B]."""
    rows = torch.nonzero(batch["learned"])[:, 0]
    return torch.zeros(len(batch["ids"]), dtype=values.dtype, device=values.device).index_add(0, rows, values)


def log_likelihood(net: Any, batch: Batch) -> tuple[Tensor, Tensor]:
    """(log p(answer | question) [B], tokens of the answer [B])."""
    losses = torch.nn.functional.cross_entropy(answer_logits(net, batch), answer_tokens(batch), reduction="none")
    return -row_sums(losses, batch), batch["learned"].sum(1)


@torch.no_grad()
def write(net: Any, rows: Sequence[np.ndarray], asking: Asking, max_new_tokens: int, num_beams: int = 1) -> list[str]:
    """Answers to questions (their tokens), by greedy or beam search."""
    from transformers import GenerationConfig
    device = next(net.parameters()).device
    encoder_decoder = bool(net.config.is_encoder_decoder)
    side = "right" if encoder_decoder else "left"
    ids, mask = padded(rows, asking.pad, side, multiple=1), padded([np.ones(len(row)) for row in rows], 0, side, multiple=1)
    settings = GenerationConfig(max_new_tokens=max_new_tokens, num_beams=num_beams, do_sample=False, pad_token_id=asking.pad,
                                eos_token_id=asking.ends(net), bos_token_id=net.config.get_text_config().bos_token_id,
                                decoder_start_token_id=net.config.decoder_start_token_id if encoder_decoder else None)
    made = net.generate(input_ids=ids.to(device), attention_mask=mask.to(device), generation_config=settings)
    new = made if encoder_decoder else made[:, ids.shape[1]:]
    return [text.strip() for text in asking.tokenizer.batch_decode(new, skip_special_tokens=True)]


def pieces(tokenizer: Any, question: np.ndarray, answer: np.ndarray) -> list[Piece]:
    """Question and answer for the preview."""
    return [Piece(tokenizer.decode(question), False), Piece(tokenizer.decode(answer), True)]


def only_features(items: Sequence[Features], name: str) -> list[np.ndarray]:
    return [item[name] for item in items]


def layers_of(net: nn.Module) -> str:
    """The name inside `net` of the ModuleList of its layers (of the encoder, where there are two); empty where there is none."""
    config: Any = net.config
    depth = config.get_text_config().num_hidden_layers
    lists = [name for name, module in net.named_modules() if isinstance(module, nn.ModuleList) and len(module) == depth]
    return lists[0] if lists else ""
