"""The answers to one request while the native engine makes them: by drawing, or by beam search.

`advance(logits)` looks at one step's logits [R, V] and says which rows live on and with
what next token; the scheduler does the rest. Both kinds are used the same way.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from miaobi.core.artifacts import FinishReason, TokenLogprob
from miaobi.core.engine import Chunk
from miaobi.core.requests import TextRequest
from miaobi.engines.text.streaming import TextStream
from miaobi.nn.sampling import apply, controls_of, draw, generators_of


@dataclass(frozen=True)
class Vocabulary:
    """What an answer must know of the model's tokens."""

    eos_ids: Collection[int]
    stream: Callable[[tuple[str, ...]], TextStream]
    spell: Callable[[int], str]


@dataclass
class Step:
    """rows: which of the present rows live on, in their new order; tokens: what each
    takes in next.
    """

    rows: list[int] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)
    chunks: list[Chunk] = field(default_factory=list)


class Answers(Protocol):
    width: int
    """How many rows it starts with."""

    def advance(self, logits: Tensor) -> Step: ...


class Drawn:
    """n answers, each drawn by its own generator (or greedy)."""

    def __init__(
        self, request: TextRequest, prompt: list[int], room: int, vocabulary: Vocabulary
    ) -> None:
        self.request, self.vocabulary, self.width = request, vocabulary, request.n
        self._room = min(request.max_new_tokens, room)
        self._controls = controls_of(request, len(prompt), vocabulary.eos_ids)
        self._ids = torch.tensor([prompt] * request.n)
        self._made = 0
        self._live = list(range(request.n))
        self._streams = [vocabulary.stream(request.stop) for _ in range(request.n)]
        self._generators = generators_of(request.seed or 0, request.n)

    def advance(self, logits: Tensor) -> Step:
        changed = (
            apply(self._controls, self._ids.to(logits.device), logits)
            if self._controls
            else logits
        )
        greedy = self.request.greedy
        tokens = (
            changed.argmax(1)
            if greedy
            else draw(changed, [self._generators[i] for i in self._live])
        ).tolist()
        likely = None if self.request.logprobs is None else logits.log_softmax(1)
        self._made += 1
        step = Step()
        for row, (index, token) in enumerate(zip(self._live, tokens, strict=True)):
            logprobs = (
                ()
                if likely is None
                else (
                    token_logprob(
                        likely[row], token, self.request.logprobs, self.vocabulary
                    ),
                )
            )
            chunk = self._take(index, token, logprobs)
            if chunk.text or chunk.logprobs or chunk.tokens or chunk.finish:
                step.chunks.append(chunk)
            if chunk.finish is None:
                step.rows.append(row)
                step.tokens.append(token)
        self._live = [self._live[row] for row in step.rows]
        if self._controls:
            self._ids = torch.cat(
                [
                    self._ids[step.rows],
                    torch.tensor(step.tokens, dtype=torch.long)[:, None],
                ],
                dim=1,
            )
        return step

    def _take(
        self, index: int, token: int, logprobs: tuple[TokenLogprob, ...]
    ) -> Chunk:
        stream = self._streams[index]
        if token in self.vocabulary.eos_ids:
            return Chunk(index, stream.finish(), tokens=1, finish="stop")
        text = stream.push(token)
        if stream.stopped:
            return Chunk(index, text, logprobs, 1, "stop")
        if self._made >= self._room:
            text += stream.finish()
            return Chunk(
                index, text, logprobs, 1, "stop" if stream.stopped else "length"
            )
        return Chunk(index, text, logprobs, 1)


@dataclass
class Beam:
    ids: list[int]
    score: float
    """Sum of log-probabilities."""
    logprobs: tuple[TokenLogprob, ...] = ()


class Beams:
    """Beam search for the n likeliest of num_beams texts, scored by mean log-probability.

    As Transformers' `generate(num_beams=...)` with length_penalty 1 and early_stopping
    False. Nothing can be shown before the search ends: a beam that leads now may lose.
    """

    def __init__(
        self, request: TextRequest, prompt: list[int], room: int, vocabulary: Vocabulary
    ) -> None:
        self.request, self.vocabulary, self.width = (
            request,
            vocabulary,
            request.num_beams,
        )
        self._room = min(request.max_new_tokens, room)
        self._controls = controls_of(request, len(prompt), vocabulary.eos_ids)
        self._prompt = prompt
        self._beams = [Beam([], 0.0)] + [Beam([], -1e9) for _ in range(self.width - 1)]
        self._done: list[tuple[float, Beam, str]] = []

    def advance(self, logits: Tensor) -> Step:
        likely = logits.log_softmax(1)
        ids = torch.tensor(
            [self._prompt + beam.ids for beam in self._beams], device=logits.device
        )
        changed = apply(self._controls, ids, likely)
        totals = (
            changed
            + torch.tensor([beam.score for beam in self._beams], device=logits.device)[
                :, None
            ]
        )
        best, places = totals.flatten().topk(2 * self.width)
        step, beams = Step(), list[Beam]()
        for rank, (score, place) in enumerate(
            zip(best.tolist(), places.tolist(), strict=True)
        ):
            row, token = divmod(place, logits.shape[1])
            beam = self._grown(row, token, score, likely[row])
            if token in self.vocabulary.eos_ids:
                if rank < self.width:
                    self._keep(beam, "stop")
            elif len(beams) < self.width:
                beams.append(beam)
                step.rows.append(row)
                step.tokens.append(token)
        self._beams = beams
        if self._over():
            return Step(chunks=self._result())
        return step

    def _grown(self, row: int, token: int, score: float, likely: Tensor) -> Beam:
        beam, wanted = self._beams[row], self.request.logprobs
        logprobs = (
            ()
            if wanted is None
            else (token_logprob(likely, token, wanted, self.vocabulary),)
        )
        return Beam([*beam.ids, token], score, beam.logprobs + logprobs)

    def _keep(self, beam: Beam, why: str) -> None:
        """Keep a finished beam if it is among the best."""
        self._done.append((beam.score / len(beam.ids), beam, why))
        self._done = sorted(self._done, key=lambda item: -item[0])[: self.width]

    def _over(self) -> bool:
        length = len(self._beams[0].ids)
        if length >= self._room:
            for beam in self._beams:
                self._keep(beam, "length")
            return True
        return (
            len(self._done) == self.width
            and self._done[-1][0] >= self._beams[0].score / length
        )

    def _result(self) -> list[Chunk]:
        return [
            self._chunk(index, beam, why)
            for index, (_, beam, why) in enumerate(self._done[: self.request.n])
        ]

    def _chunk(self, index: int, beam: Beam, why: str) -> Chunk:
        stream, shown = self.vocabulary.stream(self.request.stop), ""
        kept = beam.ids[:-1] if why == "stop" else beam.ids
        for token in kept:
            shown += stream.push(token)
            if stream.stopped:
                break
        shown += stream.finish()
        finish: FinishReason = "stop" if stream.stopped or why == "stop" else "length"
        return Chunk(index, shown, beam.logprobs[: len(kept)], len(beam.ids), finish)


def token_logprob(
    likely: Tensor, token: int, rivals: int | None, vocabulary: Vocabulary
) -> TokenLogprob:
    """The token's entry, from the model's own log-probabilities [V], before any control."""
    top = likely.topk(rivals) if rivals else None
    return TokenLogprob(
        vocabulary.spell(token),
        likely[token].item(),
        ()
        if top is None
        else tuple(
            (vocabulary.spell(other), value)
            for value, other in zip(
                top.values.tolist(), top.indices.tolist(), strict=True
            )
        ),
    )
