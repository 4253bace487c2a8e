"""The answers to one request while the native engine makes them: sampled, or by beam
search.

`advance(logits)` looks at one step's logits [R, V] and says which rows go on and with
what next token; the scheduler does the rest. Both kinds are used the same way.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from miaobi.core.artifacts import FinishReason, TokenLogprob
from miaobi.core.engine import Chunk
from miaobi.core.requests import TextRequest
from miaobi.engines.text.constraint import Matcher
from miaobi.engines.text.streaming import TextStream
from miaobi.nn.sampling import BANNED, apply, controls_of, draw, generators_of

NEVER = -1e9
"""The score of a beam that loses to every other."""


@dataclass(frozen=True)
class Vocabulary:
    """What an answer needs to know of the model's tokens."""

    eos_ids: Collection[int]
    """Tokens that end an answer."""
    stream: Callable[[tuple[str, ...]], TextStream]
    """Makes the text stream of one answer with these stop strings."""
    spell: Callable[[int], bytes]
    """The bytes of a single token."""


@dataclass
class Step:
    """What one step of decoding comes to."""

    rows: list[int] = field(default_factory=list)
    """Which of the present rows go on, in their new order."""
    tokens: list[int] = field(default_factory=list)
    """The token that each of them takes in next."""
    chunks: list[Chunk] = field(default_factory=list)


class Answers(Protocol):
    """The answers to one request."""

    width: int
    """How many rows they start with."""

    def advance(self, logits: Tensor) -> Step: ...


class SampledAnswers:
    """n answers, each sampled with its own generator (or greedy).

    Args:
        request: The request, whose prompt is `prompt`.
        prompt: Token ids.
        context_left: Tokens that the context has left after the prompt.
        vocabulary: The model's tokens.
        matchers: What holds each answer to the request's schema; none without one.
    """

    def __init__(
        self,
        request: TextRequest,
        prompt: list[int],
        context_left: int,
        vocabulary: Vocabulary,
        matchers: Sequence[Matcher] = (),
    ) -> None:
        self.request = request
        self.vocabulary = vocabulary
        self.width = request.n
        self._matchers = matchers
        self._max_tokens = min(request.max_new_tokens, context_left)
        self._controls = controls_of(request, len(prompt), vocabulary.eos_ids)
        self._ids = torch.tensor([prompt] * request.n)
        """Prompt and answer of every live row, [R, T]; only the controls read them."""
        self._token_count = 0
        self._live = list(range(request.n))
        """The answer of every row."""
        self._streams = [vocabulary.stream(request.stop) for _ in range(request.n)]
        self._generators = generators_of(request.seed or 0, request.n)

    def advance(self, logits: Tensor) -> Step:
        tokens = self._sample(logits)
        log_probs = None
        if self.request.logprobs is not None:
            log_probs = logits.log_softmax(1)
        self._token_count += 1
        step = Step()
        for row, (index, token) in enumerate(zip(self._live, tokens, strict=True)):
            logprobs: tuple[TokenLogprob, ...] = ()
            if log_probs is not None:
                logprobs = (self._logprob(log_probs[row], token),)
            chunk = self._chunk(index, token, logprobs)
            step.chunks.append(chunk)
            if chunk.finish is None:
                step.rows.append(row)
                step.tokens.append(token)
        self._live = [self._live[row] for row in step.rows]
        if self._controls:
            added = torch.tensor(step.tokens, dtype=torch.long)[:, None]
            self._ids = torch.cat([self._ids[step.rows], added], dim=1)
        return step

    def _sample(self, logits: Tensor) -> list[int]:
        """The next token of every row."""
        if self._matchers:
            logits = self._held(logits)
        if self._controls:
            controlled = apply(self._controls, self._ids.to(logits.device), logits)
            # What a schema leaves is not banned by another control.
            banned = controlled.isneginf().all(dim=1, keepdim=True)
            logits = torch.where(banned, logits, controlled)
        if self.request.greedy:
            tokens = logits.argmax(1)
        else:
            generators = [self._generators[index] for index in self._live]
            tokens = draw(logits, generators)
        ids: list[int] = tokens.tolist()
        return ids

    def _held(self, logits: Tensor) -> Tensor:
        """Ban every token that the schema does not allow next."""
        masks = [bytearray(self._matchers[index].allowed()) for index in self._live]
        allowed = torch.stack(
            [torch.frombuffer(mask, dtype=torch.uint8) for mask in masks]
        )
        width = min(logits.shape[1], allowed.shape[1])
        held = torch.full_like(logits, BANNED)
        open_tokens = allowed[:, :width].bool().to(logits.device)
        held[:, :width] = logits[:, :width].masked_fill(~open_tokens, BANNED)
        return held

    def _logprob(self, log_probs: Tensor, token: int) -> TokenLogprob:
        return token_logprob(log_probs, token, self.request.logprobs, self.vocabulary)

    def _chunk(
        self, index: int, token: int, logprobs: tuple[TokenLogprob, ...]
    ) -> Chunk:
        """The chunk that `token` adds to answer `index`."""
        stream = self._streams[index]
        if token in self.vocabulary.eos_ids:
            return Chunk(index, stream.finish(), tokens=1, finish="stop")
        complete = False
        if self._matchers:
            if not self._matchers[index].take(token):
                # No token of the vocabulary goes on as the schema asks.
                return Chunk(index, stream.finish(), tokens=1, finish="length")
            complete = self._matchers[index].complete
        text = stream.push(token)
        if stream.stopped:
            return Chunk(index, text, logprobs, 1, "stop")
        if complete:
            return Chunk(index, text + stream.finish(), logprobs, 1, "stop")
        if self._token_count < self._max_tokens:
            return Chunk(index, text, logprobs, 1)
        text += stream.finish()
        finish: FinishReason = "stop" if stream.stopped else "length"
        return Chunk(index, text, logprobs, 1, finish)


@dataclass(frozen=True)
class Beam:
    """One of the texts that beam search follows."""

    ids: list[int]
    score: float
    """Sum of log-probabilities."""
    logprobs: tuple[TokenLogprob, ...] = ()

    def ranking(self, length_penalty: float) -> float:
        """Return Σ log p / length ** penalty: with 1 the mean, with 0 the sum."""
        ranking: float = self.score / len(self.ids) ** length_penalty
        return ranking


@dataclass(frozen=True)
class FinishedBeam:
    beam: Beam
    finish: FinishReason


class BeamAnswers:
    """Beam search for the n likeliest of num_beams texts.

    They are ranked by Σ log p / length ** length_penalty (Wu et al. 2016,
    arXiv:1609.08144, with a simpler length), as by Transformers' `generate(num_beams=...)`
    with early_stopping False. No text can leave before the search ends: a beam that leads now may lose.
    Args as those of SampledAnswers.
    """

    def __init__(
        self,
        request: TextRequest,
        prompt: list[int],
        context_left: int,
        vocabulary: Vocabulary,
    ) -> None:
        self.request = request
        self.vocabulary = vocabulary
        self.width = request.num_beams
        self._max_tokens = min(request.max_new_tokens, context_left)
        self._controls = controls_of(request, len(prompt), vocabulary.eos_ids)
        self._prompt = prompt
        # All rows begin alike: only the first may be the parent of the next step.
        duplicates = [Beam([], NEVER) for _ in range(self.width - 1)]
        self._beams = [Beam([], 0.0), *duplicates]
        self._finished: list[FinishedBeam] = []
        """The best so far, best first."""

    def advance(self, logits: Tensor) -> Step:
        log_probs = logits.log_softmax(1)
        totals = self._totals(log_probs)
        # Even if one candidate of every beam ends its text, `width` go on.
        best = totals.flatten().topk(2 * self.width)
        candidates = zip(best.values.tolist(), best.indices.tolist(), strict=True)
        step = Step()
        beams: list[Beam] = []
        for rank, (score, position) in enumerate(candidates):
            row, token = divmod(position, logits.shape[1])
            if token in self.vocabulary.eos_ids:
                if rank < self.width:
                    self._finish(self._extend(row, token, score, log_probs), "stop")
            elif len(beams) < self.width:
                beams.append(self._extend(row, token, score, log_probs))
                step.rows.append(row)
                step.tokens.append(token)
        self._beams = beams
        if self._search_is_over():
            return Step(chunks=self._chunks())
        return step

    def _totals(self, log_probs: Tensor) -> Tensor:
        """The score [R, V] of every beam with every token behind it."""
        device = log_probs.device
        if self._controls:
            texts = [self._prompt + beam.ids for beam in self._beams]
            ids = torch.tensor(texts, device=device)
            log_probs = apply(self._controls, ids, log_probs)
        scores = torch.tensor([beam.score for beam in self._beams], device=device)
        return log_probs + scores[:, None]

    def _extend(self, row: int, token: int, score: float, log_probs: Tensor) -> Beam:
        """The beam of `row` with one token more."""
        beam = self._beams[row]
        logprobs = beam.logprobs
        if self.request.logprobs is not None:
            entry = token_logprob(
                log_probs[row], token, self.request.logprobs, self.vocabulary
            )
            logprobs = (*logprobs, entry)
        return Beam([*beam.ids, token], score, logprobs)

    def _finish(self, beam: Beam, finish: FinishReason) -> None:
        """Keep a finished beam if it is among the best."""
        self._finished.append(FinishedBeam(beam, finish))
        penalty = self.request.length_penalty
        self._finished.sort(key=lambda finished: -finished.beam.ranking(penalty))
        del self._finished[self.width :]

    def _search_is_over(self) -> bool:
        if len(self._beams[0].ids) >= self._max_tokens:
            for beam in self._beams:
                self._finish(beam, "length")
            return True
        if len(self._finished) < self.width:
            return False
        penalty = self.request.length_penalty
        worst = self._finished[-1].beam.ranking(penalty)
        return worst >= self._beams[0].ranking(penalty)

    def _chunks(self) -> list[Chunk]:
        best = self._finished[: self.request.n]
        return [self._chunk(index, finished) for index, finished in enumerate(best)]

    def _chunk(self, index: int, finished: FinishedBeam) -> Chunk:
        """A whole answer."""
        stream = self.vocabulary.stream(self.request.stop)
        beam = finished.beam
        # A beam that stopped ends with an end token, which has no text.
        ids = beam.ids[:-1] if finished.finish == "stop" else beam.ids
        text = ""
        for token in ids:
            text += stream.push(token)
            if stream.stopped:
                break
        text += stream.finish()
        finish: FinishReason = "stop" if stream.stopped else finished.finish
        return Chunk(index, text, beam.logprobs[: len(ids)], len(beam.ids), finish)


def token_logprob(
    log_probs: Tensor, token: int, top_count: int | None, vocabulary: Vocabulary
) -> TokenLogprob:
    """The entry of one token.

    Args:
        log_probs: The model's own log-probabilities [V], before any control.
        token: The token that was chosen.
        top_count: How many of the likeliest tokens to name beside it.
        vocabulary: The model's tokens.
    """
    top_logprobs: tuple[TokenLogprob, ...] = ()
    if top_count:
        top = log_probs.topk(min(top_count, len(log_probs)))
        pairs = zip(top.indices.tolist(), top.values.tolist(), strict=True)
        top_logprobs = tuple(
            TokenLogprob.of(vocabulary.spell(other), value) for other, value in pairs
        )
    return TokenLogprob.of(
        vocabulary.spell(token), log_probs[token].item(), top_logprobs
    )
