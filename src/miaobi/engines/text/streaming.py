"""From tokens to text that may be shown at once: whole characters only, and never a
part of a stop string.

Shared by the engines that hand out token ids (native, openvino). Knows nothing of models.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Callable, Iterable, Sequence
from functools import cache
from typing import Protocol

REPLACEMENT = "\ufffd"


class Detokenizer(Protocol):
    """Turns the token ids of one answer into text, whole characters at a time."""

    def push(self, token: int) -> str:
        """The characters that this token completes; "" while one is unfinished."""
        ...

    def flush(self) -> str:
        """What is left at the end, without a character that the end cut short."""
        ...


class ByteDetokenizer:
    """For vocabularies whose tokens are byte strings; `table[token]` is its bytes, b""
    for control tokens.
    """

    def __init__(self, table: Sequence[bytes]) -> None:
        self.table = table
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def push(self, token: int) -> str:
        return (
            self._decoder.decode(self.table[token]) if token < len(self.table) else ""
        )

    def flush(self) -> str:
        self._decoder.reset()
        return ""


class WindowDetokenizer:
    """For any `decode(ids) -> str`: decodes the tokens since the last whole character
    behind a known first token.
    """

    def __init__(self, decode: Callable[[list[int]], str], anchor: int) -> None:
        self.decode, self.anchor = decode, anchor
        self._lead = len(decode([anchor]))
        self._pending: list[int] = []
        self._whole, self._stalled = 0, 0

    def push(self, token: int) -> str:
        self._pending.append(token)
        text = self._text()
        whole = len(text.rstrip(REPLACEMENT))
        self._stalled = 0 if whole > self._whole else self._stalled + 1
        self._whole = whole
        # A character spans at most four tokens; what still looks broken after as many
        # is broken.
        if text.endswith(REPLACEMENT) and self._stalled < 4:
            return ""
        return self._taken()

    def _text(self) -> str:
        return self.decode([self.anchor, *self._pending])[self._lead :]

    def flush(self) -> str:
        return self._taken().rstrip(REPLACEMENT)

    def _taken(self) -> str:
        text = self._text() if self._pending else ""
        self._pending.clear()
        self._whole = self._stalled = 0
        return text


@cache
def byte_of_character() -> dict[str, int]:
    """The printable stand-ins of byte-level BPE (Radford et al. 2019, GPT-2's
    `bytes_to_unicode`).
    """
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    rest = [byte for byte in range(256) if byte not in plain]
    return {chr(byte): byte for byte in plain} | {
        chr(256 + i): byte for i, byte in enumerate(rest)
    }


def byte_level_table(pieces: Iterable[str], control: set[int]) -> list[bytes]:
    """Bytes of each byte-level BPE piece. Added tokens that are not in the byte
    alphabet stand as they are.
    """
    alphabet = byte_of_character()
    return [
        b""
        if i in control
        else bytes(alphabet[c] for c in piece)
        if all(c in alphabet for c in piece)
        else piece.encode()
        for i, piece in enumerate(pieces)
    ]


_BYTE = re.compile(r"<0x([0-9A-Fa-f]{2})>")


def sentencepiece_table(pieces: Iterable[str], control: set[int]) -> list[bytes]:
    """Bytes of each SentencePiece piece: ▁ is a space, <0xE6> a byte (Kudo and
    Richardson 2018, arXiv:1808.06226).
    """

    def to_bytes(piece: str) -> bytes:
        match = _BYTE.fullmatch(piece)
        return bytes([int(match[1], 16)]) if match else piece.replace("▁", " ").encode()

    return [b"" if i in control else to_bytes(piece) for i, piece in enumerate(pieces)]


class StopText:
    """Cuts an answer before the first stop string, holding back text that may begin one."""

    def __init__(self, stops: Sequence[str]) -> None:
        self.stops = stops
        self.stopped = False
        self._held = ""

    def push(self, text: str) -> str:
        """The part of the text so far that is safe to show; sets `stopped` when a stop
        string has come.
        """
        if self.stopped or not self.stops:
            return "" if self.stopped else text
        self._held += text
        found = [at for at in (self._held.find(stop) for stop in self.stops) if at >= 0]
        if found:
            self.stopped = True
            shown, self._held = self._held[: min(found)], ""
            return shown
        keep = max(self._overlap(stop) for stop in self.stops)
        shown = self._held[: len(self._held) - keep]
        self._held = self._held[len(self._held) - keep :]
        return shown

    def _overlap(self, stop: str) -> int:
        """Length of the longest end of the held text that begins `stop`."""
        longest = min(len(self._held), len(stop) - 1)
        return next(
            (
                size
                for size in range(longest, 0, -1)
                if stop.startswith(self._held[-size:])
            ),
            0,
        )

    def flush(self) -> str:
        shown, self._held = self._held, ""
        return shown


class TextStream:
    """One answer on its way from token ids to showable text."""

    def __init__(self, detokenizer: Detokenizer, stops: Sequence[str] = ()) -> None:
        self._detokenizer, self._stop = detokenizer, StopText(stops)

    @property
    def stopped(self) -> bool:
        return self._stop.stopped

    def push(self, token: int) -> str:
        return self._stop.push(self._detokenizer.push(token))

    def finish(self) -> str:
        """The rest, once the answer has ended by itself or by its length."""
        if self.stopped:
            return ""
        return self._stop.push(self._detokenizer.flush()) + self._stop.flush()
