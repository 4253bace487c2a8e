"""Tokenizers made here: a character vocabulary from counts, or a BPE trained on text.

A character vocabulary is the BPE whose merges build exactly its characters: for one of
the bytes b1 b2 b3 the merges (b1, b2) and (b1b2, b3). Merges never cross characters, so
every engine sees one token for a character of the vocabulary, and the bytes of any
other.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from tokenizers import AddedToken, decoders, models, processors, trainers
from tokenizers import Tokenizer as Backend

from miaobi.core.errors import BadInput, Unsupported
from miaobi.core.language import say
from miaobi.data.text.tokenizer.byte_level import (
    END_OF_TEXT,
    LETTERS,
    SPECIALS,
    Tokenizer,
    slices,
    with_end_of_text,
    word_splitter,
)

LAST_ASCII = 0x7F
ALPHABET = [LETTERS[byte] for byte in range(256)]


def characters(counts: Mapping[str, int], min_frequency: int) -> Tokenizer:
    """Return the character tokenizer of a text with these character counts.

    Characters that occur less than `min_frequency` times are spelled in bytes.
    """
    vocabulary = sorted(
        char
        for char, count in counts.items()
        if count >= min_frequency and ord(char) > LAST_ASCII
    )
    tokens = {token: number for number, token in enumerate([*SPECIALS, *ALPHABET])}
    merges = list[tuple[str, str]]()
    for char in vocabulary:
        letters = [LETTERS[byte] for byte in char.encode()]
        for end in range(1, len(letters)):
            left, right = "".join(letters[:end]), letters[end]
            if left + right not in tokens:
                tokens[left + right] = len(tokens)
                merges.append((left, right))
    return _finished(Backend(models.BPE(vocab=tokens, merges=merges)), "char")


def train_bpe(texts: Iterable[str], vocab_size: int) -> Tokenizer:
    """Train a byte-level BPE (Sennrich et al. 2016, arXiv:1508.07909) with `vocab_size`
    tokens, or fewer for a small text.
    """
    smallest = 256 + len(SPECIALS)
    if vocab_size < smallest:
        raise BadInput(
            say(
                f"vocab_size is {vocab_size}; the 256 bytes and "
                f"{len(SPECIALS)} special tokens need {smallest}.",
                f"vocab_size 为 {vocab_size}；256 个字节加 {len(SPECIALS)} 个特殊词元至少需要 {smallest}。",
            ),
            say("Give 1000 to 50000.", "请给出 1000 到 50000 之间的值。"),
        )
    backend = Backend(models.BPE())
    backend.pre_tokenizer = word_splitter()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        min_frequency=2,
        special_tokens=list(SPECIALS),
        show_progress=False,
        initial_alphabet=ALPHABET,
    )
    parts = (part for text in texts for part in slices(text))
    backend.train_from_iterator(parts, trainer)
    return _finished(backend, "bpe")


def extended(tokenizer: Tokenizer, specials: Sequence[str]) -> Tokenizer:
    """Return a tokenizer with further special tokens behind its vocabulary, which get
    the next numbers in this order.
    """
    backend = Backend.from_str(tokenizer.backend.to_str())
    backend.add_special_tokens(
        [AddedToken(token, special=True, normalized=False) for token in specials]
    )
    return replace(tokenizer, backend=backend)


def with_specials(
    tokenizer: Tokenizer,
    specials: Sequence[str],
    roles: Mapping[str, str],
    *,
    single: str,
    pair: str,
) -> Tokenizer:
    """Return a tokenizer with further special tokens behind its vocabulary.

    Args:
        tokenizer: stays as it is
        specials: the tokens; they get the next numbers, in this order
        roles: Transformers' names of some of them, such as mask_token
        single: how Transformers puts a text between them: "[CLS] $A [SEP]"
        pair: the same for two texts

    Raises Unsupported where the vocabulary has one of them already.
    """
    for token in specials:
        if tokenizer.backend.token_to_id(token) is not None:
            raise Unsupported(
                say(
                    f"The tokenizer {tokenizer.name} has a token {token} already.",
                    f"分词器 {tokenizer.name} 已有词元 {token}。",
                ),
                say("Use tokenizer: char or bpe.", "请使用 tokenizer: char 或 bpe。"),
            )
    backend = extended(tokenizer, specials).backend
    named = [*specials, str(backend.id_to_token(tokenizer.end_id))]
    backend.post_processor = processors.TemplateProcessing(
        single=single,
        pair=pair,
        special_tokens=[(token, backend.token_to_id(token)) for token in named],
    )
    return replace(tokenizer, backend=backend, roles=roles)


def _finished(backend: Backend, name: str) -> Tokenizer:
    backend.pre_tokenizer = word_splitter()
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens(
        [AddedToken(token, special=True, normalized=False) for token in SPECIALS]
    )
    return with_end_of_text(backend, name, END_OF_TEXT, Path(name))
