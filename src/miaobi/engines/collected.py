"""From the chunks of a request to its artifacts; how parts become one is for the class
of the answers to say.
"""

from __future__ import annotations

from collections.abc import Sequence

from miaobi.core.artifacts import Artifact, Facts, Parts
from miaobi.core.engine import Chunk
from miaobi.core.requests import Request


class Collected:
    """Gathers the chunks of a request into its n answers."""

    def __init__(self, request: Request) -> None:
        self.request = request
        self._answers = [Parts() for _ in range(request.n)]

    def add(self, chunk: Chunk) -> None:
        parts = self._answers[chunk.index]
        parts.texts.append(chunk.text)
        parts.logprobs.extend(chunk.logprobs)
        if chunk.finish is not None:
            parts.finish = chunk.finish
        if chunk.piece is not None:
            parts.pieces.append(chunk.piece)
        if chunk.artifact is not None:
            parts.whole = chunk.artifact

    def artifacts(self, facts: Facts) -> Sequence[Artifact]:
        """Return the answers so far, of the class that the request names.

        Of texts and pieces, one that had not ended is marked "cancelled".
        """
        artifacts = list[Artifact]()
        for index, parts in enumerate(self._answers):
            artifact = self.request.answer.of_parts(parts, facts, index)
            if artifact is not None:
                artifacts.append(artifact)
        return artifacts
