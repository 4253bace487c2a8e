"""A model's tokens as text: encoding a prompt, spelling a token, and the table of bytes
that streaming reads.
"""

from __future__ import annotations

import json
from functools import cached_property
from pathlib import Path
from typing import Any

from miaobi.engines.text.streaming import (
    ByteDetokenizer,
    Detokenizer,
    WindowDetokenizer,
    byte_level_table,
    sentencepiece_table,
)


class Words:
    """A `tokenizers.Tokenizer` (a tokenizer.json)."""

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        tokenizer.no_padding()
        tokenizer.no_truncation()

    @classmethod
    def from_file(cls, path: Path) -> Words:
        from tokenizers import Tokenizer

        return cls(Tokenizer.from_file(str(path)))

    def encode(self, text: str, special: bool) -> list[int]:
        """Token ids; `special` lets the tokenizer add its own first token, where it has one."""
        return list(self.tokenizer.encode(text, add_special_tokens=special).ids)

    @cached_property
    def table(self) -> list[bytes] | None:
        """The bytes of every token, where the tokenizer's decoder is of a kind that has such."""
        return byte_table(json.loads(self.tokenizer.to_str()), self.tokenizer)

    def detokenizer(self) -> Detokenizer:
        if self.table is not None:
            return ByteDetokenizer(self.table)
        anchor = self.tokenizer.encode("a", add_special_tokens=False).ids[-1]
        return WindowDetokenizer(
            lambda ids: self.tokenizer.decode(ids, skip_special_tokens=True), anchor
        )

    def spell(self, token: int) -> str:
        """One token as text, for reports; U+FFFD stands for a part of a character."""
        if self.table is not None and self.table[token]:
            return self.table[token].decode("utf-8", errors="replace")
        return str(self.tokenizer.decode([token], skip_special_tokens=False))


def byte_table(described: dict[str, Any], tokenizer: Any) -> list[bytes] | None:
    """From a tokenizer.json: byte-level and SentencePiece-like decoders, None for any
    other (WordPiece, ...).
    """
    decoder = described.get("decoder") or {}
    kinds = {
        step["type"]
        for step in [decoder, *decoder.get("decoders", ())]
        if "type" in step
    }
    make = (
        byte_level_table
        if "ByteLevel" in kinds
        else (sentencepiece_table if kinds & {"ByteFallback", "Metaspace"} else None)
    )
    if make is None:
        return None
    pieces = [""] * (max(tokenizer.get_vocab().values()) + 1)
    for piece, token in tokenizer.get_vocab().items():
        pieces[token] = piece
    control = {
        token
        for token, added in tokenizer.get_added_tokens_decoder().items()
        if added.special
    }
    return make(pieces, control)
