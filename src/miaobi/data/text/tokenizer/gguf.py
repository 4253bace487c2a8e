"""The tokenizer inside a GGUF file, rebuilt so that text prepared with it fits that
model token for token.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Regex, decoders, models, pre_tokenizers
from tokenizers import Tokenizer as Backend

from miaobi.core import gguf
from miaobi.core.errors import NotFound, Unsupported
from miaobi.core.language import say
from miaobi.data.text.tokenizer import QWEN2, Tokenizer, pretrained

LLAMA3 = QWEN2.replace(r"|\p{N}|", r"|\p{N}{1,3}|")
CONTROL, USER_DEFINED = 3, 4


def from_gguf(path: Path) -> Tokenizer:
    """Raises NotFound; Damaged for a cut-off file; Unsupported for vocabularies that
    are not byte-level BPE.
    """
    if not path.is_file():
        raise NotFound(
            say(f"There is no file {path}.", f"文件 {path} 不存在。"),
            say("Check the path.", "请检查路径。"),
        )
    metadata = gguf.read(path).metadata

    def value(key: str, default: Any = None) -> Any:
        return metadata.get(f"tokenizer.ggml.{key}", default)

    if value("model") != "gpt2":
        raise Unsupported(
            say(
                f"{path} has a {value('model')} vocabulary, not byte-level BPE.",
                f"{path} 的词表是 {value('model')}，不是字节级 BPE。",
            ),
            say(
                "Give the folder of the original model, with tokenizer.json.",
                "请给出原模型的文件夹（含 tokenizer.json）。",
            ),
        )
    tokens, kinds = value("tokens"), value("token_type")
    special = {
        token
        for token, kind in zip(tokens, kinds, strict=True)
        if kind in (CONTROL, USER_DEFINED)
    }
    backend = Backend(
        models.BPE(
            vocab={token: place for place, token in enumerate(tokens)},
            merges=[tuple(merge.split(" ", 1)) for merge in value("merges")],
        )
    )
    backend.pre_tokenizer, backend.decoder = (
        word_rule(value("pre", "default"), path),
        decoders.ByteLevel(),
    )
    backend.add_special_tokens(
        [
            AddedToken(token, special=True, normalized=False)
            for token in tokens
            if token in special
        ]
    )
    return pretrained(backend, path.stem, tokens[value("eos_token_id")], path)


def word_rule(rule: str, path: Path) -> pre_tokenizers.PreTokenizer:
    """How llama.cpp cuts words for the rule of this name (src/llama-vocab.cpp). Raises
    Unsupported for one that is not known.
    """
    gpt2 = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    plain = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    if rule in ("gpt-2", "default"):
        return gpt2
    if rule == "smollm":
        return pre_tokenizers.Sequence(
            [pre_tokenizers.Digits(individual_digits=True), gpt2]
        )
    if rule in ("qwen2", "llama-bpe"):
        return pre_tokenizers.Sequence(
            [
                pre_tokenizers.Split(
                    Regex(QWEN2 if rule == "qwen2" else LLAMA3), "isolated"
                ),
                plain,
            ]
        )
    raise Unsupported(
        say(
            f"{path} cuts words by the rule {rule!r}, which is not known here.",
            f"{path} 使用的分词规则 {rule!r} 此处不支持。",
        ),
        say(
            "Give the folder of the original model, with tokenizer.json.",
            "请给出原模型的文件夹（含 tokenizer.json）。",
        ),
    )
