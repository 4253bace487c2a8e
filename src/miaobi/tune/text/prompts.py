"""Prompts and answers of a language model as tokens, and answers to many prompts at once.

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

from miaobi.models.added_tokens import check_messages
from miaobi.models.base import Base
from miaobi.models.chat import ChatTemplate
from miaobi.models.control_tokens import Prompt
from miaobi.tune.learner import Side, padded
from miaobi.tune.text.heads import padding_of
from miaobi.tune.text.turns import assistant_turns, unwritten

Question = str | Sequence[Mapping[str, Any]]
"""A text, or the messages of a conversation that waits for its answer."""


@dataclass(frozen=True)
class PromptFormat:
    """How questions and answers become tokens."""

    tokenizer: Any
    template: ChatTemplate | None
    """None for a base that does not chat."""

    @property
    def pad(self) -> int:
        return padding_of(self.tokenizer)

    def question(self, question: Question) -> list[int]:
        """Return the question's tokens, up to where the answer begins."""
        if self.template is not None:
            return self.template.render(_messages(question)).encode(self._encode)
        ids = list(self.tokenizer(_text(question)).input_ids)
        if len(ids) > 1 and ids[-1] == self.tokenizer.eos_token_id:
            return ids[:-1]
        return ids

    def unwritten(self, question: Question) -> frozenset[str]:
        """Return the keys of a question's messages that it is written without.

        Raises Unusable for calls that are not written, BadInput for what the template
        refuses.
        """
        if isinstance(question, str):
            return frozenset()
        if self.template is not None:
            return unwritten(self.template, question)
        keys = set().union(*question) - {"role", "content"}
        return frozenset(f"messages[].{key}" for key in keys)

    def answer(self, question: Question, text: str) -> list[int]:
        """Return the answer's tokens with the one that ends it.

        White space that a template writes after that token is not part of the answer.
        """
        if self.template is not None:
            turn = self._last_turn(self.template, question, text)
            if turn is not None:
                return turn.encode(self._encode)
        ids = self._encode(text)
        if self.tokenizer.eos_token_id is not None:
            ids.append(self.tokenizer.eos_token_id)
        return ids

    def _encode(self, text: str) -> list[int]:
        return list(self.tokenizer(text, add_special_tokens=False).input_ids)

    def _last_turn(
        self, template: ChatTemplate, question: Question, text: str
    ) -> Prompt | None:
        """Return the answer as the template writes it; None where it is not marked off."""
        messages = _messages(question)
        prompt = template.render(messages).text
        answer = {"role": "assistant", "content": text}
        dialogue, turns = assistant_turns(template, [*messages, answer])
        if not turns or not dialogue.text.startswith(prompt):
            return None
        _, end = turns[-1]
        return dialogue[len(prompt) : end]

    def eos_ids(self, net: Any) -> list[int]:
        """Return the tokens that end an answer, by the model and by its template."""
        ids = net.generation_config.eos_token_id
        if ids is None:
            ids = []
        elif isinstance(ids, int):
            ids = [ids]
        return sorted({*ids, *self.answer("?", "!")[-1:]})


def prompt_format_of(base: Base) -> PromptFormat:
    check_messages(base, base.template)
    return PromptFormat(base.tokenizer, base.template)


def _messages(question: Question) -> list[Mapping[str, Any]]:
    if isinstance(question, str):
        return [{"role": "user", "content": question}]
    return list(question)


def _text(question: Question) -> str:
    """Return the question as a base reads it that does not chat."""
    if isinstance(question, str):
        return question
    return "\n".join(str(message["content"]) for message in question) + "\n"


def fit(
    question: Sequence[int], answer: Sequence[int], max_length: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return question and answer within `max_length` tokens together, int64.

    The question loses its beginning and keeps its end, which stands beside the answer,
    at least one token. The answer stays whole; only one that is too long by itself
    loses its end, and leaves half of the length to the question.

    Args:
        question: its tokens.
        answer: its tokens.
        max_length: of both together; 0 leaves them as they are.
    """
    if max_length:
        if len(answer) > max_length - min(len(question), 1):
            answer = answer[: max(max_length // 2, max_length - len(question))]
        question = question[max(0, len(question) + len(answer) - max_length) :]
    return np.array(question, dtype=np.int64), np.array(answer, dtype=np.int64)


def row(question: np.ndarray, answer: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return (ids, which are learned) of a question with its answer, for `pack`."""
    ids = np.concatenate([question, answer])
    return ids, np.arange(len(ids)) >= len(question)


@torch.no_grad()
def generate(
    net: Any,
    rows: Sequence[np.ndarray],
    prompt_format: PromptFormat,
    max_new_tokens: int,
    num_beams: int = 1,
) -> list[str]:
    """Return the answers to questions, all in one batch.

    Behind a learned prompt they are asked one by one: padding would shift its position.

    Args:
        net: a model of Transformers that generates.
        rows: the questions' tokens, int64.
        prompt_format: turns tokens into texts, and knows what ends an answer.
        max_new_tokens: of each answer.
        num_beams: 1 for greedy search.
    """
    if len(rows) > 1 and _has_learned_prompt(net):
        answers = list[str]()
        for row in rows:
            answers += generate(net, [row], prompt_format, max_new_tokens, num_beams)
        return answers
    settings = _generation_settings(net, prompt_format, max_new_tokens, num_beams)
    device = next(net.parameters()).device
    is_encoder_decoder = bool(net.config.is_encoder_decoder)
    side: Side = "right" if is_encoder_decoder else "left"
    ids = padded(rows, prompt_format.pad, side, multiple=1)
    mask = padded([np.ones(len(row)) for row in rows], 0, side, multiple=1)
    with warnings.catch_warnings():
        # PEFT's warning about a learned prompt: one row has the usual positions.
        warnings.filterwarnings("ignore", "Position ids are not supported")
        output = net.generate(
            input_ids=ids.to(device),
            attention_mask=mask.to(device),
            generation_config=settings,
        )
    if not is_encoder_decoder:
        output = output[:, ids.shape[1] :]
    texts = prompt_format.tokenizer.batch_decode(output, skip_special_tokens=True)
    return [text.strip() for text in texts]


def _generation_settings(
    net: Any, prompt_format: PromptFormat, max_new_tokens: int, num_beams: int
) -> Any:
    from transformers import GenerationConfig

    start = None
    if net.config.is_encoder_decoder:
        start = net.config.decoder_start_token_id
    make: Any = GenerationConfig  # its constructor has no types
    return make(
        max_new_tokens=max_new_tokens,
        num_beams=num_beams,
        do_sample=False,
        pad_token_id=prompt_format.pad,
        eos_token_id=prompt_format.eos_ids(net) or None,
        bos_token_id=prompt_format.tokenizer.bos_token_id,
        decoder_start_token_id=start,
    )


def _has_learned_prompt(net: Any) -> bool:
    from peft import PeftModel

    if not isinstance(net, PeftModel):
        return False
    config: Any = net.active_peft_config
    return bool(config.is_prompt_learning)
