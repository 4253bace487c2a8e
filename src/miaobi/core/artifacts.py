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
    """U+FFFD stands for a part of a character; `bytes` are true."""
    logprob: float
    top_logprobs: tuple[TokenLogprob, ...] = ()
    """Likeliest first, without any of their own."""
    part: bytes | None = None
    """The token's bytes, where they are no whole characters."""

    @classmethod
    def of(
        cls, token: bytes, logprob: float, top_logprobs: tuple[TokenLogprob, ...] = ()
    ) -> Self:
        """Return the entry of a token with these bytes."""
        text = token.decode("utf-8", errors="replace")
        part = None if text.encode() == token else token
        return cls(text, logprob, top_logprobs, part)

    @property
    def bytes(self) -> bytes:
        """The token's bytes."""
        return self.token.encode() if self.part is None else self.part


@dataclass
class Parts:
    """What has come of one answer so far."""

    texts: list[str] = field(default_factory=list)
    logprobs: list[TokenLogprob] = field(default_factory=list)
    pieces: list[Artifact] = field(default_factory=list)
    whole: Artifact | None = None
    finish: FinishReason = "cancelled"
    """Until the answer has ended."""


class Artifact:
    """What a model makes. Each kind is a frozen dataclass with these two fields.

    A kind says how it comes of an answer's parts (`of_parts`, `join`) and how people
    look at it in the log of a run (`as_text`, `as_pixels`).
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

    @classmethod
    def of_parts(cls, parts: Parts, facts: Facts, index: int) -> Self | None:
        """Return answer number `index`, from 0, of a request; None where none has come.

        Its facts are those of the request with what only the engine knew, and the seed
        with which n=1 makes it again.
        """
        artifact = parts.whole
        if artifact is None and parts.pieces:
            artifact = cls.join(cast(Sequence[Self], parts.pieces))
        if artifact is None:
            return None
        own_facts = replace(
            facts,
            seed=(facts.seed or 0) + index,
            parameters={**facts.parameters, **artifact.facts.parameters},
        )
        return cast(Self, artifact.labelled(own_facts, parts.finish))

    def as_text(self) -> str | None:
        """Return it as a text to read; None for a kind that is not read."""
        return None

    def as_pixels(self) -> np.ndarray | None:
        """Return it as a picture to look at, uint8 [H, W, C]; None for other kinds."""
        return None


@dataclass(frozen=True)
class Text(Artifact):
    text: str
    facts: Facts
    finish: FinishReason = "stop"
    logprobs: tuple[TokenLogprob, ...] = ()

    def __str__(self) -> str:
        return self.text

    @classmethod
    def of_parts(cls, parts: Parts, facts: Facts, index: int) -> Self:
        """Return the text so far; the n texts of a request share its seed."""
        return cls("".join(parts.texts), facts, parts.finish, tuple(parts.logprobs))

    def as_text(self) -> str:
        return self.text


@dataclass(frozen=True)
class Image(Artifact):
    """pixels: uint8 [H, W, C], C = 1 for grey and 3 for colour."""

    pixels: np.ndarray
    facts: Facts
    finish: FinishReason = "stop"

    def as_pixels(self) -> np.ndarray:
        return self.pixels


@dataclass(frozen=True)
class Audio(Artifact):
    """samples: float32 [samples] or [channels, samples] in [-1, 1]; rate in Hz."""

    samples: np.ndarray
    rate: int
    facts: Facts
    finish: FinishReason = "stop"

    @property
    def seconds(self) -> float:
        return int(self.samples.shape[-1]) / self.rate

    @classmethod
    def join(cls, pieces: Sequence[Self]) -> Self:
        """Return the pieces of one sound, in their order, as one; they share a rate."""
        import numpy as np

        samples = np.concatenate([piece.samples for piece in pieces], axis=-1)
        return replace(pieces[0], samples=samples)


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
