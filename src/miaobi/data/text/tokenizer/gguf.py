"""The tokenizer inside a GGUF file, rebuilt so that text prepared with it fits that
model token for token.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tokenizers import AddedToken, decoders, models, pre_tokenizers
from tokenizers import Tokenizer as Backend

from miaobi.core import gguf
from miaobi.core.errors import NotFound, Unsupported
from miaobi.core.language import say
from miaobi.data.text.tokenizer.byte_level import (
    QWEN2,
    Tokenizer,
    with_end_of_text,
    word_splitter,
)

LLAMA3 = QWEN2.replace(r"|\p{N}|", r"|\p{N}{1,3}|")
SPECIAL_TYPES = (3, 4)
"""Token types of GGUF: control and user-defined."""


def from_gguf(path: Path) -> Tokenizer:
    """Open the tokenizer of a GGUF file.

    Raises NotFound; Damaged for a cut-off file; Unsupported for vocabularies that are
    not byte-level BPE.
    """
    if not path.is_file():
        raise NotFound(
            say(f"There is no file {path}.", f"文件 {path} 不存在。"),
            say("Check the path.", "请检查路径。"),
        )
    metadata = gguf.read(path).metadata
    if _value(metadata, "model") != "gpt2":
        raise Unsupported(
            say(
                f"{path} has a {_value(metadata, 'model')} vocabulary, not byte-level BPE.",
                f"{path} 的词表是 {_value(metadata, 'model')}，不是字节级 BPE。",
            ),
            _give_the_folder(),
        )
    tokens = _value(metadata, "tokens")
    types = _value(metadata, "token_type")
    special = {
        token
        for token, kind in zip(tokens, types, strict=True)
        if kind in SPECIAL_TYPES
    }
    vocabulary = {token: number for number, token in enumerate(tokens)}
    merges = [tuple(merge.split(" ", 1)) for merge in _value(metadata, "merges")]
    backend = Backend(models.BPE(vocab=vocabulary, merges=merges))
    rule = metadata.get("tokenizer.ggml.pre", "default")
    backend.pre_tokenizer = pre_tokenizer_of(rule, path)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens(
        [
            AddedToken(token, special=True, normalized=False)
            for token in tokens
            if token in special
        ]
    )
    eos_token = tokens[_value(metadata, "eos_token_id")]
    return with_end_of_text(backend, path.stem, eos_token, path)


def _value(metadata: dict[str, Any], key: str) -> Any:
    return metadata.get(f"tokenizer.ggml.{key}")


def pre_tokenizer_of(rule: str, path: Path) -> pre_tokenizers.PreTokenizer:
    """Return how llama.cpp cuts words for the rule of this name (src/llama-vocab.cpp).

    Raises Unsupported for a rule that is not supported here; the error names `path`.
    """
    gpt2 = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    if rule in ("gpt-2", "default"):
        return gpt2
    if rule == "smollm":
        digits = pre_tokenizers.Digits(individual_digits=True)
        return pre_tokenizers.Sequence([digits, gpt2])
    if rule == "qwen2":
        return word_splitter(QWEN2)
    if rule == "llama-bpe":
        return word_splitter(LLAMA3)
    raise Unsupported(
        say(
            f"{path} cuts words by the rule {rule!r}, which is not supported here.",
            f"{path} 使用的分词规则 {rule!r} 此处不支持。",
        ),
        _give_the_folder(),
    )


def _give_the_folder() -> str:
    return say(
        "Give the folder of the original model, with tokenizer.json.",
        "请给出原模型的文件夹（含 tokenizer.json）。",
    )
