"""What a model makes. An artifact has the facts of how it came to be and knows nothing
of files: `provenance.publish` writes it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Literal, Self, cast

if TYPE_CHECKING:
    import numpy as np

FinishReason = Literal["stop", "length", "cancelled", "content_filter"]
""""content_filter": classified as unsafe and replaced by a plain grey picture."""


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


@dataclass(frozen=True)
class Facts:
    """How an artifact came to be: enough to make it again and to label it."""

    model: str
    version: str = ""
    engine: str = ""
    request_id: str = ""
    seed: int | None = None
    parameters: Mapping[str, Any] = field(default_factory=dict)
    created: str = field(default_factory=_now)


@dataclass(frozen=True)
class TokenLogprob:
    """A token's natural-log probability, and those of the likeliest tokens there."""

    token: str
    logprob: float
    top_logprobs: tuple[tuple[str, float], ...] = ()


class Artifact:
    """What a model makes. Each kind is a frozen dataclass with these two fields.

    A kind that comes in pieces (a chunk's `piece`) joins them itself.
    """

    facts: Facts
    finish: FinishReason

    def labelled(self, facts: Facts, finish: FinishReason) -> Self:
        """Return the same content with these facts and this end."""
        return cast(Self, replace(cast(Any, self), facts=facts, finish=finish))

    @classmethod
    def join(cls, pieces: Sequence[Self]) -> Self:
        """Return one artifact of its pieces, in their order."""
        raise NotImplementedError(f"{cls.__name__} comes whole, not in pieces")


@dataclass(frozen=True)
class Text(Artifact):
    text: str
    facts: Facts
    finish: FinishReason = "stop"
    logprobs: tuple[TokenLogprob, ...] = ()

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True)
class Image(Artifact):
    """pixels: uint8 [H, W, C], C = 1 for grey and 3 for colour."""

    pixels: np.ndarray
    facts: Facts
    finish: FinishReason = "stop"


@dataclass(frozen=True)
class Audio(Artifact):
    """samples: float32 [channels, samples] in [-1, 1]; rate in Hz."""

    samples: np.ndarray
    rate: int
    facts: Facts
    finish: FinishReason = "stop"


@dataclass(frozen=True)
class Video(Artifact):
    """frames: uint8 [T, H, W, C] at `fps` frames a second."""

    frames: np.ndarray
    fps: float
    facts: Facts
    finish: FinishReason = "stop"
    audio: Audio | None = None


@dataclass(frozen=True)
class Embedding(Artifact):
    """vectors: float32 [texts, D], each of length one."""

    vectors: np.ndarray
    facts: Facts
    finish: FinishReason = "stop"
