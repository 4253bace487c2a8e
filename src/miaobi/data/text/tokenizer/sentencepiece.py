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
from typing import Any

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

PIECES, NORMALIZER_FIELDS, CHARSMAP = 1, (2, 3), 2
"""Field numbers. The normalizer stands in field 3 today and stood in field 2 once."""


def transformers_tokenizer(path: Path) -> Any:
    """Text -> <s> pieces </s>; a pair -> <s> first </s> <s> second </s>. Raises Damaged."""
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
    backend.normalizer = normalizers.Sequence(
        [
            *([normalizers.Precompiled(charsmap)] if charsmap else []),
            normalizers.Strip(),
            normalizers.Replace(Regex(" {2,}"), " "),
        ]
    )
    backend.pre_tokenizer = pre_tokenizers.Metaspace(
        prepend_scheme="always", split=False
    )
    backend.decoder = decoders.Metaspace(prepend_scheme="always", split=False)
    unknown, start, end = (pieces[place][0] for place in range(3))
    backend.post_processor = processors.TemplateProcessing(
        single=f"{start} $A {end}",
        pair=f"{start} $A {end} {start} $B:1 {end}:1",
        special_tokens=[(start, 1), (end, 2)],
    )
    backend.add_special_tokens(
        [
            AddedToken(token, special=True, normalized=False)
            for token in (unknown, start, end)
        ]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        unk_token=unknown,
        bos_token=start,
        eos_token=end,
        pad_token=end,
    )


def _read(data: bytes) -> tuple[list[tuple[str, float]], bytes]:
    """(piece, log probability) in order, and the replacement table."""
    pieces, charsmap = list[tuple[str, float]](), b""
    for field, value in _fields(data):
        if field == PIECES:
            inner = dict(_fields(value))
            pieces.append(
                (
                    inner[1].decode(),
                    struct.unpack("<f", inner[2])[0] if 2 in inner else 0.0,
                )
            )
        elif field in NORMALIZER_FIELDS:
            charsmap = next(
                (
                    inner
                    for number, inner in _fields(value)
                    if number == CHARSMAP and len(inner) > 1000
                ),
                charsmap,
            )
    return pieces, charsmap


def _fields(data: bytes) -> Iterator[tuple[int, bytes]]:
    """(number, content) of the fields of a message; numbers of variable length come as b""."""
    at = 0
    while at < len(data):
        key, at = _varint(data, at)
        kind = key & 7
        if kind == 0:
            size, (_, at) = 0, _varint(data, at)
        elif kind == 2:
            size, at = _varint(data, at)
        else:
            size = {1: 8, 5: 4}[kind]
        if at + size > len(data):
            raise IndexError
        yield key >> 3, data[at : at + size]
        at += size


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value, shift = 0, 0
    while data[at] & 0x80:
        value, shift, at = value | (data[at] & 0x7F) << shift, shift + 7, at + 1
    return value | data[at] << shift, at + 1
