"""From logits to the next token: controls, and the draw.

A control is a closure `(ids, logits) -> logits`, equal to Transformers' processor of the
same name (tests/nn/test_sampling.py).
Shapes: ids int64 [R, T], prompt and answer so far, a row for each answer; logits float32
[R, V].
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence

import torch
from torch import Tensor

from miaobi.core.requests import TextRequest

Control = Callable[[Tensor, Tensor], Tensor]
BANNED = float("-inf")


def repetition_penalty(penalty: float) -> Control:
    """l > 0: l / penalty, l < 0: l · penalty, for every token in ids.

    Keskar et al. 2019, arXiv:1909.05858.
    """

    def control(ids: Tensor, logits: Tensor) -> Tensor:
        seen = logits.gather(1, ids)
        penalised = torch.where(seen < 0, seen * penalty, seen / penalty)
        return logits.scatter(1, ids, penalised)

    return control


def count_penalty(presence: float, frequency: float, prompt_length: int) -> Control:
    """l - presence · [c > 0] - frequency · c, as OpenAI defines it.

    Args:
        presence: for tokens that were generated.
        frequency: for each of the c times that a token was generated.
        prompt_length: tokens of ids that are the prompt's.
    """

    def control(ids: Tensor, logits: Tensor) -> Tensor:
        generated = ids[:, prompt_length:]
        ones = torch.ones_like(generated, dtype=logits.dtype)
        counts = torch.zeros_like(logits).scatter_add(1, generated, ones)
        return logits - frequency * counts - presence * (counts > 0)

    return control


def no_repeat_ngram(size: int) -> Control:
    """Ban every token that would complete an n-gram for the second time.

    Paulus et al. 2017, arXiv:1705.04304.
    """

    def control(ids: Tensor, logits: Tensor) -> Tensor:
        if ids.shape[1] < size:
            return logits
        logits = logits.clone()
        for row, row_ids in enumerate(ids):
            ngrams = row_ids.unfold(0, size, 1)
            latest = row_ids[len(row_ids) - size + 1 :]
            repeats = (ngrams[:, :-1] == latest).all(dim=1)
            logits[row, ngrams[repeats, -1]] = BANNED
        return logits

    return control


def min_new_tokens(count: int, prompt_length: int, eos_ids: Collection[int]) -> Control:
    """Ban the end tokens until the answer has `count` tokens.

    Args:
        count: tokens of an answer at least.
        prompt_length: tokens of ids that are the prompt's.
        eos_ids: the tokens that end an answer.
    """
    banned = torch.tensor(sorted(eos_ids))

    def control(ids: Tensor, logits: Tensor) -> Tensor:
        if ids.shape[1] - prompt_length >= count:
            return logits
        return logits.index_fill(1, banned.to(logits.device), BANNED)

    return control


def logit_bias(bias: Mapping[int, float]) -> Control:
    """l + bias; -100 and below bans a token, as in OpenAI's interface."""
    tokens = torch.tensor(list(bias))
    values = torch.tensor(
        [BANNED if value <= -100 else float(value) for value in bias.values()]
    )

    def control(ids: Tensor, logits: Tensor) -> Tensor:
        added = values.to(logits).expand(len(logits), -1).contiguous()
        return logits.index_add(1, tokens.to(logits.device), added)

    return control


def temperature(value: float) -> Control:
    """l / value."""
    return lambda ids, logits: logits / value


def top_k(k: int) -> Control:
    """Keep the k likeliest tokens (Fan et al. 2018, arXiv:1805.04833)."""

    def control(ids: Tensor, logits: Tensor) -> Tensor:
        least = logits.topk(min(k, logits.shape[1])).values[:, -1:]
        return logits.masked_fill(logits < least, BANNED)

    return control


def typical_p(mass: float) -> Control:
    """Keep the tokens whose surprise is nearest the entropy, until they hold `mass`.

    Meister et al. 2022, arXiv:2202.00666.
    """

    def control(ids: Tensor, logits: Tensor) -> Tensor:
        log_p = logits.log_softmax(1)
        p = log_p.exp()
        entropy = -(log_p * p).nansum(1, keepdim=True)
        distance, order = (-log_p - entropy).abs().sort(dim=1)
        cumulated = p.gather(1, order).cumsum(1)
        last = (cumulated < mass).sum(1, keepdim=True).clamp(max=logits.shape[1] - 1)
        drop = distance > distance.gather(1, last)
        drop[:, 0] = False
        return logits.masked_fill(drop.scatter(1, order, drop), BANNED)

    return control


def top_p(mass: float) -> Control:
    """Keep the likeliest tokens that together hold `mass`.

    Holtzman et al. 2020, arXiv:1904.09751.
    """

    def control(ids: Tensor, logits: Tensor) -> Tensor:
        ordered, order = logits.sort(dim=1)
        drop = ordered.softmax(1).cumsum(1) <= 1 - mass
        drop[:, -1] = False
        return logits.masked_fill(drop.scatter(1, order, drop), BANNED)

    return control


def min_p(fraction: float) -> Control:
    """Drop tokens below `fraction` of the likeliest one's probability.

    Nguyen et al. 2024, arXiv:2407.01082.
    """

    def control(ids: Tensor, logits: Tensor) -> Tensor:
        p = logits.softmax(1)
        return logits.masked_fill(p < fraction * p.amax(1, keepdim=True), BANNED)

    return control


def controls_of(
    request: TextRequest, prompt_length: int, eos_ids: Collection[int]
) -> list[Control]:
    """Return the controls that the request sets, in the order they are applied.

    Temperature and the cuts only where it samples.

    Args:
        request: with its settings.
        prompt_length: tokens of the prompt.
        eos_ids: the tokens that end an answer.
    """
    chosen = list[Control]()
    if request.repetition_penalty != 1:
        chosen.append(repetition_penalty(request.repetition_penalty))
    if request.presence_penalty or request.frequency_penalty:
        chosen.append(
            count_penalty(
                request.presence_penalty, request.frequency_penalty, prompt_length
            )
        )
    if request.no_repeat_ngram_size:
        chosen.append(no_repeat_ngram(request.no_repeat_ngram_size))
    if request.min_new_tokens and eos_ids:
        chosen.append(min_new_tokens(request.min_new_tokens, prompt_length, eos_ids))
    if request.logit_bias:
        chosen.append(logit_bias(request.logit_bias))
    if request.greedy or request.num_beams > 1:
        return chosen
    if request.temperature != 1:
        chosen.append(temperature(request.temperature))
    if request.top_k:
        chosen.append(top_k(request.top_k))
    if request.typical_p < 1:
        chosen.append(typical_p(request.typical_p))
    if request.top_p < 1:
        chosen.append(top_p(request.top_p))
    if request.min_p:
        chosen.append(min_p(request.min_p))
    return chosen


def apply(controls: Sequence[Control], ids: Tensor, logits: Tensor) -> Tensor:
    """Return the logits after all controls, in order."""
    for control in controls:
        logits = control(ids, logits)
    return logits


def draw(logits: Tensor, generators: Sequence[torch.Generator]) -> Tensor:
    """Draw one token a row, int64 [R], each row with its own generator.

    argmax p / e with e ~ Exp(1), the exponential race.
    """
    races = [
        torch.empty(logits.shape[1]).exponential_(generator=generator)
        for generator in generators
    ]
    race_RV = torch.stack(races).to(logits.device)
    return (logits.softmax(1) / race_RV).argmax(1)


def generators_of(seed: int, count: int) -> list[torch.Generator]:
    """Return `count` generators; answer i draws from seed + i, whatever runs beside it."""
    return [torch.Generator().manual_seed((seed + i) % 2**63) for i in range(count)]
