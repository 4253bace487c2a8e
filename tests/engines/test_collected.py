"""From chunks to artifacts: texts are joined, anything else comes whole or in pieces."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pytest

from miaobi.core.artifacts import Artifact, Facts, FinishReason, Image
from miaobi.core.engine import Chunk
from miaobi.core.requests import ImageRequest, Request, TextRequest
from miaobi.engines.collected import Collected

FACTS = Facts("model", "1", "toy", "abc", 7, {"strength": 0.5})


@dataclass(frozen=True)
class Tone(Artifact):
    notes: str
    facts: Facts
    finish: FinishReason = "stop"

    @classmethod
    def join(cls, pieces: Sequence[Tone]) -> Tone:
        return cls("".join(piece.notes for piece in pieces), pieces[0].facts)


@dataclass(frozen=True, kw_only=True)
class ToneRequest(Request):
    makes = "tone"
    answer = Tone


def collected(request: Request, *chunks: Chunk) -> Sequence[Artifact]:
    gathered = Collected(request)
    for chunk in chunks:
        gathered.add(chunk)
    return gathered.artifacts(FACTS)


def test_texts_are_joined_and_what_had_not_ended_is_cancelled() -> None:
    request = TextRequest(prompt="x", n=2)
    texts = collected(
        request,
        Chunk(0, "春"),
        Chunk(1, "明"),
        Chunk(0, "江", finish="stop"),
    )
    assert [(str(text), text.finish) for text in texts] == [
        ("春江", "stop"),
        ("明", "cancelled"),
    ]
    assert all(text.facts == FACTS for text in texts)


def test_pieces_are_joined_by_their_class() -> None:
    request = ToneRequest(n=3, seed=7)
    own = Facts("engine's", parameters={"key": "C"})
    tones = collected(
        request,
        Chunk(0, piece=Tone("c", own)),
        Chunk(2, piece=Tone("g", own)),
        Chunk(0, piece=Tone("de", own), finish="length"),
    )
    assert [(tone.notes, tone.finish) for tone in tones] == [  # type: ignore[attr-defined]
        ("cde", "length"),
        ("g", "cancelled"),
    ]
    assert [tone.facts.seed for tone in tones] == [7, 9]
    assert tones[0].facts.model == "model"
    assert tones[0].facts.parameters == {"strength": 0.5, "key": "C"}


def test_what_comes_whole_has_no_pieces() -> None:
    pixels = np.zeros((2, 2, 3), np.uint8)
    request = ImageRequest(n=2, seed=7)
    (image,) = collected(
        request, Chunk(1, artifact=Image(pixels, Facts("")), finish="content_filter")
    )
    assert image.facts.seed == 8
    assert image.finish == "content_filter"
    with pytest.raises(NotImplementedError, match="Image comes whole"):
        Image.join([])
