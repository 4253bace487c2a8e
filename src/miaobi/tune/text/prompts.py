"""How a language model is asked and how it answers: a question as tokens, its answer as
tokens, and answers for many questions at once.

The same for translation, preferences and distillation. Where the base chats, a question
is a user's message in its own template, and an answer ends as the template ends it;
elsewhere the question stands as it is, and the answer ends with the end-of-text token.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from miaobi.models.base import Base
from miaobi.models.chat import ChatTemplate
from miaobi.nn.objective import Batch
from miaobi.tune.learner import padded
from miaobi.tune.text.heads import padding_of
from miaobi.tune.text.packing import Reader
from miaobi.tune.text.turns import assistant_turns

Question = str | Sequence[Mapping[str, Any]]
"""A text, or the messages of a conversation that waits for its answer."""


@dataclass(frozen=True)
class PromptFormat:
    tokenizer: Any
    template: ChatTemplate | None

    @property
    def pad(self) -> int:
        return padding_of(self.tokenizer)

    def question(self, asked: Question) -> list[int]:
        if self.template is not None:
            return list(
                self.tokenizer(
                    self.template.render(_messages(asked)), add_special_tokens=False
                ).input_ids
            )
        text = (
            asked
            if isinstance(asked, str)
            else "\n".join(str(message["content"]) for message in asked) + "\n"
        )
        ids = list(self.tokenizer(text).input_ids)
        return (
            ids[:-1] if len(ids) > 1 and ids[-1] == self.tokenizer.eos_token_id else ids
        )

    def answer(self, asked: Question, text: str) -> list[int]:
        """The answer's tokens with the one that ends it. White space that a template
        writes after that is nobody's to say.
        """
        written, end = (
            text,
            []
            if self.tokenizer.eos_token_id is None
            else [self.tokenizer.eos_token_id],
        )
        if self.template is not None:
            before = self.template.render(_messages(asked))
            whole, turns = assistant_turns(
                self.template,
                [*_messages(asked), {"role": "assistant", "content": text}],
            )
            if turns and whole.startswith(before):
                written, end = whole[len(before) : turns[-1][1]], []
        return list(self.tokenizer(written, add_special_tokens=False).input_ids) + end

    def eos_ids(self, net: Any) -> list[int]:
        """The tokens that end an answer."""
        told = net.generation_config.eos_token_id
        return sorted(
            {
                *([told] if isinstance(told, int) else told or []),
                *self.answer("?", "!")[-1:],
            }
        )


def prompt_format_of(base: Base) -> PromptFormat:
    return PromptFormat(base.tokenizer, base.template)


def _messages(asked: Question) -> list[Mapping[str, Any]]:
    return (
        [{"role": "user", "content": asked}] if isinstance(asked, str) else list(asked)
    )


def fit(
    question: Sequence[int], answer: Sequence[int], max_length: int
) -> tuple[np.ndarray, np.ndarray]:
    """Question and answer within `max_length` tokens (0: as they are): the answer keeps
    its beginning and half of the room at least, the question keeps its end, beside
    which the answer stands.
    """
    if max_length:
        answer = answer[: max(max_length // 2, max_length - len(question))]
        question = question[max(0, len(question) + len(answer) - max_length) :]
    return np.array(question, dtype=np.int64), np.array(answer, dtype=np.int64)


def row(question: np.ndarray, answer: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(ids, which are learned) of a question with its answer, for `packing.pack`."""
    return np.concatenate([question, answer]), np.arange(
        len(question) + len(answer)
    ) >= len(question)


def logits_of(reader: Reader, batch: Batch) -> Tensor:
    """Logits [N, V] of the learned tokens of a packed batch, in its order."""
    states = reader.states(batch)
    return states if reader.whole else reader.head(states)


@torch.no_grad()
def generate(
    net: Any,
    rows: Sequence[np.ndarray],
    prompt_format: PromptFormat,
    max_new_tokens: int,
    num_beams: int = 1,
) -> list[str]:
    """Answers to questions (their tokens), by greedy or beam search, all in one batch;
    one by one behind a learned prompt, whose place padding would shift.
    """
    from transformers import GenerationConfig

    if len(rows) > 1 and _prompted(net):
        return [
            generate(net, [row], prompt_format, max_new_tokens, num_beams)[0]
            for row in rows
        ]
    device = next(net.parameters()).device
    encoder_decoder = bool(net.config.is_encoder_decoder)
    side = "right" if encoder_decoder else "left"
    ids, mask = (
        padded(rows, prompt_format.pad, side, multiple=1),
        padded([np.ones(len(row)) for row in rows], 0, side, multiple=1),
    )
    settings = GenerationConfig(
        max_new_tokens=max_new_tokens,
        num_beams=num_beams,
        do_sample=False,
        pad_token_id=prompt_format.pad,
        eos_token_id=prompt_format.eos_ids(net) or None,
        bos_token_id=prompt_format.tokenizer.bos_token_id,
        decoder_start_token_id=net.config.decoder_start_token_id
        if encoder_decoder
        else None,
    )
    with warnings.catch_warnings():
        warnings.filterwarnings(
            "ignore", "Position ids are not supported"
        )  # PEFT's, behind a learned prompt: one row has the usual ones
        made = net.generate(
            input_ids=ids.to(device),
            attention_mask=mask.to(device),
            generation_config=settings,
        )
    new = made if encoder_decoder else made[:, ids.shape[1] :]
    return [
        text.strip()
        for text in prompt_format.tokenizer.batch_decode(new, skip_special_tokens=True)
    ]


def _prompted(net: Any) -> bool:
    from peft import PeftModel

    return isinstance(net, PeftModel) and bool(
        net.active_peft_config.is_prompt_learning
    )
