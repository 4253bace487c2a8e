"""From the chunks of a request to its artifacts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from miaobi.core.artifacts import (
    Artifact,
    Facts,
    FinishReason,
    Image,
    Text,
    TokenLogprob,
)
from miaobi.core.engine import Chunk
from miaobi.core.requests import EmbeddingRequest, Request, TextRequest


class Collected:
    """Gathers the chunks of a request into its n answers."""

    def __init__(self, request: Request) -> None:
        self.request = request
        self._texts: list[list[str]] = [[] for _ in range(request.n)]
        self._logprobs: list[list[TokenLogprob]] = [[] for _ in range(request.n)]
        self._finish: list[FinishReason] = ["cancelled"] * request.n
        self._artifacts: dict[int, Artifact] = {}

    def add(self, chunk: Chunk) -> None:
        index = chunk.index
        self._texts[index].append(chunk.text)
        self._logprobs[index].extend(chunk.logprobs)
        if chunk.finish is not None:
            self._finish[index] = chunk.finish
        if chunk.artifact is not None:
            self._artifacts[index] = chunk.artifact

    def artifacts(self, facts: Facts) -> Sequence[Artifact]:
        """Return the answers so far, of the kind that the request makes."""
        if isinstance(self.request, EmbeddingRequest):
            return list(self._artifacts.values())
        if isinstance(self.request, TextRequest):
            return self.texts(facts)
        return self.images(facts)

    def texts(self, facts: Facts) -> list[Text]:
        """Return the answers so far; one that had not ended is marked "cancelled"."""
        return [
            Text("".join(pieces), facts, finish, tuple(logprobs))
            for pieces, finish, logprobs in zip(
                self._texts, self._finish, self._logprobs, strict=True
            )
        ]

    def images(self, facts: Facts) -> list[Image]:
        """Return the images that are done.

        The facts of each hold its own seed, with which n=1 makes it again.
        """
        first_seed = self.request.seed or 0
        images = []
        for index, artifact in sorted(self._artifacts.items()):
            if not isinstance(artifact, Image):
                continue
            own_facts = replace(
                facts,
                seed=first_seed + index,
                parameters={**facts.parameters, **artifact.facts.parameters},
            )
            images.append(
                replace(artifact, finish=self._finish[index], facts=own_facts)
            )
        return images
