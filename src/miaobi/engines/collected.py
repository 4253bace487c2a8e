"""From the chunks of a request to its artifacts.

Texts are joined from the chunks. Anything else comes whole, or in pieces that its class
joins; its facts are the request's, with its own seed and what only the engine knew.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from miaobi.core.artifacts import (
    Artifact,
    Facts,
    FinishReason,
    Text,
    TokenLogprob,
)
from miaobi.core.engine import Chunk
from miaobi.core.requests import Request


class Collected:
    """Gathers the chunks of a request into its n answers."""

    def __init__(self, request: Request) -> None:
        self.request = request
        self._texts: list[list[str]] = [[] for _ in range(request.n)]
        self._logprobs: list[list[TokenLogprob]] = [[] for _ in range(request.n)]
        self._finish: list[FinishReason] = ["cancelled"] * request.n
        self._pieces: list[list[Artifact]] = [[] for _ in range(request.n)]
        self._whole: dict[int, Artifact] = {}

    def add(self, chunk: Chunk) -> None:
        index = chunk.index
        self._texts[index].append(chunk.text)
        self._logprobs[index].extend(chunk.logprobs)
        if chunk.finish is not None:
            self._finish[index] = chunk.finish
        if chunk.piece is not None:
            self._pieces[index].append(chunk.piece)
        if chunk.artifact is not None:
            self._whole[index] = chunk.artifact

    def artifacts(self, facts: Facts) -> Sequence[Artifact]:
        """Return the answers so far, of the class that the request names.

        Of texts and pieces, one that had not ended is marked "cancelled".
        """
        if issubclass(self.request.answer, Text):
            return self.texts(facts)
        return self._others(facts)

    def texts(self, facts: Facts) -> list[Text]:
        """Return the answers so far as texts."""
        return [
            Text("".join(pieces), facts, finish, tuple(logprobs))
            for pieces, finish, logprobs in zip(
                self._texts, self._finish, self._logprobs, strict=True
            )
        ]

    def _others(self, facts: Facts) -> list[Artifact]:
        """Return the artifacts so far.

        The facts of each hold its own seed, with which n=1 makes it again.
        """
        first_seed = self.request.seed or 0
        artifacts = list[Artifact]()
        for index, pieces in enumerate(self._pieces):
            artifact = self._whole.get(index)
            if artifact is None and pieces:
                artifact = self.request.answer.join(pieces)
            if artifact is None:
                continue
            own_facts = replace(
                facts,
                seed=first_seed + index,
                parameters={**facts.parameters, **artifact.facts.parameters},
            )
            artifacts.append(artifact.labelled(own_facts, self._finish[index]))
        return artifacts
