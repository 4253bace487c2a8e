"""One answer in pieces: its text outside of calls, and its calls, as they come."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from miaobi.core.artifacts import FinishReason, TokenLogprob
from miaobi.core.engine import Chunk
from miaobi.serve.text.tools import Call, Kit, Reader


@dataclass(frozen=True)
class Piece:
    text: str
    calls: Sequence[Call] = ()
    """Whole; they come after the text."""
    logprobs: tuple[TokenLogprob, ...] = ()
    finish: FinishReason | None = None


class Pieces:
    """Reads the calls out of an answer."""

    def __init__(self, kit: Kit, only_one: bool) -> None:
        self._reader = Reader(kit, only_one) if kit.tools else None

    @property
    def called(self) -> int:
        """Calls so far."""
        return self._reader.called if self._reader else 0

    def read(self, chunk: Chunk) -> Piece:
        """Return what a chunk brings."""
        if self._reader is None:
            return Piece(chunk.text, (), chunk.logprobs, chunk.finish)
        text, calls = self._reader.push(chunk.text)
        if chunk.finish:
            rest, late = self._reader.finish()
            text += rest
            calls += late
        return Piece(text, calls, chunk.logprobs, chunk.finish)
