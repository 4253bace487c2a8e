"""A model's tokenizer: encodes prompts, spells single tokens, and makes detokenizers."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from miaobi.engines.text.detokenizer import (
    ByteDetokenizer,
    Detokenizer,
    WindowDetokenizer,
    byte_level_table,
    sentencepiece_table,
)
from miaobi.models.control_tokens import ControlTokens

if TYPE_CHECKING:
    import tokenizers


class Tokenizer:
    """A `tokenizers.Tokenizer` (a tokenizer.json), as the text engines use it."""

    def __init__(self, tokenizer: tokenizers.Tokenizer) -> None:
        self.tokenizer = tokenizer
        tokenizer.no_padding()
        tokenizer.no_truncation()

    @classmethod
    def from_file(cls, path: Path) -> Tokenizer:
        import tokenizers

        return cls(tokenizers.Tokenizer.from_file(str(path)))

    def encode(self, text: str, special: bool) -> list[int]:
        """Return token ids. `special` adds the tokenizer's own special tokens, such as BOS."""
        return list(self.tokenizer.encode(text, add_special_tokens=special).ids)

    @cached_property
    def table(self) -> list[bytes] | None:
        """The bytes of every token; None where the decoder is not made of bytes."""
        description = json.loads(self.tokenizer.to_str())
        return _byte_table(description, self.tokenizer)

    @cached_property
    def control_tokens(self) -> ControlTokens:
        """What it reads as control tokens wherever a text spells them."""
        added = self.tokenizer.get_added_tokens_decoder().values()
        return ControlTokens.among({token.content: token.special for token in added})

    def detokenizer(self) -> Detokenizer:
        """Return a detokenizer for one answer."""
        if self.table is not None:
            return ByteDetokenizer(self.table)
        anchor = self.tokenizer.encode("a", add_special_tokens=False).ids[-1]
        return WindowDetokenizer(self._decode, anchor)

    def _decode(self, ids: list[int]) -> str:
        return str(self.tokenizer.decode(ids, skip_special_tokens=True))

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of token ids, control tokens as they are written."""
        return str(self.tokenizer.decode(list(ids), skip_special_tokens=False))

    def spell(self, token: int) -> bytes:
        """Return the bytes of one token; a control token's are its name.

        Embeddings may have more rows than the vocabulary has tokens; such a row is b"".
        """
        if self.table is not None and token < len(self.table) and self.table[token]:
            return self.table[token]
        return self.decode([token]).encode()


def _byte_table(
    description: Mapping[str, Any], tokenizer: tokenizers.Tokenizer
) -> list[bytes] | None:
    """The bytes of every token for byte-level and SentencePiece-like decoders.

    Args:
        description: The content of the tokenizer.json.
        tokenizer: The same, open.

    Returns None for other decoders (WordPiece, ...).
    """
    decoder = description.get("decoder") or {}
    steps = [decoder, *decoder.get("decoders", ())]
    kinds = {step["type"] for step in steps if "type" in step}
    if "ByteLevel" in kinds:
        make_table = byte_level_table
    elif kinds & {"ByteFallback", "Metaspace"}:
        make_table = sentencepiece_table
    else:
        return None
    vocabulary = tokenizer.get_vocab()
    pieces = [""] * (max(vocabulary.values()) + 1)
    for piece, token in vocabulary.items():
        pieces[token] = piece
    added_tokens = tokenizer.get_added_tokens_decoder()
    control = {token for token, added in added_tokens.items() if added.special}
    return make_table(pieces, control)
