"""A unigram SentencePiece model file as a Transformers tokenizer, without the
sentencepiece library.

The file is a protocol buffer (sentencepiece_model.proto): pieces with their log
probabilities, and a table of character replacements (nmt_nfkc). Of its fields only
these two are read.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from tokenizers import (
    AddedToken,
    Regex,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
)
from tokenizers import Tokenizer as Backend

from miaobi.core.errors import Damaged
from miaobi.core.language import say

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

PIECES, NORMALIZER_FIELDS, CHARSMAP = 1, (2, 3), 2
"""Field numbers. The normalizer is field 3 today and was field 2 once."""
SMALLEST_CHARSMAP = 1000
"""Bytes: in the old field 2 shorter values are something else."""
VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5
"""Wire types of protocol buffers."""


def transformers_tokenizer(path: Path) -> PreTrainedTokenizerFast:
    """Return a tokenizer that makes <s> pieces </s> of a text, and
    <s> first </s> <s> second </s> of a pair. Raises Damaged.
    """
    from transformers import PreTrainedTokenizerFast

    try:
        pieces, charsmap = _read(path.read_bytes())
    except (IndexError, struct.error, UnicodeDecodeError):
        raise Damaged(
            say(
                f"{path} is not a whole SentencePiece model.",
                f"{path} 不是完整的 SentencePiece 模型。",
            ),
            say("Fetch it again.", "请重新获取。"),
        ) from None
    backend = Backend(models.Unigram(pieces, unk_id=0, byte_fallback=False))
    replacements = [normalizers.Precompiled(charsmap)] if charsmap else []
    backend.normalizer = normalizers.Sequence(
        [
            *replacements,
            normalizers.Strip(),
            normalizers.Replace(Regex(" {2,}"), " "),
        ]
    )
    backend.pre_tokenizer = pre_tokenizers.Metaspace(
        prepend_scheme="always", split=False
    )
    backend.decoder = decoders.Metaspace(prepend_scheme="always", split=False)
    unk, bos, eos = (piece for piece, _ in pieces[:3])
    backend.post_processor = processors.TemplateProcessing(
        single=f"{bos} $A {eos}",
        pair=f"{bos} $A {eos} {bos} $B:1 {eos}:1",
        special_tokens=[(bos, 1), (eos, 2)],
    )
    backend.add_special_tokens(
        [AddedToken(token, special=True, normalized=False) for token in (unk, bos, eos)]
    )
    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]  # theirs
        tokenizer_object=backend,
        unk_token=unk,
        bos_token=bos,
        eos_token=eos,
        pad_token=eos,
    )


def _read(data: bytes) -> tuple[list[tuple[str, float]], bytes]:
    """(piece, log probability) in order, and the replacement table."""
    pieces = list[tuple[str, float]]()
    charsmap = b""
    for field, value in _fields(data):
        if field == PIECES:
            inner = dict(_fields(value))
            score = struct.unpack("<f", inner[2])[0] if 2 in inner else 0.0
            pieces.append((inner[1].decode(), score))
        elif field in NORMALIZER_FIELDS:
            charsmap = _charsmap(value) or charsmap
    return pieces, charsmap


def _charsmap(normalizer: bytes) -> bytes:
    for field, value in _fields(normalizer):
        if field == CHARSMAP and len(value) > SMALLEST_CHARSMAP:
            return value
    return b""


def _fields(data: bytes) -> Iterator[tuple[int, bytes]]:
    """(number, content) of the fields of a message; numbers of variable length come as b""."""
    at = 0
    while at < len(data):
        key, at = _varint(data, at)
        wire_type = key & 7
        if wire_type == VARINT:
            _, at = _varint(data, at)
            size = 0
        elif wire_type == BYTES:
            size, at = _varint(data, at)
        else:
            size = {FIXED64: 8, FIXED32: 4}[wire_type]
        if at + size > len(data):
            raise IndexError
        yield key >> 3, data[at : at + size]
        at += size


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """A number of variable length at a position, and the position behind it."""
    value, shift = 0, 0
    while data[at] & 0x80:
        value |= (data[at] & 0x7F) << shift
        shift += 7
        at += 1
    return value | data[at] << shift, at + 1
