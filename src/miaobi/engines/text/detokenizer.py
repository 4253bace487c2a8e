"""From token ids to text, whole characters at a time.

Shared by the engines that hand out token ids (native, openvino). Knows nothing of models.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Callable, Iterable, Sequence, Set
from functools import cache
from typing import Protocol

REPLACEMENT = "\ufffd"

MAX_STALLED = 4
"""Tokens that a character may span at most; an end that is broken for longer stays so."""


class Detokenizer(Protocol):
    """Turns the token ids of one answer into text."""

    def push(self, token: int) -> str:
        """Return the characters that this token completes; "" while one is unfinished."""
        ...

    def flush(self) -> str:
        """Return what is left at the end, without a character that the end cut short."""
        ...


class ByteDetokenizer:
    """For vocabularies whose tokens are byte strings.

    `table[token]` is the token's bytes, b"" for control tokens.
    """

    def __init__(self, table: Sequence[bytes]) -> None:
        self.table = table
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def push(self, token: int) -> str:
        if token >= len(self.table):
            return ""
        return self._decoder.decode(self.table[token])

    def flush(self) -> str:
        self._decoder.reset()
        return ""


class WindowDetokenizer:
    """For any `decode(ids) -> str`: decodes the tokens since the last whole character.

    They are decoded behind `anchor`, a token whose text does not change with what
    follows, so that the space before a first word is not lost.
    """

    def __init__(self, decode: Callable[[list[int]], str], anchor: int) -> None:
        self.decode = decode
        self.anchor = anchor
        self._anchor_length = len(decode([anchor]))
        self._pending: list[int] = []
        self._whole_length = 0
        self._stalled = 0

    def push(self, token: int) -> str:
        self._pending.append(token)
        text = self._decode_pending()
        whole_length = len(text.rstrip(REPLACEMENT))
        if whole_length > self._whole_length:
            self._stalled = 0
        else:
            self._stalled += 1
        self._whole_length = whole_length
        if text.endswith(REPLACEMENT) and self._stalled < MAX_STALLED:
            return ""
        self._clear()
        return text

    def flush(self) -> str:
        text = self._decode_pending() if self._pending else ""
        self._clear()
        return text.rstrip(REPLACEMENT)

    def _decode_pending(self) -> str:
        return self.decode([self.anchor, *self._pending])[self._anchor_length :]

    def _clear(self) -> None:
        self._pending.clear()
        self._whole_length = 0
        self._stalled = 0


@cache
def byte_of_character() -> dict[str, int]:
    """The byte of each printable stand-in of byte-level BPE.

    As GPT-2's `bytes_to_unicode` (Radford et al. 2019), turned round.
    """
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    table = {chr(byte): byte for byte in printable}
    for index, byte in enumerate(others):
        table[chr(256 + index)] = byte
    return table


def byte_level_table(pieces: Iterable[str], control: Set[int]) -> list[bytes]:
    """The bytes of each byte-level BPE piece, b"" for control tokens.

    Added tokens that are not written in the byte alphabet stand as they are.
    """
    alphabet = byte_of_character()

    def to_bytes(piece: str) -> bytes:
        if all(character in alphabet for character in piece):
            return bytes(alphabet[character] for character in piece)
        return piece.encode()

    return _table(pieces, control, to_bytes)


_BYTE = re.compile(r"<0x([0-9A-Fa-f]{2})>")


def sentencepiece_table(pieces: Iterable[str], control: Set[int]) -> list[bytes]:
    """The bytes of each SentencePiece piece, b"" for control tokens.

    ▁ is a space, <0xE6> a byte (Kudo and Richardson 2018, arXiv:1808.06226).
    """

    def to_bytes(piece: str) -> bytes:
        match = _BYTE.fullmatch(piece)
        if match is not None:
            return bytes([int(match[1], 16)])
        return piece.replace("▁", " ").encode()

    return _table(pieces, control, to_bytes)


def _table(
    pieces: Iterable[str], control: Set[int], to_bytes: Callable[[str], bytes]
) -> list[bytes]:
    return [
        b"" if token in control else to_bytes(piece)
        for token, piece in enumerate(pieces)
    ]
