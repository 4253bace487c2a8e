"""From logits to the next token: each control is a closure `(ids, logits) -> logits`,
applied in the request's order.

Shapes: ids int64 [R, T], the prompt and what was generated so far, one row an answer;
    logits float32 [R, V]. Equal to Transformers' processors of the same names
    (tests/nn/test_sampling.py).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence

import torch
from torch import Tensor

from miaobi.core.requests import TextRequest

Control = Callable[[Tensor, Tensor], Tensor]
BANNED = float("-inf")


def repetition_penalty(penalty: float) -> Control:
    """l > 0: l / penalty, l < 0: l · penalty, for every token in ids (Keskar et al.
    2019, arXiv:1909.05858).
    """

    def control(ids: Tensor, logits: Tensor) -> Tensor:
        seen = logits.gather(1, ids)
        return logits.scatter(
            1, ids, torch.where(seen < 0, seen * penalty, seen / penalty)
        )

    return control


def count_penalty(presence: float, frequency: float, prompt_length: int) -> Control:
    """l - presence · [c > 0] - frequency · c, c the times a token was generated
    (OpenAI's definition).
    """

    def control(ids: Tensor, logits: Tensor) -> Tensor:
        made = ids[:, prompt_length:]
        counts = torch.zeros_like(logits).scatter_add(
            1, made, torch.ones_like(made, dtype=logits.dtype)
        )
        return logits - frequency * counts - presence * (counts > 0)

    return control


def no_repeat_ngram(size: int) -> Control:
    """Bans every token that would end an n-gram which is already there (Paulus et al.
    2017, arXiv:1705.04304).
    """

    def control(ids: Tensor, logits: Tensor) -> Tensor:
        if ids.shape[1] < size:
            return logits
        logits = logits.clone()
        for row, row_ids in enumerate(ids):
            grams = row_ids.unfold(0, size, 1)
            begun = (grams[:, :-1] == row_ids[len(row_ids) - size + 1 :]).all(dim=1)
            logits[row, grams[begun, -1]] = BANNED
        return logits

    return control


def min_new_tokens(count: int, prompt_length: int, eos_ids: Collection[int]) -> Control:
    """Bans the end tokens until `count` tokens are there."""
    banned = torch.tensor(sorted(eos_ids))

    def control(ids: Tensor, logits: Tensor) -> Tensor:
        return (
            logits.index_fill(1, banned.to(logits.device), BANNED)
            if ids.shape[1] - prompt_length < count
            else logits
        )

    return control


def logit_bias(bias: Mapping[int, float]) -> Control:
    """l + bias; -100 and below bans outright, as in OpenAI's interface."""
    tokens = torch.tensor(list(bias))
    values = torch.tensor(
        [BANNED if value <= -100 else float(value) for value in bias.values()]
    )

    def control(ids: Tensor, logits: Tensor) -> Tensor:
        return logits.index_add(
            1,
            tokens.to(logits.device),
            values.to(logits).expand(len(logits), -1).contiguous(),
        )

    return control


def temperature(value: float) -> Control:
    return lambda ids, logits: logits / value


def top_k(k: int) -> Control:
    """Keeps the k likeliest (Fan et al. 2018, arXiv:1805.04833)."""

    def control(ids: Tensor, logits: Tensor) -> Tensor:
        least = logits.topk(min(k, logits.shape[1])).values[:, -1:]
        return logits.masked_fill(logits < least, BANNED)

    return control


def typical_p(mass: float) -> Control:
    """Keeps the tokens whose surprise is nearest the entropy, until they hold `mass`
    (Meister et al., arXiv:2202.00666).
    """

    def control(ids: Tensor, logits: Tensor) -> Tensor:
        log_p = logits.log_softmax(1)
        p = log_p.exp()
        entropy = -(log_p * p).nansum(1, keepdim=True)
        distance, order = (-log_p - entropy).abs().sort(dim=1)
        held = p.gather(1, order).cumsum(1)
        last = (held < mass).sum(1, keepdim=True).clamp(max=logits.shape[1] - 1)
        drop = distance > distance.gather(1, last)
        drop[:, 0] = False
        return logits.masked_fill(drop.scatter(1, order, drop), BANNED)

    return control


def top_p(mass: float) -> Control:
    """Keeps the likeliest tokens that together hold `mass` (Holtzman et al. 2020,
    arXiv:1904.09751).
    """

    def control(ids: Tensor, logits: Tensor) -> Tensor:
        ordered, order = logits.sort(dim=1)
        drop = ordered.softmax(1).cumsum(1) <= 1 - mass
        drop[:, -1] = False
        return logits.masked_fill(drop.scatter(1, order, drop), BANNED)

    return control


def min_p(fraction: float) -> Control:
    """Drops tokens below `fraction` of the likeliest one's probability (Nguyen et al.
    2024, arXiv:2407.01082).
    """

    def control(ids: Tensor, logits: Tensor) -> Tensor:
        p = logits.softmax(1)
        return logits.masked_fill(p < fraction * p.amax(1, keepdim=True), BANNED)

    return control


def controls_of(
    request: TextRequest, prompt_length: int, eos_ids: Collection[int]
) -> list[Control]:
    """The closures of what the request sets, in its order. Temperature and the cuts
    only where it samples.
    """
    chosen: list[Control] = []
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
    for value, cut in ((request.typical_p, typical_p), (request.top_p, top_p)):
        if value < 1:
            chosen.append(cut(value))
    if request.min_p:
        chosen.append(min_p(request.min_p))
    return chosen


def apply(controls: Sequence[Control], ids: Tensor, logits: Tensor) -> Tensor:
    for control in controls:
        logits = control(ids, logits)
    return logits


def draw(logits: Tensor, generators: Sequence[torch.Generator]) -> Tensor:
    """One token a row, int64 [R], each row by its own generator: argmax p / e, e ~
    Exp(1) (the exponential race).
    """
    race = torch.stack(
        [
            torch.empty(logits.shape[1]).exponential_(generator=generator)
            for generator in generators
        ]
    )
    return (logits.softmax(1) / race.to(logits.device)).argmax(1)


def generators_of(seed: int, count: int) -> list[torch.Generator]:
    """Answer i draws from seed + i, whatever runs beside it."""
    return [torch.Generator().manual_seed((seed + i) % 2**63) for i in range(count)]
